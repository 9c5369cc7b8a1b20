// The ledger's files: whatever bytes they hold, reading them ends no process; what can be read
// comes back the same when it is written again; a start over them recovers something, the next
// start over the same files the same, and so does the start after a life that wrote what recovery
// asks for.
//
// An input is a byte of flags, then files: u8 name, u16 length, bytes (see put_files).
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/check.h"
#include "billing/bytes.h"
#include "billing/ledger_test_rig.h"

namespace llmproxy {
namespace {

constexpr uint8_t kSmallBlocks = 1, kRepairs = 2, kIsOther = 4;

// Checksums are what a fuzzer never guesses.
void put_crc(std::string& bytes, size_t offset, size_t from, size_t end, uint32_t before = 0) {
  put_number(bytes, offset, crc32c(std::string_view(bytes).substr(from, end - from), before));
}

uint32_t number_at(const std::string& bytes, size_t offset) {
  return ByteReader(std::string_view(bytes).substr(offset)).number<uint32_t>();
}

void repair_group(std::string& bytes, size_t begin, size_t end) {
  for (size_t at = begin + GroupBuilder::kHeadBytes; at + 20 <= end;) {
    const size_t next = at + 20 + number_at(bytes, at);
    if (next > end) break;
    put_crc(bytes, at + 4, at + 8, next);
    at = next;
  }
  put_crc(bytes, begin + 8, begin + 12, end);
}

void repair_segment(std::string& bytes) {
  if (bytes.size() < 24) return;
  const size_t length = number_at(bytes, 16);
  if (length >= 24 && length <= bytes.size()) {
    put_crc(bytes, 20, 24, length, crc32c(std::string_view(bytes).substr(8, 12)));
  }
  for (size_t at = 0; at + GroupBuilder::kHeadBytes <= bytes.size(); at += 512) {
    const size_t size = number_at(bytes, at + 4);
    const bool is_group = std::string_view(bytes).substr(at).starts_with("GRP\x1a");
    if (is_group && size >= GroupBuilder::kHeadBytes && size <= bytes.size() - at)
      repair_group(bytes, at, at + size);
  }
}

void repair_side(std::string& bytes) {
  if (bytes.size() < 28) return;
  const uint64_t length = ByteReader(std::string_view(bytes).substr(16)).number<uint64_t>();
  if (length <= bytes.size() - 28) put_crc(bytes, 24, 28, 28 + length);
}

std::string name_of(uint8_t selector) {
  constexpr uint8_t kNumbers = 16;
  if (selector < kNumbers) return segment_name(selector);
  if (selector == kNumbers) return "side";
  if (selector == kNumbers + 1) return segment_name(~uint64_t{0});
  return selector % 2 == 0 ? "side.new" : "quarantine-side";
}

void put_files(SimulatedDisk& disk, std::string_view input, bool repairs) {
  ByteReader in(input);
  while (!in.is_at_end() && in.ok()) {
    const std::string name = name_of(in.number<uint8_t>());
    const auto length = in.number<uint16_t>();
    std::string bytes(in.take(length));
    if (!in.ok()) return;
    if (repairs) name == "side" ? repair_side(bytes) : repair_segment(bytes);
    disk.put(name, bytes);
  }
}

void check_parts(std::string_view input) {
  const HeaderRead header = read_header(input);
  if (header.state == HeaderRead::State::kOk) {
    std::string bytes;
    append_header(bytes, header.header);
    LLMPROXY_CHECK(read_header(bytes).header == header.header);
  }
  for (const size_t block : {512u, 4096u}) {
    const GroupRead group = read_group(input, block);
    LLMPROXY_CHECK(group.state != GroupRead::State::kMore || group.size > input.size());
    for (const FramedRecord& framed : group.records) (void)read_record(framed.type, framed.payload);
  }
  for (uint8_t type = 0; type < 10; ++type) {
    const std::optional<Record> record = read_record(type, input);
    if (!record) continue;
    std::string bytes;
    append_record(bytes, *record);  // its reason may have been longer than is written
    LLMPROXY_CHECK(bytes.size() <= input.size() && read_record(type, bytes).has_value());
  }
  LedgerState state;
  if (state.read_side_file(input)) {
    LedgerState again;
    LLMPROXY_CHECK(again.read_side_file(state.side_file()));
    LLMPROXY_CHECK(again.side_file() == state.side_file());
  }
}

void check_same(const Recovered& found, const Recovered& again) {
  LLMPROXY_CHECK(again.first == found.first);
  LLMPROXY_CHECK(again.mark == found.mark && again.backlog == found.backlog);
  LLMPROXY_CHECK(again.billed == found.billed && again.unresolved == found.unresolved);
  LLMPROXY_CHECK(again.start.state.last_sequence() == found.start.state.last_sequence());
  LLMPROXY_CHECK(again.start.state.side_file() == found.start.state.side_file());
}

void check_recovery(std::string_view input, uint8_t flags) {
  const size_t block = (flags & kSmallBlocks) != 0 ? 512 : 4096;
  const RecoveryOptions options{(flags & kIsOther) != 0 ? "other" : "db", false};
  rig::LogRig rig(1, block);
  put_files(rig.disk, input, (flags & kRepairs) != 0);
  const Result<Recovered> found = rig.recover(options);
  if (!found) {
    LLMPROXY_CHECK(found.error().status == 70 || found.error().status == 78);
    return;
  }
  const Result<Recovered> again = rig.recover(options);
  LLMPROXY_CHECK(again.ok());
  check_same(*found, *again);

  rig.directory.reset();
  rig.start(options);
  while (rig.commit() == 0) rig.chores();
  LLMPROXY_CHECK(!rig.log->has_pending() && rig.log->state().open().empty());
  rig.commit(true);
  rig.chores();
  const uint64_t last = rig.log->durable_sequence();
  const std::string side = rig.log->state().side_file();
  rig.kill();
  const Result<Recovered> next = rig.recover(options);
  LLMPROXY_CHECK(next.ok() && next->first.empty());
  // Lost sequences are settled once their segments are gone.
  LLMPROXY_CHECK(next->backlog == found->backlog && next->mark >= found->mark);
  LLMPROXY_CHECK(next->start.state.last_sequence() == last);
  LLMPROXY_CHECK(next->start.state.side_file() == side);
}

}  // namespace
}  // namespace llmproxy

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  llmproxy::check_parts(input);
  if (!input.empty()) llmproxy::check_recovery(input.substr(1), data[0]);
  return 0;
}
