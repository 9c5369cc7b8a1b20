// What is written and when a segment goes is LedgerLog's; when and what is sent is Shipper's; what
// a request costs is outcome's. Here they meet.
#include "billing/ledger_core.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "billing/ledger_words.h"

namespace llmproxy {
namespace {

constexpr Milliseconds kUpkeepDelay{1'000};  // a mark waits so long for a group to go with
constexpr Milliseconds kReadAgain{1'000};    // after the disk could not be read
constexpr Milliseconds kProgressInterval{1'000};
constexpr Milliseconds kProgressIntervalFull{10'000};  // above half of the room
constexpr uint64_t kSegmentsWanted = 64;               // of a small ledger, so that some can go
constexpr uint64_t kSegmentBytesMin = uint64_t{64} << 10;
constexpr size_t kRecordFixedBytes = 256 + kReasonBytesMax;

// What the records of a request can take at most.
size_t record_bytes(const Intent& intent) {
  return kRecordFixedBytes + intent.user_id.bytes.size() + intent.user_id.text.size() +
         intent.api_key_id.size() + intent.model.size() + intent.backend.size();
}

uint64_t segment_bytes_min(size_t block_bytes) {
  return std::max(kSegmentBytesMin, LedgerLog::kSegmentBlocksMin * block_bytes);
}

LedgerLog::Settings log_settings(const LedgerSettings& settings, size_t block_bytes) {
  LedgerLog::Settings log;
  log.max_bytes = settings.max_bytes;
  const uint64_t least = segment_bytes_min(block_bytes);
  const uint64_t share = settings.max_bytes / kSegmentsWanted / least * least;
  log.segment_bytes = std::clamp(share, least, LedgerCore::kSegmentBytesMax);
  return log;
}

Event make_event(Settlement&& settlement) {
  Intent& intent = settlement.intent;
  return {.id = intent.id,
          .date_created = settlement.date_created,
          .user_id = std::move(intent.user_id),
          .api_key_id = std::move(intent.api_key_id),
          .model = std::move(intent.model),
          .prompt_n = settlement.outcome.figure.prompt_n,
          .completion_n = settlement.outcome.figure.completion_n};
}

}  // namespace

uint64_t LedgerCore::max_bytes_min(size_t block_bytes) {
  return kSegmentsMin * segment_bytes_min(block_bytes);
}

LedgerCore::LedgerCore(Directory& directory, Log& log, const LedgerSettings& settings,
                       Recovered recovered, std::function<double()> draw, MonotonicTime now)
    : log_(log),
      settings_(settings),
      gathering_(settings.ship_interval / 2),
      ledger_(directory, log_settings(settings, directory.block_bytes()),
              std::move(recovered.start)),
      shipper_({gathering_, settings.backoff_min, settings.backoff_max}, std::move(draw)),
      reader_(recovered.mark),
      read_until_(recovered.mark),
      gaps_told_(std::move(recovered.lost)),
      unread_since_(now) {
  counts_.backlog = recovered.backlog;
  counts_.recovered_billed = recovered.billed;
  counts_.recovered_unresolved = recovered.unresolved;
  first_left_ = recovered.first.size();
  // Those of `first` are counted as they become durable; the others can be read at once.
  for (Record& record : recovered.first) {
    if (std::holds_alternative<EventRecord>(record)) ++first_events_;
    if (std::holds_alternative<DeadRecord>(record)) ++dead_pending_;
    ledger_.append({std::move(record)});
  }
  unread_events_ = recovered.backlog - first_events_;
}

// Requests.

bool LedgerCore::reserve(const Intent& intent) {
  if (is_closing_ || !ledger_.is_ready() || !fits_record(intent)) return false;
  const LedgerState& state = ledger_.state();
  const bool makes_unresolved = state.unresolved_of(intent.backend) > 0;
  if (makes_unresolved && state.unresolved().size() >= kUnresolvedMax) return false;
  if (!ledger_.reserve(ledger_.room_for(record_bytes(intent)))) return false;
  ++counts_.accepted;
  ++counts_.in_flight;
  ++active_;
  return true;
}

void LedgerCore::release(const Intent& intent) {
  LLMPROXY_CHECK(counts_.in_flight > 0 && active_ > 0);
  ledger_.give_back(ledger_.room_for(record_bytes(intent)));
  --counts_.in_flight;
  --counts_.accepted;
  --active_;
}

void LedgerCore::append_awaited(LedgerLog::Append&& append) {
  append.is_awaited = append.waiter != nullptr;
  const bool is_awaited = append.is_awaited;
  ledger_.append(std::move(append));
  if (is_awaited) ++waiting_;
}

// Nobody waits for it while the backend thinks.
bool LedgerCore::open(const Intent& intent, bool may_bill_running, Waiter& waiter,
                      MonotonicTime now) {
  waiter.state_ = Waiter::State::kUnawaited;
  opening_.push_back(
      {.record = IntentRecord{intent, may_bill_running}, .waiter = &waiter, .gives_up = true});
  const bool is_first = opening_.size() == 1;
  if (is_first) opening_since_ = now;
  return is_first;
}

std::vector<LedgerLog::Append>::iterator LedgerCore::find_opening(const Waiter& waiter) {
  return std::find_if(opening_.begin(), opening_.end(),
                      [&](const LedgerLog::Append& one) { return one.waiter == &waiter; });
}

void LedgerCore::await(Waiter& waiter) {
  if (waiter.state_ != Waiter::State::kUnawaited) return;
  waiter.state_ = Waiter::State::kAwaited;
  ++waiting_;
  is_opening_awaited_ = is_opening_awaited_ || find_opening(waiter) != opening_.end();
}

bool LedgerCore::withdraw(Waiter& waiter) {
  if (waiter.state_ != Waiter::State::kUnawaited) return false;
  const auto found = find_opening(waiter);
  if (found == opening_.end()) return false;
  // Their order means nothing: no two are of one request.
  if (found != opening_.end() - 1) *found = std::move(opening_.back());
  opening_.pop_back();
  return true;
}

bool LedgerCore::progress(const ObjectId& id, const Figure& figure, bool is_final) {
  progress_[id] = {figure, is_final};
  return progress_.size() == 1;
}

uint64_t& LedgerCore::count_of(Outcome::Kind kind) {
  if (kind == Outcome::Kind::kBilled) return counts_.billed;
  return kind == Outcome::Kind::kFree ? counts_.free : counts_.unresolved;
}

bool LedgerCore::settle(Settlement settlement, Waiter& waiter) {
  if (settlement.was_unresolved && !is_unresolved(settlement.intent.id)) {
    log_.warning("{}: a figure came late; it was resolved by hand, and its bill stays",
                 settlement.intent.id.hex());
    return true;
  }
  LedgerLog::Append entry{.waiter = &waiter, .gives_up = !settlement.has_intent};
  const bool was_unresolved = settlement.was_unresolved;
  const Outcome::Kind kind = settlement.outcome.kind;
  const ObjectId id = settlement.intent.id;
  if (!was_unresolved) entry.room = ledger_.room_for(record_bytes(settlement.intent));
  const std::string reason(settlement.outcome.reason);
  switch (kind) {
    case Outcome::Kind::kBilled:
      entry.record = EventRecord{make_event(std::move(settlement)),
                                 was_unresolved ? Origin::kLate : Origin::kRequest};
      break;
    case Outcome::Kind::kFree:
      entry.record = FreeRecord{id, reason};
      entry.waiter = nullptr;
      break;
    case Outcome::Kind::kUnresolved:
      entry.record =
          UnresolvedRecord{std::move(settlement.intent), settlement.date_created, reason};
      break;
  }
  if (const auto* unresolved = std::get_if<UnresolvedRecord>(&entry.record))
    log_.error("unresolved: {}", describe(*unresolved));
  if (was_unresolved) {
    log_.info("resolved by a figure that came late: {}",
              describe(std::get<EventRecord>(entry.record).event));
  }
  return enter(std::move(entry), id, kind, was_unresolved);
}

// Memory may run out up to the append, and nothing has changed then: who catches that settles the
// request once more.
bool LedgerCore::enter(LedgerLog::Append&& entry, const ObjectId& id, Outcome::Kind kind,
                       bool was_unresolved) {
  LLMPROXY_CHECK(was_unresolved || counts_.in_flight > 0);  // I7
  const bool is_free = entry.waiter == nullptr;
  if (was_unresolved) closing_.emplace(id, 0);
  try {
    append_awaited(std::move(entry));
  } catch (...) {
    if (was_unresolved) closing_.erase(id);
    throw;
  }
  progress_.erase(id);
  was_unresolved ? --counts_.unresolved : --counts_.in_flight;
  if (was_unresolved) ++counts_.late;
  ++count_of(kind);
  if (is_free) --active_;
  return is_free;
}

// The writer.

// Figures that advanced since the last time, as records of the next group.
void LedgerCore::take_progress(MonotonicTime now) {
  if (progress_.empty() || now < progress_due_) return;
  for (const auto& [id, one] : progress_) {
    if (!ledger_.state().open().contains(id)) continue;
    ledger_.append({.record = ProgressRecord{id, one.figure, one.is_final}, .gives_up = true});
  }
  progress_.clear();
  const bool is_half_full = ledger_.bytes_used() > settings_.max_bytes / 2;
  progress_due_ = now + (is_half_full ? kProgressIntervalFull : kProgressInterval);
}

std::optional<MonotonicTime> LedgerCore::next_commit(MonotonicTime now, bool is_last) {
  take_progress(now);
  if (ledger_.next_try()) return *ledger_.next_try();
  if (is_gathering()) {
    return everybody_waits() || is_last ? now : begun_last_ + settings_.commit_gap;
  }
  if (is_last) return now;
  std::optional<MonotonicTime> when;
  if (!opening_.empty()) {
    when = std::max(begun_last_ + settings_.commit_gap, opening_since_ + kIntentDelay);
  }
  if (!progress_.empty()) when = std::min(when.value_or(MonotonicTime::max()), progress_due_);
  if (!std::exchange(has_upkeep_, ledger_.has_upkeep()) && has_upkeep_) upkeep_since_ = now;
  if (has_upkeep_) {
    when = std::min(when.value_or(MonotonicTime::max()), upkeep_since_ + kUpkeepDelay);
  }
  return when;
}

std::optional<LedgerLog::Write> LedgerCore::begin_commit(MonotonicTime now, bool is_last) {
  begun_last_ = now;
  has_upkeep_ = false;
  if (!opening_.empty()) ledger_.append(opening_);
  opening_.clear();
  is_opening_awaited_ = false;
  return ledger_.begin_write(now, is_last);
}

void LedgerCore::end_commit(int error, MonotonicTime now, std::vector<LedgerLog::Told>& told) {
  const bool was_failing = ledger_.is_failing();
  ledger_.end_write(error, now, told);
  ++counts_.commits;
  tell_of_writing(error, was_failing);
  for (const LedgerLog::Told& one : told) note_told(one, now);
  bury_withheld();
}

void LedgerCore::tell_of_writing(int error, bool was_failing) {
  if (was_failing && !ledger_.is_failing()) log_.error("ledger: can write again");
  if (error == 0 || was_failing) return;
  if (ledger_.is_failing()) {
    log_.error("ledger: cannot write: {}; no new work until it can", errno_text(error));
  } else {
    log_.error("ledger: a write failed: {}; going on in another segment", errno_text(error));
  }
}

// What a record that is durable, or was given up, means to the counts.
void LedgerCore::note_told(const LedgerLog::Told& told, MonotonicTime now) {
  const Record& record = told.append.record;
  if (first_left_ > 0) --first_left_;  // they come before all others
  if (!closing_.empty()) note_closed(record, told.is_durable);
  if (Waiter* const waiter = told.append.waiter; waiter != nullptr) {
    const auto state = std::exchange(waiter->state_, Waiter::State::kTold);
    if (told.append.is_awaited || state == Waiter::State::kAwaited) --waiting_;
    if (told.append.room > 0) --active_;
  }
  if (std::holds_alternative<DeadRecord>(record)) --dead_pending_;
  if (told.is_durable) {
    const auto* const event = std::get_if<EventRecord>(&record);
    if (event == nullptr) return;
    if (unread_events_++ == 0) unread_since_ = now;
    first_events_ > 0 ? --first_events_ : ++counts_.backlog;
    return;
  }
  // Nothing of it was recorded, and nothing of it goes out: it is free.
  const bool is_bill = std::holds_alternative<EventRecord>(record);
  const bool is_outcome = is_bill || std::holds_alternative<UnresolvedRecord>(record);
  if (!is_outcome || is_by_hand(record)) return;
  --count_of(is_bill ? Outcome::Kind::kBilled : Outcome::Kind::kUnresolved);
  ++counts_.free;
}

// The shipper.

// At most one batch ahead of the one that is in the database.
std::optional<MonotonicTime> LedgerCore::next_read() const {
  if (shipper_.waiting() >= Shipper::kBatchMax || !withheld_.empty()) return std::nullopt;
  if (read_until_ >= ledger_.durable_sequence()) return std::nullopt;
  // Also past segments in which there is nothing to ship, so that they can go.
  const auto& segments = ledger_.state().segments();
  const bool is_behind =
      segments.size() > 1 && segments.begin()->second.last_sequence > read_until_;
  const bool is_wanted = is_closing_ || is_behind || unread_events_ >= Shipper::kBatchMax;
  // Less than a whole batch gathers as long as the database is busy.
  if (!is_wanted && (unread_events_ == 0 || shipper_.is_under_way())) return std::nullopt;
  const MonotonicTime due = is_wanted ? MonotonicTime::min() : unread_since_ + gathering_;
  return read_again_ ? std::max(due, *read_again_) : due;
}

LedgerCore::Reading LedgerCore::begin_read() const {
  return {.views = ledger_.views(), .until = ledger_.durable_sequence(), .events = unread_events_};
}

void LedgerCore::run_read(Reading& reading) {
  reading.is_more = reader_.read(reading.views, reading.until, Shipper::kBatchMax, reading.items);
}

// Damage that came since the start: what requests said is told once more, by a person.
void LedgerCore::tell_of_gaps() {
  for (const Gap& gap : reader_.gaps()) {
    const bool is_told = std::any_of(gaps_told_.begin(), gaps_told_.end(), [&](const Gap& told) {
      return told.first <= gap.first && gap.last <= told.last;
    });
    if (is_told) continue;
    log_.error(
        "ledger: records {} to {} are damaged or missing; bills among them are lost and "
        "must be found by hand",
        gap.first, gap.last);
  }
}

void LedgerCore::end_read(Reading reading, MonotonicTime now, WallMs wall_now) {
  read_until_ = reader_.last_sequence();
  const MonotonicTime since = unread_since_;
  const uint64_t unread_before = unread_events_;
  for (LedgerReader::Item& item : reading.items) take_event(std::move(item), since, wall_now);
  tell_of_gaps();
  for (const Damage& damage : reader_.damages()) ledger_.quarantine(damage);
  if (reader_.error() != 0) {
    if (!read_again_)
      log_.error("ledger: cannot read: {}; trying again", errno_text(reader_.error()));
    read_again_ = now + kReadAgain;
    return move_mark();
  }
  read_again_.reset();
  if (!reading.is_more) {
    // All that were unread when this began have come, or are lost.
    const uint64_t lost = reading.events - std::min(reading.events, unread_before - unread_events_);
    unread_events_ -= std::min(lost, unread_events_);
    counts_.backlog -= std::min(lost, counts_.backlog);
    counts_.lost += lost;
  }
  // What was left has waited as long; what became durable meanwhile has not.
  if (unread_events_ > 0 && !reading.is_more) unread_since_ = now;
  if (!withheld_.empty()) {  // nothing is read from now on: once
    log_.error(
        "ledger: {} events are dead: those that are too old to send wait, and all behind "
        "them",
        kDeadMax);
  }
  move_mark();
}

void LedgerCore::take_event(LedgerReader::Item item, MonotonicTime since, WallMs wall_now) {
  auto* const record = std::get_if<EventRecord>(&item.record);
  if (record == nullptr) return;
  if (unread_events_ > 0) --unread_events_;
  const bool is_old = wall_now - record->event.date_created > settings_.max_replay_age.count();
  if (is_old && record->origin != Origin::kByHand) {
    if (!withheld_.empty() || !can_bury()) return withheld_.push_back(std::move(item));
    bury(std::move(record->event), "older than max_replay_age", DeadRecord::Kind::kWithheld);
  } else {
    shipper_.push(item.sequence, std::move(record->event), since);
  }
}

// Everything before the oldest event that waits is settled.
void LedgerCore::move_mark() {
  uint64_t oldest = shipper_.oldest().value_or(read_until_ + 1);
  if (!withheld_.empty()) oldest = std::min(oldest, withheld_.front().sequence);
  const uint64_t mark = oldest - 1;
  const uint64_t before = ledger_.state().mark();
  const auto& segments = ledger_.state().segments();
  const uint64_t oldest_end = segments.empty() ? 0 : segments.begin()->second.last_sequence;
  const bool frees = segments.size() > 1 && oldest_end > before && oldest_end <= mark;
  if (mark <= before || !(has_settled_ || frees)) return;
  has_settled_ = false;
  ledger_.set_mark(mark);
}

bool LedgerCore::can_bury(size_t more) const {
  return ledger_.state().dead().size() + dead_pending_ + more <= kDeadMax;
}

// When a person has made room among the dead.
void LedgerCore::bury_withheld() {
  while (!withheld_.empty() && can_bury()) {
    Event event = std::move(std::get<EventRecord>(withheld_.front().record).event);
    withheld_.pop_front();
    bury(std::move(event), "older than max_replay_age", DeadRecord::Kind::kWithheld);
  }
}

void LedgerCore::bury(Event event, std::string reason, DeadRecord::Kind kind) {
  log_.error("never sent again ({}): {}", reason, describe(event));
  ++counts_.dead;
  --counts_.backlog;
  has_settled_ = true;
  ++dead_pending_;
  ledger_.append({.record = DeadRecord{std::move(event), std::move(reason), kind}});
}

void LedgerCore::tell_of_shipping(const Shipper::Answer& answer, const std::string& detail) {
  if (answer.outage_began) {
    log_.error("database takes no events; they wait and are sent again ({} waiting): {}",
               counts_.backlog, detail);
  }
  if (answer.outage_lasted) {
    log_.info("database takes events again after {} ms ({} waiting)", answer.outage_lasted->count(),
              counts_.backlog);
  }
}

std::vector<Event> LedgerCore::end_batch(BatchResult result, MonotonicTime now) {
  size_t refused = 0;
  for (Delivery& delivery : result.deliveries) {
    if (delivery == Delivery::kRefused && !can_bury(++refused)) delivery = Delivery::kRetry;
  }
  if (!can_bury(refused)) {
    result.detail = fmt::format("{} events are dead, and no more are given up; refused: {}",
                                kDeadMax, result.detail);
  }
  Shipper::Answer answer = shipper_.answer(result, now);
  counts_.delivered += answer.delivered.size();
  counts_.backlog -= answer.delivered.size();
  has_settled_ |= !answer.delivered.empty();
  for (const Event& event : answer.refused) {
    bury(event, "refused by the database: " + result.detail, DeadRecord::Kind::kRefused);
  }
  tell_of_shipping(answer, result.detail);
  move_mark();
  return std::move(answer.delivered);
}

void LedgerCore::hurry() {
  is_closing_ = true;
  shipper_.hurry();
}

bool LedgerCore::is_drained() const {
  return !has_pending() && !ledger_.is_writing() && shipper_.size() == 0 && withheld_.empty() &&
         read_until_ >= ledger_.durable_sequence();
}

LedgerCounts LedgerCore::counts() const {
  LedgerCounts counts = counts_;
  counts.bytes_used = ledger_.bytes_used();
  return counts;
}

}  // namespace llmproxy
