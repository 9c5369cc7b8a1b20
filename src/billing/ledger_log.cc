// Rules and their reasons: docs/ledger.md.
#include "billing/ledger_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"

namespace llmproxy {
namespace {

constexpr const char* kSideName = "side";

uint64_t rounded_up(uint64_t size, uint64_t block) {
  return (size + block - 1) / block * block;
}

bool is_empty(const SegmentView& view) {
  return view.last_sequence < view.first_sequence;
}

LedgerLog::Settings sized(LedgerLog::Settings settings, uint64_t block_bytes) {
  settings.segment_bytes =
      std::max(settings.segment_bytes, LedgerLog::kSegmentBlocksMin * block_bytes);
  return settings;
}

}  // namespace

LedgerLog::LedgerLog(Directory& directory, Settings settings, Start start)
    : directory_(directory),
      settings_(sized(settings, start.header.block_bytes)),
      group_bytes_max_(std::min<size_t>(kGroupBytesMax, settings_.segment_bytes / 4)),
      state_(std::move(start.state)),
      header_(std::move(start.header)),
      next_segment_(start.next_segment),
      tail_(start.tail),
      tail_bytes_(start.tail_bytes),
      mark_to_write_(state_.mark()),
      quarantine_(directory) {
  for (const Damage& damage : start.kept) kept_.emplace(damage.segment, damage.offset);
  for (SegmentView& view : start.views) {
    Segment segment;
    segment.view = view;
    view.file->size(segment.size);
    segment.is_cut = segment.size <= view.end_bytes;
    add_closed(std::move(segment));
  }
  for (const Damage& damage : start.unkept) quarantine(damage);
}

// Room.

// An intent and an outcome, each perhaps alone in a group, and a copy of the intent among others.
size_t LedgerLog::room_for(size_t record_bytes) const {
  const size_t framed = GroupBuilder::framed_size(record_bytes);
  return 2 * static_cast<size_t>(
                 rounded_up(GroupBuilder::kHeadBytes + framed, header_.block_bytes)) +
         framed;
}

bool LedgerLog::reserve(size_t room) {
  if (is_failing_ || reserved_ + room > bytes_available()) return false;
  reserved_ += room;
  return true;
}

void LedgerLog::give_back(size_t room) {
  LLMPROXY_CHECK(room <= reserved_);
  reserved_ -= room;
}

size_t LedgerLog::header_room() const {
  constexpr size_t kFixed = 512;  // all but the database's name and the numbers
  const size_t numbers = 16 * (state_.segments().size() + spares_.size() + 2);
  return static_cast<size_t>(
      rounded_up(kFixed + header_.database.size() + numbers, header_.block_bytes));
}

// A group that does not fit in the rest goes to the next segment.
uint64_t LedgerLog::usable(const Segment& segment) const {
  const uint64_t taken = std::max<uint64_t>(segment.used(), header_room()) + group_bytes_max_;
  return segment.size > taken ? segment.size - taken : 0;
}

uint64_t LedgerLog::bytes_available() const {
  uint64_t bytes = current_ ? usable(*current_) : 0;
  for (const Segment& spare : spares_) bytes += usable(spare);
  return bytes;
}

uint64_t LedgerLog::bytes_used() const {
  uint64_t bytes = current_ ? current_->size : 0;
  for (const Segment& spare : spares_) bytes += spare.size;
  for (const Segment& segment : failed_) bytes += segment.size;
  for (const auto& [number, segment] : closed_)
    bytes += segment.is_cut ? segment.used() : segment.size;
  return bytes;
}

bool LedgerLog::is_ready() const {
  return spares_.size() + (current_ ? 1 : 0) > kSparesMin;
}

// Of the next spare: any group of ours fits, and the tail of the life before.
uint64_t LedgerLog::spare_bytes() const {
  const uint64_t group = std::max(group_bytes_max_, tail_bytes_);
  const uint64_t needed = header_room() + rounded_up(group, header_.block_bytes);
  return std::max(settings_.segment_bytes, needed + header_.block_bytes);
}

bool LedgerLog::wants_spare() const {
  // What is owed goes somewhere in a full log, too, one segment at a time: without a mark none
  // would ever go. It may be full beyond its bound: max_bytes was made smaller.
  const bool has_place = !spares_.empty() || (current_ && usable(*current_) > 0);
  if (!has_place) return true;
  if (has_many_segments()) return false;
  const bool is_low = !is_ready() || spares_.size() < kSparesMin + kSparesAhead ||
                      bytes_available() < reserved_ + kSparesMin * settings_.segment_bytes;
  return is_low && bytes_used() + spare_bytes() <= settings_.max_bytes / 100 * kFullPercent;
}

// Appending.

void LedgerLog::Pending::push_back(Append&& append) {
  if (begin_ > all_.size() / 2) {
    all_.erase(all_.begin(), begin());
    begin_ = 0;
  }
  all_.push_back(std::move(append));
}

LedgerLog::Append LedgerLog::Pending::take_front() {
  Append taken = std::move(all_[begin_++]);
  if (!empty()) return taken;
  begin_ = 0;
  all_.clear();
  if (all_.capacity() > kKeptMax) all_.shrink_to_fit();
  return taken;
}

void LedgerLog::append(std::span<Append> appends) {
  pending_.reserve(appends.size());
  for (Append& one : appends) pending_.push_back(std::move(one));
}

void LedgerLog::set_mark(uint64_t sequence) {
  LLMPROXY_CHECK(sequence <=
                 state_.last_sequence());  // I4: nothing is settled before it is durable (I3)
  mark_to_write_ = std::max(mark_to_write_, sequence);
}

void LedgerLog::quarantine(const Damage& damage) {
  const bool is_here =
      closed_.contains(damage.segment) || (current_ && current_->view.number == damage.segment);
  if (is_here && kept_.emplace(damage.segment, damage.offset).second) unkept_.push_back(damage);
}

bool LedgerLog::has_unkept(uint64_t segment) const {
  return std::any_of(unkept_.begin(), unkept_.end(),
                     [&](const Damage& damage) { return damage.segment == segment; });
}

uint64_t LedgerLog::mark_wanted() const {
  uint64_t mark = mark_to_write_;
  for (const Damage& damage : unkept_) mark = std::min(mark, damage.after);
  return mark;
}

// The oldest segment could go, were it not for its open intents.
bool LedgerLog::has_settled_work() const {
  const LedgerState::Segment* const settled = state_.find_settled();
  return settled != nullptr && settled->open > 0;
}

// A mark frees a segment only from a later one (I5).
bool LedgerLog::needs_mark() const {
  if (mark_wanted() > state_.mark()) return true;
  if (state_.segments().size() < 2 || !current_) return false;
  const LedgerState::Segment& oldest = state_.segments().begin()->second;
  return oldest.last_sequence <= state_.mark() && state_.mark_segment() <= oldest.number &&
         oldest.last_sequence >= oldest.first_sequence;
}

bool LedgerLog::has_upkeep() const {
  return needs_mark() || has_settled_work();
}

void LedgerLog::add_to_group(Append&& append) {
  scratch_.clear();
  append_record(scratch_, append.record);
  builder_.add(record_type(append.record), scratch_);
  group_.push_back(std::move(append));
}

void LedgerLog::take_pending() {
  add_to_group(pending_.take_front());
}

bool LedgerLog::has_pending_dead() const {
  return std::any_of(pending_.begin(), pending_.end(), [](const Append& append) {
    return std::holds_alternative<DeadRecord>(append.record);
  });
}

void LedgerLog::fill_group() {
  const size_t most =
      group_bytes_max_ - header_.block_bytes - GroupBuilder::framed_size(kRecordBytesMax);
  for (size_t i = std::min(tail_, pending_.size()); i > 0; --i) take_pending();
  if (group_.empty() && has_settled_work())
    add_copies(pending_.empty() ? most : most / kCopiesPart);
  while (!pending_.empty() && builder_.size() < most) take_pending();
  // Behind the dead ones that it passes.
  has_mark_ = needs_mark() && !has_pending_dead();
  if (has_mark_) add_to_group({MarkRecord{std::max(mark_wanted(), state_.mark())}});
}

// They come before what this group says of an id itself: that is newer, and may close it.
void LedgerLog::add_copies(size_t most) {
  for (Record& copy : state_.copies_of_open(state_.find_settled()->number, kCopiesMax)) {
    // Never between an intent and its progress: what is left behind goes with its segment.
    if (builder_.size() >= most && std::holds_alternative<IntentRecord>(copy)) break;
    add_to_group({std::move(copy)});
  }
  copies_ = group_.size();
}

// Writing.

std::optional<LedgerLog::Write> LedgerLog::begin_write(MonotonicTime now, bool witness) {
  LLMPROXY_CHECK(!is_writing_);
  if (retry_at_ && now < *retry_at_) return std::nullopt;
  if (group_.empty()) fill_group();
  if (group_.empty() && !witness && !is_failing_) return std::nullopt;
  if (!place_group()) return std::nullopt;
  is_writing_ = true;
  const bool is_first = current_->used() == 0;
  const uint64_t sequence = state_.last_sequence();
  const std::string_view group = builder_.seal(sequence + 1, sequence, header_.block_bytes);
  if (!is_first) {
    write_bytes_ = group.size();
    return Write{current_->view.file, current_->used(), group};
  }
  header_.number = current_->view.number;
  header_.first_sequence = sequence + 1;
  header_.cutoffs.clear();
  for (const auto& [number, segment] : closed_) {
    header_.cutoffs.push_back({number, is_empty(segment.view) ? 0 : segment.view.last_sequence});
  }
  for (const Segment& segment : failed_) header_.cutoffs.push_back({segment.view.number, 0});
  std::sort(header_.cutoffs.begin(), header_.cutoffs.end(),
            [](const Cutoff& a, const Cutoff& b) { return a.number < b.number; });
  first_write_.clear();
  append_header(first_write_, header_);
  current_->view.header_bytes = first_write_.size();
  first_write_ += group;
  write_bytes_ = first_write_.size();
  return Write{current_->view.file, 0, first_write_};
}

// Makes current_ a segment that has room for the group in hand.
bool LedgerLog::place_group() {
  const uint64_t needed = rounded_up(builder_.size(), header_.block_bytes);
  if (current_) {
    const uint64_t head = current_->used() == 0 ? header_room() : 0;
    if (current_->used() + head + needed <= current_->size) return true;
    if (spares_.empty()) return false;
    close_current();
  }
  return take_spare();
}

bool LedgerLog::take_spare() {
  if (spares_.empty()) return false;
  current_ = std::move(spares_.front());
  spares_.pop_front();
  return true;
}

void LedgerLog::close_current() {
  Segment segment = std::move(*current_);
  current_.reset();
  if (segment.used() == 0) {
    failed_.push_back(std::move(segment));
    return;
  }
  segment.view.last_sequence = state_.last_sequence();
  add_closed(std::move(segment));
}

void LedgerLog::add_closed(Segment segment) {
  const uint64_t number = segment.view.number;
  if (is_empty(segment.view)) empty_.insert(number);
  closed_.emplace(number, std::move(segment));
}

void LedgerLog::end_write(int error, MonotonicTime now, std::vector<Told>& told) {
  LLMPROXY_CHECK(is_writing_);
  is_writing_ = false;
  if (error != 0) {
    // The same bytes are never tried again in the same place: what is there now, nobody knows.
    last_error_ = error;
    close_current();
    const bool is_hopeless = std::exchange(has_failed_once_, true) || spares_.empty();
    if (is_hopeless) {
      is_failing_ = true;
      retry_at_ = now + settings_.probe_interval;
      give_up(told);
    }
    return;
  }
  if (current_->used() == 0) {
    current_->view.first_sequence = header_.first_sequence;
    state_.add_segment(current_->view.number, header_.first_sequence);
  }
  current_->view.end_bytes += write_bytes_;
  const size_t appended_end = group_.size() - (has_mark_ ? 1 : 0);
  for (size_t i = 0; i < group_.size(); ++i) {
    const std::string problem = state_.apply(group_[i].record, state_.last_sequence() + 1);
    LLMPROXY_CHECK(problem.empty());
    reserved_ -= group_[i].room;
    if (i >= copies_ && i < appended_end) told.push_back({std::move(group_[i]), true});
  }
  if (!group_.empty()) tail_ = tail_bytes_ = 0;  // it is in the first
  clear_group();
  has_failed_once_ = is_failing_ = false;
  retry_at_.reset();
}

// Who can still be told that nothing was recorded is told so; the others' records are written first
// when the disk works again. Copies and marks are made anew.
void LedgerLog::give_up(std::vector<Told>& told) {
  if (has_mark_) group_.pop_back();
  group_.erase(group_.begin(), group_.begin() + static_cast<ptrdiff_t>(copies_));
  Pending kept;
  const auto sort_out = [&](Append& append) {
    if (!append.gives_up) return kept.push_back(std::move(append));
    reserved_ -= append.room;
    told.push_back({std::move(append), false});
  };
  for (Append& append : group_) sort_out(append);
  for (Append& append : pending_) sort_out(append);
  pending_ = std::move(kept);
  clear_group();
}

void LedgerLog::clear_group() {
  group_.clear();
  builder_.clear();
  copies_ = 0;
  has_mark_ = false;
}

// Chores.

std::optional<LedgerLog::Chore> LedgerLog::pick_spare() const {
  if (!wants_spare()) return std::nullopt;
  return Chore{.kind = Chore::Kind::kMakeSpare, .number = next_segment_, .bytes = spare_bytes()};
}

std::optional<LedgerLog::Chore> LedgerLog::pick_removal() const {
  using Kind = Chore::Kind;
  if (!failed_.empty()) return Chore{.kind = Kind::kRemove, .number = failed_.front().view.number};
  // Copies of a tail that was copied again: not before the new copy is durable.
  if (!empty_.empty() && current_ && current_->used() > 0 && !has_unkept(*empty_.begin()))
    return Chore{.kind = Kind::kRemove, .number = *empty_.begin()};
  const LedgerState::Segment* const settled = state_.find_settled();
  if (settled == nullptr || settled->open > 0 || !closed_.contains(settled->number) ||
      has_unkept(settled->number)) {
    return std::nullopt;
  }
  if (!settled->has_side_records) return Chore{.kind = Kind::kRemove, .number = settled->number};
  return Chore{.kind = Kind::kSaveSide, .sequence = state_.last_sequence()};
}

std::optional<LedgerLog::Chore> LedgerLog::pick_cut() const {
  // Not before something is durable behind it: a start copies the last group of the segment before.
  if (!current_ || current_->used() == 0) return std::nullopt;
  for (const auto& [number, segment] : closed_) {
    if (segment.is_cut || has_unkept(number)) continue;
    return Chore{.kind = Chore::Kind::kCut,
                 .number = number,
                 .bytes = segment.used(),
                 .file = segment.view.file};
  }
  return std::nullopt;
}

std::optional<LedgerLog::Chore> LedgerLog::pick_quarantine() const {
  if (unkept_.empty()) return std::nullopt;
  const Damage& damage = unkept_.front();
  const auto closed = closed_.find(damage.segment);
  return Chore{.kind = Chore::Kind::kQuarantine,
               .number = damage.segment,
               .offset = damage.offset,
               .bytes = damage.size,
               .file = (closed == closed_.end() ? *current_ : closed->second).view.file};
}

// What failed comes after all others: a full disk must not keep a segment from going.
std::optional<LedgerLog::Chore> LedgerLog::pick_chore(MonotonicTime now) const {
  if (is_chore_under_way_ || (chore_retry_at_ && now < *chore_retry_at_)) return std::nullopt;
  std::optional<Chore> failed;
  for (const auto pick : {&LedgerLog::pick_spare, &LedgerLog::pick_removal, &LedgerLog::pick_cut,
                          &LedgerLog::pick_quarantine}) {
    std::optional<Chore> chore = (this->*pick)();
    if (chore && chore->kind != failed_kind_) return chore;
    if (chore) failed = std::move(chore);
  }
  return failed;
}

std::optional<LedgerLog::Chore> LedgerLog::next_chore(MonotonicTime now) {
  std::optional<Chore> chore = pick_chore(now);
  if (!chore) return chore;
  is_chore_under_way_ = true;
  chore_retry_at_.reset();
  if (chore->kind == Chore::Kind::kMakeSpare) ++next_segment_;
  if (chore->kind == Chore::Kind::kSaveSide) chore->content = state_.side_file();
  return chore;
}

int LedgerLog::run_quarantine(Chore& chore) {
  std::string bytes;
  if (const int error = read_bytes(*chore.file, chore.offset, chore.bytes, bytes); error != 0)
    return error;
  const std::string name = Quarantine::name_of(chore.number, chore.offset);
  const int error = quarantine_.keep_bytes(name, bytes);
  if (error != 0 && error != EDQUOT) return error;
  chore.content = fmt::format("{} bytes at {} of {} are damaged; {}{}", chore.bytes, chore.offset,
                              segment_name(chore.number), error == 0 ? "kept as " : "not kept: ",
                              error == 0 ? name : "the quarantine is full");
  return 0;
}

int LedgerLog::run_chore(Chore& chore) {
  const std::string name = segment_name(chore.number);
  int error = 0;
  switch (chore.kind) {
    case Chore::Kind::kMakeSpare: {
      std::unique_ptr<File> file;
      error = directory_.create(name, chore.bytes, file);
      chore.file = std::move(file);
      return error != 0 ? error : directory_.sync();
    }
    case Chore::Kind::kCut:
      return chore.file->truncate(chore.bytes);
    case Chore::Kind::kSaveSide:
      return replace_file(directory_, kSideName, chore.content);
    case Chore::Kind::kRemove:
      error = directory_.remove(name);
      return error != 0 && error != ENOENT ? error : directory_.sync();
    case Chore::Kind::kQuarantine:
      return run_quarantine(chore);
  }
  return error;
}

void LedgerLog::end_chore(const Chore& chore, int error, MonotonicTime now) {
  LLMPROXY_CHECK(std::exchange(is_chore_under_way_, false));
  if (error != 0) {
    last_error_ = error;
    chore_retry_at_ = now + settings_.probe_interval;
    failed_kind_ = chore.kind;
    return;
  }
  if (failed_kind_ == chore.kind) failed_kind_.reset();
  switch (chore.kind) {
    case Chore::Kind::kMakeSpare: {
      Segment segment;
      segment.view.number = chore.number;
      segment.view.file = chore.file;
      segment.view.block_bytes = header_.block_bytes;
      segment.size = chore.bytes;
      spares_.push_back(std::move(segment));
      break;
    }
    case Chore::Kind::kCut:
      closed_.at(chore.number).is_cut = true;
      break;
    case Chore::Kind::kSaveSide:
      state_.note_side_file(chore.sequence);
      break;
    case Chore::Kind::kRemove:
      if (!failed_.empty() && failed_.front().view.number == chore.number) {
        failed_.pop_front();
      } else {
        state_.drop_segment(chore.number);
        closed_.erase(chore.number);
        empty_.erase(chore.number);
        std::erase_if(kept_, [&](const auto& place) { return place.first == chore.number; });
      }
      break;
    case Chore::Kind::kQuarantine:
      unkept_.pop_front();
      break;
  }
}

std::vector<SegmentView> LedgerLog::views() const {
  std::vector<SegmentView> views;
  for (const auto& [number, segment] : closed_) views.push_back(segment.view);
  if (current_ && current_->used() > 0) {
    views.push_back(current_->view);
    views.back().last_sequence = state_.last_sequence();
  }
  return views;
}

}  // namespace llmproxy
