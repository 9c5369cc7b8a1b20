// Reads everything once, oldest first. A group counts when a later one proves that it was durable;
// the last one alone may be unproven. It never asserts on what it reads.
#include "billing/recovery.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <map>
#include <optional>

#include "base/digest.h"
#include "base/text.h"
#include "billing/ledger_reader.h"

namespace llmproxy {
namespace {

constexpr int kStatusConfig = 78;
constexpr int kStatusDisk = 70;
constexpr const char* kSideName = "side";
constexpr size_t kSideBytesMax = size_t{256} << 20;
constexpr size_t kBlockBytesMin = 512;
constexpr size_t kFirstRead = size_t{64} << 10;  // most headers; every block size divides it

Error disk_error(std::string_view what, int error) {
  return {.status = kStatusDisk, .message = fmt::format("ledger: {}: {}", what, errno_text(error))};
}

class Recovery {
 public:
  Recovery(Directory& directory, const RecoveryOptions& options)
      : directory_(directory), options_(options), quarantine_(directory) {}
  Result<Recovered> run();

 private:
  struct Found {
    SegmentView view;
    SegmentHeader header;
  };
  struct Held {  // the latest group: it counts once a later one says that it was durable
    uint64_t first_sequence = 0;
    uint64_t end_bytes = 0;  // of the group in its segment
    std::vector<Record> records{};
    uint64_t last_sequence() const { return first_sequence + records.size() - 1; }
  };

  std::optional<Error> find_segments();
  std::optional<Error> look_at(uint64_t number, std::vector<std::string>& unused);
  struct Headless {     // a segment without a header
    size_t groups = 0;  // that it holds
    uint64_t size = 0;  // to where there are only zeros
  };

  std::optional<Error> set_aside(uint64_t number, std::shared_ptr<File> file,
                                 std::vector<std::string>& unused);
  Result<HeaderRead> read_header_of(File& file);
  void quarantine_file(const std::string& name, uint64_t size, bool has_lost);
  void quarantine_bytes(const Found& found, uint64_t offset, uint64_t size);
  std::optional<Error> check_instances();
  std::optional<Error> look_at_quarantine(const std::vector<std::string>& names);
  std::optional<Error> read_side();
  std::optional<Error> drop_torn();
  std::optional<Error> set_cutoffs();
  void tell_of_damaged_headers();
  void tell_of_headless(uint64_t number);
  void tell_of_missing_segments();
  void lose(uint64_t first, uint64_t last);
  void enter(Found& found);
  std::optional<Error> replay(Found& found, bool is_last);
  void take_group(const Found& found, const GroupCursor& cursor);
  void expect_until(uint64_t sequence);
  void apply_held();
  void resolve_held(uint64_t durable_before);
  void apply(const Record& record, uint64_t sequence);
  void note_mark(const Record& record) {
    if (const auto* mark = std::get_if<MarkRecord>(&record))
      marked_ = std::max(marked_, mark->sequence);
  }
  LedgerState apply_tail();
  void measure_tail();
  void count_backlog();
  void settle_open(const LedgerState& after);
  std::optional<Error> check_numbers(const LedgerState& after);
  std::optional<Error> check_database(const LedgerState& after);
  void finish();

  Directory& directory_;
  const RecoveryOptions& options_;
  Quarantine quarantine_;
  Recovered result_;
  std::map<uint64_t, Found> found_;
  std::map<uint64_t, Headless> headless_;
  std::map<uint64_t, size_t> set_aside_;  // by a start before, and the groups that they hold
  bool has_lost_segment_ = false;         // and told
  bool has_lost_end_ = false;             // it was the newest: what it held, nobody knows
  uint64_t highest_number_ = 0;
  // The ledger's, also where only a torn segment tells it: that file may stay, or come back.
  std::optional<Nonce> instance_;
  std::optional<Held> held_;
  Found* entered_ = nullptr;     // the segment that is being replayed, and held_ lies in
  uint64_t lost_until_ = 0;      // records up to here may have been lost to damage
  std::deque<uint64_t> events_;  // sequences of events beyond the mark
  uint64_t marked_ = 0;          // by a mark that is still there
};

Result<HeaderRead> Recovery::read_header_of(File& file) {
  std::string bytes;
  for (size_t wanted = kFirstRead;;) {
    bytes.resize(wanted);
    size_t n = 0;
    if (const int error = file.read(0, bytes, n); error != 0)
      return disk_error("a segment cannot be read", error);
    bytes.resize(n);
    HeaderRead read = read_header(bytes);
    if (read.state != HeaderRead::State::kMore || n < wanted || read.size <= wanted) return read;
    wanted = (read.size + kFirstRead - 1) / kFirstRead * kFirstRead;
  }
}

// `has_lost`: it held what was durable. Else a crash left it, and nothing in it counts.
void Recovery::quarantine_file(const std::string& name, uint64_t size, bool has_lost) {
  if (options_.is_survey) return result_.notes.push_back(fmt::format("{} is no segment", name));
  const int error = quarantine_.keep_file(name, size);
  if (error == 0)
    return result_.notes.push_back(fmt::format("{0} is no segment; kept as quarantine-{0}", name));
  const std::string why = error == EDQUOT ? "the quarantine is full" : errno_text(error);
  if (error == EDQUOT && !has_lost) {
    directory_.remove(name);
    return result_.notes.push_back(fmt::format("{} is no segment; removed: {}", name, why));
  }
  result_.notes.push_back(fmt::format("{} is no segment, and stays: {}", name, why));
}

// Bytes that are no group: a write that a crash cut short, or damage.
void Recovery::quarantine_bytes(const Found& found, uint64_t offset, uint64_t size) {
  const Damage damage{found.view.number, offset, size, result_.start.state.last_sequence()};
  std::string bytes;
  int error = read_bytes(*found.view.file, offset, size, bytes);
  const bool is_zero = std::all_of(bytes.begin(), bytes.end(), [](char c) { return c == 0; });
  if (error == 0 && is_zero) return result_.start.kept.push_back(damage);
  if (options_.is_survey) {
    result_.notes.push_back(fmt::format("{} bytes at {} of {} are no whole group", size, offset,
                                        segment_name(found.view.number)));
    return;
  }
  const std::string name = Quarantine::name_of(found.view.number, offset);
  if (error == 0) error = quarantine_.keep_bytes(name, bytes);
  (error == 0 || error == EDQUOT ? result_.start.kept : result_.start.unkept).push_back(damage);
  const std::string why = error == EDQUOT ? "the quarantine is full" : errno_text(error);
  result_.notes.push_back(
      fmt::format("{} bytes at {} of {} are no whole group; {}{}", size, offset,
                  segment_name(found.view.number),
                  error == 0 ? "kept as " : "not kept: ", error == 0 ? name : why));
}

std::optional<Error> Recovery::look_at(uint64_t number, std::vector<std::string>& unused) {
  using State = HeaderRead::State;
  const std::string name = segment_name(number);
  highest_number_ = std::max(highest_number_, number);
  std::unique_ptr<File> file;
  if (const int error = directory_.open(name, file); error != 0) return disk_error(name, error);
  Result<HeaderRead> read = read_header_of(*file);
  if (!read) return read.error();
  if (read->state == State::kNewer) {
    return Error{
        .status = kStatusConfig,
        .message = fmt::format(
            "ledger: {} was written by a newer version of this program; run that version's "
            "`ledger ship --all` first, or go back to it",
            name)};
  }
  if (read->state != State::kOk || read->header.number != number)
    return set_aside(number, std::move(file), unused);
  Found found;
  found.header = std::move(read->header);
  found.view = {.number = number,
                .first_sequence = found.header.first_sequence,
                .last_sequence = UINT64_MAX,
                .header_bytes = read->size,
                .block_bytes = found.header.block_bytes,
                .file = std::move(file)};
  found_.emplace(number, std::move(found));
  return std::nullopt;
}

// Without a header it is a spare if it is all zeros; anything else is kept.
std::optional<Error> Recovery::set_aside(uint64_t number, std::shared_ptr<File> file,
                                         std::vector<std::string>& unused) {
  const std::string name = segment_name(number);
  GroupCursor cursor(std::move(file), kBlockBytesMin, 0);
  Headless headless;
  for (;;) {
    const GroupRead::State state = cursor.next();
    if (cursor.error() != 0) return disk_error(name, cursor.error());
    headless.size = cursor.offset();
    if (state == GroupRead::State::kEnd) break;
    if (state == GroupRead::State::kOk) ++headless.groups;
  }
  if (headless.size == 0) {
    unused.push_back(name);
  } else {
    headless_.emplace(number, headless);
  }
  return std::nullopt;
}

// The newest header says which segments count: another ledger's would take these for removed ones.
std::optional<Error> Recovery::check_instances() {
  if (!found_.empty()) instance_ = found_.begin()->second.header.instance;
  for (const auto& [number, found] : found_) {
    if (found.header.instance == instance_) continue;
    return Error{
        .status = kStatusConfig,
        .message = fmt::format(
            "ledger: {} and {} are of two ledgers. Nothing was changed. Move the segments of one "
            "into another directory, and send its events by `ledger ship DIR`",
            segment_name(found_.begin()->first), segment_name(number))};
  }
  return std::nullopt;
}

// A start that found the header of the newest segment damaged put that into the quarantine, and may
// have ended before it wrote anything: this one must find the same.
std::optional<Error> Recovery::look_at_quarantine(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (!name.starts_with(Quarantine::kPrefix)) continue;
    const auto number = segment_number(name.substr(Quarantine::kPrefix.size()));
    if (!number) continue;
    if (!found_.empty() && *number < found_.rbegin()->first) continue;
    std::unique_ptr<File> file;
    if (const int error = directory_.open(name, file); error != 0) return disk_error(name, error);
    GroupCursor cursor(std::move(file), kBlockBytesMin, 0);
    size_t groups = 0;
    for (GroupRead::State state = cursor.next(); state != GroupRead::State::kEnd;
         state = cursor.next()) {
      if (cursor.error() != 0) return disk_error(name, cursor.error());
      groups += state == GroupRead::State::kOk ? 1 : 0;
    }
    highest_number_ = std::max(highest_number_, *number);
    set_aside_.emplace(*number, groups);
  }
  return std::nullopt;
}

std::optional<Error> Recovery::find_segments() {
  std::vector<std::string> names, unused;
  if (const int error = directory_.list(names); error != 0)
    return disk_error("its directory", error);
  std::vector<uint64_t> numbers;
  for (const std::string& name : names) {
    if (const auto number = segment_number(name)) numbers.push_back(*number);
    if (name.ends_with(".new")) unused.push_back(name);
  }
  std::sort(numbers.begin(), numbers.end());
  for (const uint64_t number : numbers) {
    if (auto error = look_at(number, unused)) return error;
  }
  if (auto error = check_instances()) return error;
  if (auto error = look_at_quarantine(names)) return error;
  if (options_.is_survey) return std::nullopt;
  for (const std::string& name : unused) {
    if (const int error = directory_.remove(name); error != 0 && error != ENOENT)
      return disk_error(name, error);
  }
  if (!unused.empty()) {
    if (const int error = directory_.sync(); error != 0) return disk_error("its directory", error);
  }
  return std::nullopt;
}

std::optional<Error> Recovery::read_side() {
  std::string bytes;
  const int error = read_file(directory_, kSideName, kSideBytesMax, bytes);
  if (error == ENOENT) return std::nullopt;
  if (error != 0) return disk_error("the file `side`", error);
  if (!result_.start.state.read_side_file(bytes)) {
    result_.alarms.push_back(
        "the file `side` is damaged: unresolved and dead events that only it knew are in the "
        "quarantine");
    quarantine_file(kSideName, bytes.size(), true);
  }
  return std::nullopt;
}

// A header goes out with its segment's first group, and counts with it alone: it cuts off groups
// that the first one repeats. So the newest segment that counts is the newest whose first group is
// whole.
std::optional<Error> Recovery::drop_torn() {
  while (!found_.empty()) {
    const Found& newest = found_.rbegin()->second;
    GroupCursor cursor(newest.view.file, newest.view.block_bytes, newest.view.header_bytes);
    if (cursor.next() == GroupRead::State::kOk) return std::nullopt;
    // Groups behind it: it was whole, and is damaged.
    if (cursor.error() == 0 && cursor.next() == GroupRead::State::kOk) return std::nullopt;
    if (cursor.error() != 0) return disk_error(segment_name(newest.view.number), cursor.error());
    quarantine_file(segment_name(newest.view.number), cursor.offset(), false);
    found_.erase(std::prev(found_.end()));
  }
  return std::nullopt;
}

// The newest header names all segments that were there, with what counts in each. Others have come
// back: their removal was not durable.
std::optional<Error> Recovery::set_cutoffs() {
  if (found_.empty()) return std::nullopt;
  std::map<uint64_t, uint64_t> counts;
  for (const Cutoff& cutoff : found_.rbegin()->second.header.cutoffs)
    counts[cutoff.number] = cutoff.last_sequence;
  for (auto one = found_.begin(); std::next(one) != found_.end();) {
    const auto known = counts.find(one->first);
    if (known != counts.end()) {
      (one++)->second.view.last_sequence = known->second;
      continue;
    }
    const std::string name = segment_name(one->first);
    const int error = options_.is_survey ? 0 : directory_.remove(name);
    if (error != 0 && error != ENOENT) return disk_error(name, error);
    one = found_.erase(one);
  }
  return std::nullopt;
}

// A first write that was torn leaves no header either, but then nothing in it counts.
void Recovery::tell_of_damaged_headers() {
  std::map<uint64_t, uint64_t> counts;
  uint64_t newest = 0;
  if (!found_.empty()) {
    newest = found_.rbegin()->first;
    for (const Cutoff& cutoff : found_.rbegin()->second.header.cutoffs)
      counts[cutoff.number] = cutoff.last_sequence;
  }
  for (const auto& [number, headless] : headless_) {
    const bool has_lost = number < newest ? counts[number] > 0 : headless.groups > 1;
    quarantine_file(segment_name(number), headless.size, has_lost);
    if (!has_lost) continue;
    has_lost_segment_ = true;
    has_lost_end_ |= number > newest;
    tell_of_headless(number);
  }
  for (const auto& [number, groups] : set_aside_) {
    if (number < newest || groups <= 1) continue;
    has_lost_segment_ = has_lost_end_ = true;
    tell_of_headless(number);
  }
}

void Recovery::tell_of_headless(uint64_t number) {
  result_.alarms.push_back(
      fmt::format("{0} held records that were durable, and its header is damaged; bills among them "
                  "must be found by hand, in quarantine-{0}",
                  segment_name(number)));
}

// A segment goes after a mark in a later one, and that one stays until there is another mark.
void Recovery::tell_of_missing_segments() {
  if (found_.empty() || has_lost_segment_) return;
  const SegmentHeader& oldest = found_.begin()->second.header;
  if (oldest.first_sequence - 1 <= marked_) return;
  lose(marked_ + 1, oldest.first_sequence - 1);
  result_.alarms.push_back(fmt::format("records {} to {} are missing: segments before {} are gone",
                                       marked_ + 1, oldest.first_sequence - 1,
                                       segment_name(oldest.number)));
}

void Recovery::apply(const Record& record, uint64_t sequence) {
  LedgerState& state = result_.start.state;
  if (std::holds_alternative<EventRecord>(record)) events_.push_back(sequence);
  const std::string problem = state.apply(record, sequence);
  if (!problem.empty()) result_.alarms.push_back(fmt::format("record {}: {}", sequence, problem));
  note_mark(record);
  while (!events_.empty() && events_.front() <= state.mark()) events_.pop_front();
}

void Recovery::lose(uint64_t first, uint64_t last) {
  std::vector<Gap>& lost = result_.lost;
  if (!lost.empty() && lost.back().last + 1 == first) {
    lost.back().last = last;
  } else {
    lost.push_back({first, last});
  }
}

// Everything up to `sequence` was durable. What of it is not here is lost, and its sequences are
// not used again.
void Recovery::expect_until(uint64_t sequence) {
  LedgerState& state = result_.start.state;
  if (sequence <= state.last_sequence()) return;
  lost_until_ = sequence;
  lose(state.last_sequence() + 1, sequence);
  result_.alarms.push_back(
      fmt::format("records {} to {} are damaged or missing; streams that were open then are "
                  "unresolved, and bills among them must be found by hand",
                  state.last_sequence() + 1, lost_until_));
  state.skip_to(lost_until_);
}

void Recovery::apply_held() {
  LedgerState& state = result_.start.state;
  expect_until(held_->first_sequence - 1);
  for (size_t i = 0; i < held_->records.size(); ++i) {
    const uint64_t sequence = held_->first_sequence + i;
    if (sequence > state.last_sequence()) apply(held_->records[i], sequence);
  }
  entered_->view.end_bytes = held_->end_bytes;
}

// What is held was durable when something else was written after it; or that is the same, written
// again after a failure.
void Recovery::resolve_held(uint64_t durable_before) {
  if (held_ && held_->last_sequence() <= durable_before) apply_held();
  held_.reset();
}

void Recovery::take_group(const Found& found, const GroupCursor& cursor) {
  const GroupRead& group = cursor.group();
  resolve_held(group.durable_before);
  expect_until(group.durable_before);
  Held next{.first_sequence = group.first_sequence, .end_bytes = cursor.offset() + cursor.size()};
  bool is_kept = false;
  for (const FramedRecord& framed : group.records) {
    if (framed.sequence > found.view.last_sequence) break;
    std::optional<Record> record = read_record(framed.type, framed.payload);
    if (!record) {
      result_.alarms.push_back(fmt::format("record {} of {} cannot be read", framed.sequence,
                                           segment_name(found.view.number)));
      lose(framed.sequence, framed.sequence);
      if (!is_kept) quarantine_bytes(found, cursor.offset(), cursor.size());
      is_kept = true;
      record = ClosedRecord{};  // of no id: it keeps the sequence
    }
    next.records.push_back(std::move(*record));
  }
  if (!next.records.empty()) held_ = std::move(next);
}

// A header goes out with the first group, so it proves what was before it even where that group is
// torn.
void Recovery::enter(Found& found) {
  resolve_held(found.header.first_sequence - 1);
  if (!result_.start.state.segments().empty()) expect_until(found.header.first_sequence - 1);
  result_.start.state.add_segment(found.view.number, found.header.first_sequence);
  found.view.end_bytes = found.view.header_bytes;
  entered_ = &found;
}

std::optional<Error> Recovery::replay(Found& found, bool is_last) {
  using State = GroupRead::State;
  enter(found);
  if (found.view.last_sequence == 0) return std::nullopt;
  GroupCursor cursor(found.view.file, found.view.block_bytes, found.view.header_bytes);
  for (;;) {
    const State state = cursor.next();
    if (state == State::kEnd) return std::nullopt;
    if (state == State::kOk) {
      if (cursor.group().first_sequence > found.view.last_sequence)
        return std::nullopt;  // written again
      take_group(found, cursor);
      continue;
    }
    if (cursor.error() != 0) {
      return disk_error(
          fmt::format("{} cannot be read at {}", segment_name(found.view.number), cursor.offset()),
          cursor.error());
    }
    const uint64_t last = held_ ? held_->last_sequence() : result_.start.state.last_sequence();
    const bool is_cut_off = !is_last && last >= found.view.last_sequence;
    if (!is_cut_off) quarantine_bytes(found, cursor.offset(), cursor.size());
  }
}

// What there is once the tail is written again.
LedgerState Recovery::apply_tail() {
  LedgerState after = result_.start.state;
  if (!result_.first.empty()) {
    uint64_t sequence = after.last_sequence();
    after.add_segment(highest_number_ + 1, sequence + 1);
    for (Record& record : result_.first) {
      const std::string problem = after.apply(record, ++sequence);
      if (!problem.empty()) {
        result_.alarms.push_back(fmt::format("record {}: {}", sequence, problem));
        record = ClosedRecord{};  // who appends it would end the process
      }
      note_mark(record);
      result_.backlog += std::holds_alternative<EventRecord>(record) ? 1 : 0;
    }
  }
  result_.mark = after.mark();
  return after;
}

// Only files that we did not write hold one that takes more than a group when it is written again.
void Recovery::measure_tail() {
  size_t bytes = GroupBuilder::kHeadBytes;
  std::string payload;
  for (const Record& record : result_.first) {
    payload.clear();
    append_record(payload, record);
    bytes += GroupBuilder::framed_size(payload.size());
  }
  if (result_.first.empty() || bytes > kGroupBytesMax) return;
  result_.start.tail = result_.first.size();
  result_.start.tail_bytes = bytes;
}

void Recovery::count_backlog() {
  while (!events_.empty() && events_.front() <= result_.mark) events_.pop_front();
  result_.backlog += events_.size();
}

// Never free, and never from a running figure that may not be billed.
void Recovery::settle_open(const LedgerState& after) {
  std::map<ObjectId, const LedgerState::Open*> open;  // in an order that is always the same
  for (const auto& [id, one] : after.open()) open.emplace(id, &one);
  for (const auto& [id, one] : open) {
    const Intent& intent = one->record.intent;
    const bool is_lost = has_lost_end_ || one->sequence <= lost_until_;
    const bool has_figure =
        one->progress && (one->progress->is_final || one->record.may_bill_running);
    if (has_figure && !is_lost) {
      Event event{.id = id,
                  .date_created = intent.time,
                  .user_id = intent.user_id,
                  .api_key_id = intent.api_key_id,
                  .model = intent.model,
                  .prompt_n = one->progress->figure.prompt_n,
                  .completion_n = one->progress->figure.completion_n};
      result_.first.emplace_back(EventRecord{std::move(event), Origin::kRecovered});
      ++result_.billed;
      ++result_.backlog;
    } else {
      const char* const reason =
          is_lost ? "its outcome may be in damaged records" : "the proxy ended before it did";
      // Not twice: who appends it would end the process.
      if (after.unresolved().contains(id)) result_.first.emplace_back(ClosedRecord{id});
      result_.first.emplace_back(UnresolvedRecord{intent, intent.time, reason});
      ++result_.unresolved;
    }
  }
}

// No ledger gets so far by itself.
std::optional<Error> Recovery::check_numbers(const LedgerState& after) {
  const uint64_t sequence = after.last_sequence();
  if (highest_number_ <= kSegmentNumberMax / 2 && sequence <= kSequenceMax / 2) return std::nullopt;
  return Error{.status = kStatusDisk,
               .message = fmt::format("ledger: segment {} or record {} is beyond what any ledger "
                                      "reaches: its files were changed or damaged. Move them away "
                                      "to start anew, and find their bills by hand.",
                                      highest_number_, sequence)};
}

// Before anything is written: what waits for one database never goes to another.
std::optional<Error> Recovery::check_database(const LedgerState& after) {
  const std::string& last = found_.rbegin()->second.header.database;
  const bool is_empty = result_.backlog == 0 && result_.unresolved == 0 &&
                        after.unresolved().empty() && after.dead().empty();
  if (last == options_.database || is_empty || options_.may_retarget) return std::nullopt;
  return Error{
      .status = kStatusConfig,
      .message = fmt::format(
          "ledger: {} events wait for the database {}, and db.uri names {}. Start with the "
          "old db.uri until they are shipped, or say `ledger retarget`.",
          result_.backlog, last, options_.database)};
}

void Recovery::finish() {
  LedgerLog::Start& start = result_.start;
  start.next_segment = highest_number_ + 1;
  start.header.block_bytes = static_cast<uint32_t>(directory_.block_bytes());
  start.header.database = options_.database;
  random_bytes(start.header.boot);
  if (instance_) {
    start.header.instance = *instance_;
  } else {
    random_bytes(start.header.instance);
  }
  for (auto& [number, found] : found_) {
    found.view.last_sequence = start.state.segments().at(number).last_sequence;
    start.views.push_back(found.view);
  }
}

Result<Recovered> Recovery::run() {
  if (auto error = find_segments()) return *error;
  if (auto error = read_side()) return *error;
  if (auto error = drop_torn()) return *error;
  if (auto error = set_cutoffs()) return *error;
  tell_of_damaged_headers();
  for (auto& [number, found] : found_) {
    if (auto error = replay(found, number == found_.rbegin()->first)) return *error;
  }
  if (held_ && held_->last_sequence() > result_.start.state.last_sequence()) {
    expect_until(held_->first_sequence - 1);
    result_.first = std::move(held_->records);
  }
  LedgerState after = apply_tail();
  measure_tail();
  if (auto error = check_numbers(after)) return *error;
  tell_of_missing_segments();
  count_backlog();
  if (options_.is_survey) {
    finish();
    if (!found_.empty()) result_.start.header.database = found_.rbegin()->second.header.database;
    result_.start.state = std::move(after);
    return std::move(result_);
  }
  settle_open(after);
  if (!found_.empty()) {
    if (auto error = check_database(after)) return *error;
  }
  finish();
  return std::move(result_);
}

}  // namespace

Result<Recovered> recover_ledger(Directory& directory, const RecoveryOptions& options) {
  return Recovery(directory, options).run();
}

}  // namespace llmproxy
