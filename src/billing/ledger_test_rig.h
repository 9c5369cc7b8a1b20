// What tests of the ledger share: requests by number, and a log on a simulated disk that is driven
// one step at a time. For tests only.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "billing/ledger_log.h"
#include "billing/ledger_reader.h"
#include "billing/recovery.h"
#include "billing/simulated_disk.h"

namespace llmproxy::rig {

inline ObjectId id(uint16_t number) {
  ObjectId id;
  id.bytes[10] = static_cast<uint8_t>(number >> 8);
  id.bytes[11] = static_cast<uint8_t>(number);
  return id;
}

inline Intent intent(uint16_t number) {
  return {.id = id(number),
          .time = 1'790'000'000'000 + number,
          .user_id = {.text = "user"},
          .api_key_id = "key",
          .model = "model",
          .backend = "backend"};
}

// `filler`: bytes more, for segments that are to be full soon.
inline EventRecord bill(uint16_t number, size_t filler = 0, Origin origin = Origin::kRequest) {
  const Intent from = intent(number);
  return {.event = {.id = from.id,
                    .date_created = from.time + 1'000,
                    .user_id = from.user_id,
                    .api_key_id = from.api_key_id,
                    .model = from.model + std::string(filler, '.'),
                    .prompt_n = number,
                    .completion_n = 2 * number},
          .origin = origin};
}

inline IntentRecord open(uint16_t number, bool may_bill_running = false, size_t filler = 0) {
  IntentRecord one{intent(number), may_bill_running};
  one.intent.model += std::string(filler, '.');
  return one;
}
inline ProgressRecord progress(uint16_t number, int64_t completion_n, bool is_final = false) {
  return {id(number), {7, completion_n}, is_final};
}
inline UnresolvedRecord unresolved(uint16_t number) {
  return {intent(number), 5, "no figure"};
}
inline DeadRecord dead(uint16_t number) {
  return {bill(number).event, "refused", DeadRecord::Kind::kRefused};
}

// One log over lives. Everything is as small as it may be.
class LogRig {
 public:
  using Call = SimulatedDisk::Call;
  using Left = SimulatedDisk::Left;
  static constexpr int kNothing = -1;
  static constexpr uint64_t kSegmentBytes = uint64_t{64} << 10;
  // Of a record that fills a quarter of a segment's group, so that some dozens fill a segment.
  static constexpr size_t kFiller = 3'000;

  explicit LogRig(uint64_t seed = 1, size_t block_bytes = 512) : disk(seed, block_bytes) {}

  Result<Recovered> recover(RecoveryOptions options = {"db", false}) {
    directory.reset();
    directory = disk.open();
    return recover_ledger(*directory, options);
  }
  // A new life: recovery, the segments that new work needs, and what recovery wants written.
  void start(RecoveryOptions options = {"db", false}) {
    found = std::move(*recover(std::move(options)));
    log = std::make_unique<LedgerLog>(*directory, settings, std::move(found.start));
    for (const Record& record : found.first) append(record);
    while (!log->is_ready() && chore() == 0) {
    }
  }
  // The process is gone; what it wrote is there.
  void kill() {
    log.reset();
    directory.reset();
    disk.kill();
  }

  void append(Record record, bool gives_up = false) {
    log->append({.record = std::move(record), .gives_up = gives_up});
  }
  // One write; its errno, or kNothing.
  int commit(bool is_last = false) {
    const auto write = log->begin_write(now, is_last);
    if (!write) return kNothing;
    const int error = write->file->write(write->offset, write->bytes);
    log->end_write(error, now, told);
    return error;
  }
  int commit(Record record) {
    append(std::move(record));
    return commit();
  }
  // One chore; its errno, or kNothing.
  int chore() {
    auto one = log->next_chore(now);
    if (!one) return kNothing;
    last_chore = one->kind;
    const int error = log->run_chore(*one);
    log->end_chore(*one, error, now);
    return error;
  }
  void chores() {
    while (chore() == 0) {
    }
  }
  // Bills from `number` on, a group each, until another segment is written to. The next number.
  uint16_t roll(uint16_t number) {
    if (log->views().empty()) commit(bill(number++, kFiller));
    const uint64_t before = log->views().back().number;
    while (log->views().back().number == before && commit(bill(number, kFiller)) == 0) {
      ++number;
      chores();
    }
    return number;
  }
  // All is settled with the database, in a group of its own.
  void settle_all() {
    log->set_mark(log->durable_sequence());
    commit();
  }
  void fail_writes(uint64_t times, int error = EIO, Left left = Left::kAny) {
    disk.add_fault({.point = {.call = Call::kWrite, .name_end = ".segment"},
                    .error = error,
                    .times = times,
                    .left = left});
  }

  // The bills that a reader finds, by their prompt_n.
  std::vector<int64_t> bills() {
    LedgerReader reader(0);
    std::vector<int64_t> numbers;
    for (bool is_more = true; is_more;) {
      std::vector<LedgerReader::Item> items;
      is_more = reader.read(log->views(), log->durable_sequence(), 100, items);
      for (const LedgerReader::Item& item : items) {
        if (const auto* one = std::get_if<EventRecord>(&item.record))
          numbers.push_back(one->event.prompt_n);
      }
    }
    return numbers;
  }
  std::vector<std::string> files(std::string_view end = ".segment") const {
    std::vector<std::string> names;
    for (const std::string& name : disk.names()) {
      if (name.ends_with(end)) names.push_back(name);
    }
    return names;
  }
  std::string bytes(uint64_t number) const {
    return disk.content(segment_name(number)).value_or("");
  }
  HeaderRead header(uint64_t number) const { return read_header(bytes(number)); }

  SimulatedDisk disk;
  std::unique_ptr<Directory> directory;
  LedgerLog::Settings settings{.max_bytes = 16 * kSegmentBytes, .segment_bytes = kSegmentBytes};
  MonotonicTime now{std::chrono::hours(1)};
  Recovered found;
  std::unique_ptr<LedgerLog> log;
  std::vector<LedgerLog::Told> told;
  LedgerLog::Chore::Kind last_chore{};
};

}  // namespace llmproxy::rig
