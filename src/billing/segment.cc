// Headers and groups to bytes and back. CRC32C by Intel's ISA-L, which takes the instruction where
// there is one.
#include "billing/segment.h"

#include <fmt/format.h>
#include <isa-l/crc.h>

#include <algorithm>
#include <bit>
#include <charconv>

#include "base/check.h"
#include "billing/bytes.h"
#include "billing/record.h"

namespace llmproxy {
namespace {

constexpr std::string_view kHeaderMagic = "llmledg\x1a";
constexpr std::string_view kGroupMagic = "GRP\x1a";
constexpr std::string_view kSuffix = ".segment";
constexpr size_t kNumberDigits = 16;
constexpr size_t kCutoffsMax = 32'768;
constexpr size_t kBlockMin = 512, kBlockMax = 65'536;

// Offsets of what is filled in last.
constexpr size_t kHeaderLengthAt = 16, kHeaderCrcAt = 20, kHeaderFixed = 24;
constexpr size_t kGroupLengthAt = 4, kGroupCrcAt = 8, kGroupCountAt = 12, kGroupFirstAt = 16,
                 kGroupDurableAt = 24;
constexpr size_t kGroupFixed = GroupBuilder::kHeadBytes;
constexpr size_t kRecordCrcAt = 4, kRecordTypeAt = 8, kRecordSequenceAt = 12, kRecordFixed = 20;

size_t padded(size_t size, size_t block_bytes) {
  return (size + block_bytes - 1) / block_bytes * block_bytes;
}

bool is_zero(std::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](char c) { return c == 0; });
}

uint32_t number_at(std::string_view bytes, size_t offset) {
  return ByteReader(bytes.substr(offset)).number<uint32_t>();
}

Nonce read_nonce(ByteReader& in) {
  Nonce nonce{};
  const std::string_view bytes = in.take(nonce.size());
  std::copy(bytes.begin(), bytes.end(), nonce.begin());
  return nonce;
}

void append_nonce(std::string& out, const Nonce& nonce) {
  out.append(reinterpret_cast<const char*>(nonce.data()), nonce.size());
}

}  // namespace

uint32_t crc32c(std::string_view bytes, uint32_t before) {
  auto* const data = reinterpret_cast<unsigned char*>(const_cast<char*>(bytes.data()));
  return ~crc32_iscsi(data, static_cast<int>(bytes.size()), ~before);
}

namespace {

// Of a header of `length` bytes: all but the magic and the checksum itself.
uint32_t header_crc(std::string_view header, size_t length) {
  const size_t fixed = kHeaderMagic.size();
  return crc32c(header.substr(kHeaderFixed, length - kHeaderFixed),
                crc32c(header.substr(fixed, kHeaderCrcAt - fixed)));
}

}  // namespace

std::string segment_name(uint64_t number) {
  return fmt::format("{:016x}{}", number, kSuffix);
}

std::optional<uint64_t> segment_number(std::string_view name) {
  if (name.size() != kNumberDigits + kSuffix.size() || !name.ends_with(kSuffix))
    return std::nullopt;
  uint64_t number = 0;
  const char* const end = name.data() + kNumberDigits;
  const auto [stop, error] = std::from_chars(name.data(), end, number, 16);
  if (error != std::errc() || stop != end || segment_name(number) != name) return std::nullopt;
  if (number > kSegmentNumberMax) return std::nullopt;
  return number;
}

void append_header(std::string& out, const SegmentHeader& header) {
  LLMPROXY_CHECK(header.cutoffs.size() <= kCutoffsMax);
  const size_t begin = out.size();
  out.append(kHeaderMagic);
  append_number(out, kSegmentVersion);
  append_number(out, header.block_bytes);
  out.append(kHeaderFixed - kHeaderLengthAt, '\0');
  append_number(out, header.number);
  append_number(out, header.first_sequence);
  append_nonce(out, header.instance);
  append_nonce(out, header.boot);
  append_text(out, header.database);
  append_number(out, static_cast<uint32_t>(header.cutoffs.size()));
  for (const Cutoff& cutoff : header.cutoffs) {
    append_number(out, cutoff.number);
    append_number(out, cutoff.last_sequence);
  }
  const size_t length = out.size() - begin;
  put_number(out, begin + kHeaderLengthAt, static_cast<uint32_t>(length));
  put_number(out, begin + kHeaderCrcAt, header_crc(std::string_view(out).substr(begin), length));
  out.resize(begin + padded(length, header.block_bytes));
}

HeaderRead read_header(std::string_view bytes) {
  using State = HeaderRead::State;
  HeaderRead read;
  if (bytes.size() < kHeaderFixed) return {.state = State::kMore, .size = kHeaderFixed};
  if (is_zero(bytes.substr(0, std::min(bytes.size(), kBlockMin)))) return {.state = State::kUnused};
  if (!bytes.starts_with(kHeaderMagic)) return read;
  read.header.block_bytes = number_at(bytes, kHeaderMagic.size() + 4);
  const size_t length = number_at(bytes, kHeaderLengthAt);
  const size_t block = read.header.block_bytes;
  if (!std::has_single_bit(block) || block < kBlockMin || block > kBlockMax) return read;
  if (length < kHeaderFixed || length > kHeaderBytesMax) return read;
  read.size = padded(length, block);
  if (bytes.size() < read.size) return {.state = State::kMore, .size = read.size};
  if (header_crc(bytes, length) != number_at(bytes, kHeaderCrcAt)) return read;
  if (number_at(bytes, kHeaderMagic.size()) > kSegmentVersion) return {.state = State::kNewer};
  ByteReader in(bytes.substr(kHeaderFixed, length - kHeaderFixed));
  read.header.number = in.number<uint64_t>();
  read.header.first_sequence = in.number<uint64_t>();
  read.header.instance = read_nonce(in);
  read.header.boot = read_nonce(in);
  read.header.database = in.text();
  const auto count = in.number<uint32_t>();
  for (uint32_t i = 0; i < count && in.ok(); ++i) {
    const auto number = in.number<uint64_t>();
    read.header.cutoffs.push_back({number, in.number<uint64_t>()});
  }
  const uint64_t first = read.header.first_sequence;
  if (in.is_at_end() && first > 0 && first <= kSequenceMax) read.state = State::kOk;
  return read;
}

GroupBuilder::GroupBuilder() {
  clear();
}

void GroupBuilder::clear() {
  bytes_.assign(kGroupMagic);
  bytes_.resize(kGroupFixed);
  count_ = 0;
}

size_t GroupBuilder::framed_size(size_t payload) {
  return kRecordFixed + payload;
}

void GroupBuilder::add(uint8_t type, std::string_view payload) {
  append_number(bytes_, static_cast<uint32_t>(payload.size()));
  append_number(bytes_, uint32_t{0});  // crc
  append_number(bytes_, static_cast<uint32_t>(type));
  append_number(bytes_, uint64_t{0});  // sequence
  bytes_.append(payload);
  ++count_;
}

std::string_view GroupBuilder::seal(uint64_t first_sequence, uint64_t durable_before,
                                    size_t block_bytes) {
  uint64_t sequence = first_sequence;
  size_t at = kGroupFixed;
  for (size_t i = 0; i < count_; ++i) {
    const size_t length = number_at(bytes_, at);
    put_number(bytes_, at + kRecordSequenceAt, sequence++);
    const size_t end = at + kRecordFixed + length;
    put_number(
        bytes_, at + kRecordCrcAt,
        crc32c(std::string_view(bytes_).substr(at + kRecordTypeAt, end - at - kRecordTypeAt)));
    at = end;
  }
  bytes_.resize(at);  // sealed before: without that padding
  put_number(bytes_, kGroupLengthAt, static_cast<uint32_t>(at));
  put_number(bytes_, kGroupCountAt, static_cast<uint32_t>(count_));
  put_number(bytes_, kGroupFirstAt, first_sequence);
  put_number(bytes_, kGroupDurableAt, durable_before);
  put_number(bytes_, kGroupCrcAt, crc32c(std::string_view(bytes_).substr(kGroupCountAt)));
  bytes_.resize(padded(at, block_bytes));
  return bytes_;
}

namespace {

// The records of a group whose own CRC is right.
bool read_records(std::string_view bytes, uint32_t count, GroupRead& group) {
  ByteReader in(bytes);
  for (uint32_t i = 0; i < count; ++i) {
    const auto length = in.number<uint32_t>();
    const auto crc = in.number<uint32_t>();
    const auto type = in.number<uint32_t>();
    const auto sequence = in.number<uint64_t>();
    const std::string_view payload = in.take(length);
    if (!in.ok() || length > kRecordBytesMax || type > 255) return false;
    const char* const covered = payload.data() - (kRecordFixed - kRecordTypeAt);
    if (crc32c({covered, kRecordFixed - kRecordTypeAt + length}) != crc) return false;
    if (sequence != group.first_sequence + i) return false;
    group.records.push_back({static_cast<uint8_t>(type), sequence, payload});
  }
  return in.is_at_end();
}

}  // namespace

GroupRead read_group(std::string_view bytes, size_t block_bytes) {
  using State = GroupRead::State;
  GroupRead group;
  if (bytes.size() < block_bytes) return {.state = State::kMore, .size = block_bytes};
  if (is_zero(bytes.substr(0, block_bytes))) return {.state = State::kEnd};
  if (!bytes.starts_with(kGroupMagic)) return group;
  const size_t length = number_at(bytes, kGroupLengthAt);
  if (length < kGroupFixed || length > kGroupBytesMax) return group;
  group.size = padded(length, block_bytes);
  if (bytes.size() < group.size) return {.state = State::kMore, .size = group.size};
  if (crc32c(bytes.substr(kGroupCountAt, length - kGroupCountAt)) != number_at(bytes, kGroupCrcAt))
    return group;
  ByteReader in(bytes.substr(kGroupCountAt, kGroupFixed - kGroupCountAt));
  const auto count = in.number<uint32_t>();
  group.first_sequence = in.number<uint64_t>();
  group.durable_before = in.number<uint64_t>();
  const bool is_sound = group.first_sequence > 0 && group.first_sequence <= kSequenceMax &&
                        group.durable_before < group.first_sequence;
  if (is_sound && read_records(bytes.substr(kGroupFixed, length - kGroupFixed), count, group)) {
    group.state = State::kOk;
  }
  return group;
}

}  // namespace llmproxy
