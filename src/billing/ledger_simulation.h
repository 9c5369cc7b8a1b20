// The whole ledger in a world of its own: a disk, a clock and a database that misbehave as a seed
// says, requests that come and end, and crashes at any step. What it checks at the end is what the
// product promises. For tests only.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "billing/ledger_core.h"
#include "billing/recovery.h"
#include "billing/simulated_disk.h"

namespace llmproxy {

// What the database would hold, and how it answers.
class SimulatedDatabase {
 public:
  explicit SimulatedDatabase(std::mt19937_64& random) : random_(random) {}

  bool is_up = true;
  bool may_lose_replies = false;
  bool may_refuse = false;

  BatchResult write(const std::vector<Event>& events) {
    BatchResult result;
    const bool is_lost = may_lose_replies && random_() % 4 == 0;
    for (const Event& event : events) {
      Delivery delivery = Delivery::kRetry;
      const bool is_refused = may_refuse && event.id.bytes[11] % 7 == 0;
      if (is_up && is_refused) {
        delivery = Delivery::kRefused;
      } else if (is_up && !(is_lost && random_() % 2 == 0)) {
        const auto [place, is_new] = stored.emplace(event.id, event);
        const bool is_other = !is_new && place->second != event;
        if (is_other) wrong.insert(event.id);
        delivery = is_lost    ? Delivery::kRetry
                   : is_other ? Delivery::kRefused
                              : Delivery::kDelivered;
      }
      result.deliveries.push_back(delivery);
    }
    return result;
  }

  std::map<ObjectId, Event> stored;
  std::set<ObjectId> wrong;  // two different events under one id: the first one stands

 private:
  std::mt19937_64& random_;
};

class LedgerSimulation {
 public:
  struct Options {
    uint64_t seed = 1;
    int lives = 4;            // the last one ends well
    int steps = 300;          // of each life
    bool has_faults = false;  // of the disk
    bool is_lying = false;    // control: the disk is not honest
    bool may_kill = true;     // some lives end by kill instead of a power cut
    bool has_outages = true;  // of the database
    bool may_refuse = false;
    bool is_resized = false;  // max_bytes is another one in each life, and some groups are large
    bool is_spoiled = false;  // what was durable is damaged here and there
    size_t block_bytes = 512;
  };

  explicit LedgerSimulation(Options options)
      : options_(options),
        random_(options.seed),
        disk_(options.seed * 7 + 1, options.block_bytes),
        database_(random_) {
    settings_.max_bytes = std::max(kSmall, LedgerCore::max_bytes_min(options.block_bytes));
    disk_.set_lying(options.is_lying);
  }

  // "" or what was promised and is not so.
  std::string run();

  uint64_t crashes = 0, requests_made = 0, recovered = 0, segments_freed = 0;
  uint64_t spoiled = 0, lost = 0;  // blocks, and durable outcomes that were in them

 private:
  static constexpr uint64_t kSmall = uint64_t{64} * (64 << 10);  // segments of 64 KiB
  struct Request;
  struct RequestWaiter final : Waiter {
    explicit RequestWaiter(bool& its_told, bool& its_durable)
        : told(its_told), durable(its_durable) {}
    void done(bool is_durable) noexcept override {
      told = true;
      durable = is_durable;
    }
    bool& told;
    bool& durable;
  };
  struct Request {
    Intent intent;
    bool is_stream = false;
    bool is_continuous = false;
    bool intent_told = false, intent_durable = false;
    bool is_settled = false;
    bool outcome_told = false, outcome_durable = false;
    bool is_over = false;  // its process is gone, or it has been told
    Outcome outcome;
    std::vector<Figure> figures;  // that progress told of
    std::optional<RequestWaiter> intent_waiter, outcome_waiter;
  };

  uint64_t below(uint64_t n) { return random_() % n; }
  bool chance(uint64_t of_n) { return below(of_n) == 0; }

  void live(bool is_last);
  void step();
  void begin_request();
  void begin_burst();
  void resize();
  void spoil();
  void note_spoiled(std::string_view bytes, size_t block, size_t begin, size_t end);
  void end_request();
  void settle(Request& request);
  void make_progress();
  void commit();
  void chore();
  void read();
  void ship();
  void finish();
  void drain();
  void tell(std::vector<LedgerLog::Told>& told);
  std::string check();
  std::string check_request(const Request& request);
  std::string name(const Request& request) const { return request.intent.id.hex(); }

  const Options options_;
  std::mt19937_64 random_;
  SimulatedDisk disk_;
  SimulatedDatabase database_;
  LedgerSettings settings_;
  Log log_{-1, LogLevel::kCritical};
  uint64_t ids_ = 0;
  MonotonicTime now_{std::chrono::hours(1)};
  WallMs wall_ = 1'800'000'000'000;
  std::unique_ptr<Directory> directory_;
  std::unique_ptr<LedgerCore> core_;
  std::deque<Request> requests_;
  std::set<ObjectId> spoiled_;      // had a record in a group that was damaged
  std::set<std::string> headless_;  // whose header was: nothing in it can be read again
  uint64_t alarms_ = 0;
  std::string problem_;
};

inline std::string LedgerSimulation::run() {
  for (int life = 1; life <= options_.lives && problem_.empty(); ++life)
    live(life == options_.lives);
  if (problem_.empty()) problem_ = check();
  return problem_;
}

// One process, from its start to its end.
inline void LedgerSimulation::live(bool is_last) {
  if (!is_last) disk_.crash_at({.first = 1 + below(static_cast<uint64_t>(options_.steps))});
  if (options_.has_faults && !is_last) {
    for (uint64_t i = below(4); i > 0; --i) {
      disk_.add_fault({.point = {.first = 20 + below(200)},
                       .error = chance(2) ? EIO : ENOSPC,
                       .times = 1 + below(6)});
    }
  }
  if (options_.is_resized) resize();
  // Soon after the start, between what it writes.
  if (options_.is_resized && !is_last && chance(2))
    disk_.crash_at({.first = 1 + below(8), .call = SimulatedDisk::Call::kWrite});
  while (options_.is_spoiled && chance(2)) spoil();
  for (const std::string& name : headless_) {  // also what was written since
    const std::string bytes = disk_.content(name).value_or("");
    note_spoiled(bytes, options_.block_bytes, 0, bytes.size());
  }
  try {
    directory_ = disk_.open();
    Result<Recovered> found = recover_ledger(*directory_, {"simulated", false});
    if (!found) {
      if (!options_.has_faults || is_last) problem_ = "recovery: " + found.error().message;
    } else {
      recovered += found->billed + found->unresolved;
      for (const std::string& alarm : found->alarms) {
        const bool is_expected = options_.is_lying || options_.has_faults || options_.is_spoiled;
        if (!is_expected) problem_ = "alarm: " + alarm;
        ++alarms_;
      }
      core_ = std::make_unique<LedgerCore>(
          *directory_, log_, settings_, std::move(*found), [] { return 0.5; }, now_);
      for (int i = 0; i < options_.steps && problem_.empty(); ++i) step();
      if (is_last && problem_.empty()) finish();
    }
  } catch (const SimulatedCrash&) {
    ++crashes;
  }
  for (Request& request : requests_) request.is_over = true;
  if (is_last) return;
  const bool is_killed = options_.may_kill && chance(3);
  core_.reset();
  directory_.reset();
  is_killed ? disk_.kill() : disk_.crash();
  disk_.clear_faults();
}

inline void LedgerSimulation::step() {
  now_ += Milliseconds(below(400));
  wall_ += static_cast<WallMs>(below(400));
  if (options_.has_outages && chance(60)) database_.is_up = !database_.is_up;
  database_.may_lose_replies = options_.has_outages;
  database_.may_refuse = options_.may_refuse;
  if (options_.is_resized && chance(40)) begin_burst();
  if (options_.is_spoiled && chance(60)) spoil();
  switch (below(8)) {
    case 0:
    case 1:
      return begin_request();
    case 2:
    case 3:
      return end_request();
    case 4:
      return make_progress();
    case 5:
      return chore();
    case 6:
      return ship();
    default:
      return commit();
  }
}

inline void LedgerSimulation::begin_request() {
  Request& request = requests_.emplace_back();
  request.intent.id.bytes[10] = static_cast<uint8_t>(++ids_ >> 8);
  request.intent.id.bytes[11] = static_cast<uint8_t>(ids_);
  request.intent.time = wall_;
  request.intent.user_id.text = std::string(1 + below(200), 'u');
  request.intent.api_key_id = "key";
  request.intent.model = "model";
  request.intent.backend = "backend";
  request.is_stream = chance(2);
  request.is_continuous = request.is_stream && chance(2);
  if (!core_->reserve(request.intent)) {
    requests_.pop_back();
    return;
  }
  ++requests_made;
  if (!request.is_stream) return;
  request.intent_waiter.emplace(request.intent_told, request.intent_durable);
  core_->open(request.intent, request.is_continuous, *request.intent_waiter, now_);
}

// Many at once, so that groups become as large as they may be.
inline void LedgerSimulation::begin_burst() {
  for (uint64_t i = below(300); i > 0; --i) {
    begin_request();
    if (!requests_.empty()) settle(requests_.back());
  }
  commit();
}

inline void LedgerSimulation::resize() {
  const uint64_t least = LedgerCore::max_bytes_min(options_.block_bytes);
  const uint64_t choices[] = {least, std::max(least, kSmall), std::max(least, 32 * kSmall)};
  settings_.max_bytes = choices[below(3)];
}

// A byte is flipped, or a block becomes zeros or something else, where a header or a group lies.
inline void LedgerSimulation::spoil() {
  std::vector<std::string> names;
  for (const std::string& name : disk_.names()) {
    if (segment_number(name)) names.push_back(name);
  }
  if (names.empty()) return;
  const std::string& name = names[below(names.size())];
  const std::string bytes = disk_.content(name).value_or("");
  const HeaderRead header = read_header(bytes);
  if (header.state != HeaderRead::State::kOk) return;
  const size_t block = header.header.block_bytes;
  struct Place {
    size_t begin, end;
  };
  std::vector<Place> groups;
  for (size_t at = header.size; at + block <= bytes.size(); at += block) {
    const GroupRead group = read_group(std::string_view(bytes).substr(at), block);
    if (group.state != GroupRead::State::kOk) continue;
    groups.push_back({at, at + group.size});
    at += group.size - block;
  }
  if (groups.empty()) return;
  const bool is_header = chance(15);
  const Place place = is_header ? Place{0, header.size} : groups[below(groups.size())];
  if (is_header) headless_.insert(name);
  note_spoiled(bytes, block, place.begin, place.end);
  ++spoiled;
  const size_t at = place.begin + below((place.end - place.begin) / 512) * 512;
  const uint64_t kind = below(3);
  if (kind == 0) return disk_.spoil(name, at, std::string(512, '\0'));
  if (kind == 1) return disk_.spoil(name, at, std::string(512, static_cast<char>(below(256))));
  const size_t byte = place.begin + below(place.end - place.begin);
  disk_.spoil(name, byte, std::string(1, static_cast<char>(bytes[byte] ^ (1 << below(8)))));
}

inline void LedgerSimulation::note_spoiled(std::string_view bytes, size_t block, size_t begin,
                                           size_t end) {
  for (size_t at = begin; at + block <= end; at += block) {
    const GroupRead group = read_group(bytes.substr(at), block);
    for (const FramedRecord& framed : group.records) {
      const std::optional<Record> record = read_record(framed.type, framed.payload);
      if (record && record_id(*record)) spoiled_.insert(*record_id(*record));
    }
  }
}

inline void LedgerSimulation::make_progress() {
  if (requests_.empty()) return;
  Request& request = requests_[below(requests_.size())];
  if (request.is_over || !request.is_continuous || !request.intent_durable || request.is_settled)
    return;
  const int64_t more = static_cast<int64_t>(1 + below(50));
  const int64_t before = request.figures.empty() ? 0 : request.figures.back().completion_n;
  request.figures.push_back({7, before + more});
  core_->progress(request.intent.id, request.figures.back(), false);
}

inline void LedgerSimulation::end_request() {
  if (requests_.empty()) return;
  settle(requests_[below(requests_.size())]);
}

inline void LedgerSimulation::settle(Request& request) {
  if (request.is_over || request.is_settled) return;
  if (request.is_stream && !request.intent_told) {
    if (!chance(2) || !core_->withdraw(*request.intent_waiter)) return;
    request.is_stream = request.is_continuous = false;  // from here on like a plain reply
    request.intent_waiter.reset();
  }
  Settlement settlement;
  settlement.intent = request.intent;
  settlement.has_intent = request.intent_durable;
  settlement.date_created = wall_;
  const uint64_t kind = request.is_stream && !request.intent_durable ? 7 : below(10);
  if (kind < 7) {
    settlement.outcome = {
        .kind = Outcome::Kind::kBilled,
        .figure = {static_cast<int64_t>(below(1000)), static_cast<int64_t>(below(1000))},
        .reason = "final figure"};
  } else if (kind < 9) {
    settlement.outcome = {.kind = Outcome::Kind::kFree, .reason = "status without a figure"};
  } else {
    settlement.outcome = {.kind = Outcome::Kind::kUnresolved, .reason = "no figure"};
  }
  request.is_settled = true;
  request.outcome = settlement.outcome;
  request.outcome_waiter.emplace(request.outcome_told, request.outcome_durable);
  if (core_->settle(std::move(settlement), *request.outcome_waiter)) request.outcome_told = true;
}

inline void LedgerSimulation::tell(std::vector<LedgerLog::Told>& told) {
  for (const LedgerLog::Told& one : told) {
    if (one.append.waiter != nullptr) one.append.waiter->done(one.is_durable);
  }
}

inline void LedgerSimulation::commit() {
  const std::optional<MonotonicTime> when = core_->next_commit(now_, false);
  if (!when || *when > now_) return;
  const std::optional<LedgerLog::Write> write = core_->begin_commit(now_, false);
  if (!write) return;
  // Others go on while the disk writes.
  for (uint64_t i = below(3); i > 0; --i) chance(2) ? begin_request() : end_request();
  const int error = write->file->write(write->offset, write->bytes);
  now_ += Milliseconds(below(3));
  std::vector<LedgerLog::Told> told;
  core_->end_commit(error, now_, told);
  tell(told);
}

inline void LedgerSimulation::chore() {
  std::optional<LedgerLog::Chore> chore = core_->files().next_chore(now_);
  if (!chore) return;
  const int error = core_->files().run_chore(*chore);
  if (chance(3)) commit();
  core_->files().end_chore(*chore, error, now_);
  if (error == 0 && chore->kind == LedgerLog::Chore::Kind::kRemove) ++segments_freed;
}

inline void LedgerSimulation::ship() {
  const std::optional<MonotonicTime> due = core_->next_batch();
  if (!due || *due > now_ || chance(3)) return read();
  const std::vector<Event> batch = core_->begin_batch();
  if (chance(3)) commit();
  if (chance(3)) read();
  core_->end_batch(database_.write(batch), now_);
}

inline void LedgerSimulation::read() {
  const std::optional<MonotonicTime> due = core_->next_read();
  if (!due || *due > now_) return;
  LedgerCore::Reading reading = core_->begin_read();
  if (chance(3)) commit();
  core_->run_read(reading);
  core_->end_read(std::move(reading), now_, wall_);
}

// The last life: all ends, and everything is shipped.
inline void LedgerSimulation::finish() {
  database_.is_up = true;
  database_.may_lose_replies = false;
  for (int i = 0; i < 1'000 && (i < 50 || core_->counts().in_flight > 0); ++i) {
    now_ += Milliseconds(500);
    commit();
    chore();
    ship();
    for (Request& request : requests_) settle(request);
  }
  drain();
}

inline void LedgerSimulation::drain() {
  core_->hurry();
  for (int i = 0; i < 10'000 && !core_->is_drained(); ++i) {
    now_ += Milliseconds(1'000);
    commit();
    ship();
    chore();
  }
  if (!core_->is_drained()) problem_ = "the backlog does not drain";
  for (int i = 0; i < 20; ++i) {  // upkeep: marks, then what they free
    now_ += Milliseconds(1'100);
    commit();
    chore();
  }
}

inline std::string LedgerSimulation::check_request(const Request& request) {
  const LedgerState& state = core_->files().state();
  const auto stored = database_.stored.find(request.intent.id);
  const bool is_stored = stored != database_.stored.end();
  const bool is_unresolved = state.unresolved().contains(request.intent.id);
  const bool is_dead = state.dead().contains(request.intent.id);
  const bool is_open = state.open().contains(request.intent.id);
  const Figure figure =
      is_stored ? Figure{stored->second.prompt_n, stored->second.completion_n} : Figure{};
  const bool is_its_outcome = request.is_settled &&
                              request.outcome.kind == Outcome::Kind::kBilled &&
                              figure == request.outcome.figure;
  const bool is_from_progress =
      request.is_continuous &&
      std::find(request.figures.begin(), request.figures.end(), figure) != request.figures.end();
  if (is_open) return name(request) + ": still open";
  if (is_stored && !is_its_outcome && !is_from_progress)
    return name(request) + ": billed with what nobody said";
  if (spoiled_.contains(request.intent.id)) {  // what became of it, nobody may know
    const bool is_lost = request.outcome_durable && !is_stored && !is_unresolved && !is_dead;
    lost += is_lost ? 1 : 0;
    return "";
  }
  if (is_stored + is_unresolved + is_dead > 1) return name(request) + ": in two places";
  if (request.outcome_durable) {
    const bool is_right = request.outcome.kind == Outcome::Kind::kBilled
                              ? (is_stored && is_its_outcome) || is_dead
                          : request.outcome.kind == Outcome::Kind::kUnresolved ? is_unresolved
                                                                               : !is_stored;
    if (!is_right) {
      return fmt::format(
          "{}: durable outcome {} lost or changed: stream={} stored={} unresolved={} dead={} "
          "open={}",
          name(request), static_cast<int>(request.outcome.kind), request.is_stream, is_stored,
          is_unresolved, is_dead, is_open);
    }
    return "";
  }
  const bool is_refused = request.outcome_told && !request.outcome_durable &&
                          request.outcome.kind != Outcome::Kind::kFree;
  if (is_refused && is_stored && !options_.has_faults)
    return name(request) + ": told free, yet billed";
  const bool is_told_free = request.outcome_told && request.outcome.kind == Outcome::Kind::kFree;
  if (request.intent_durable && !is_told_free && !is_stored && !is_unresolved && !is_dead) {
    // Settled as free, and the crash came before anybody was told: both are right.
    const bool is_free = request.is_settled && request.outcome.kind == Outcome::Kind::kFree;
    if (!is_free) return name(request) + ": a stream that had begun is gone";
  }
  return "";
}

inline std::string LedgerSimulation::check() {
  for (const ObjectId& id : database_.wrong) {
    if (!spoiled_.contains(id)) return id.hex() + ": two events under one id";
  }
  std::set<ObjectId> known;
  for (const Request& request : requests_) {
    known.insert(request.intent.id);
    if (std::string problem = check_request(request); !problem.empty()) return problem;
  }
  for (const auto& [id, event] : database_.stored) {
    if (!known.contains(id)) return id.hex() + ": an event of no request";
  }
  if (lost > 0 && alarms_ == 0 && core_->counts().lost == 0) {
    const std::vector<std::string> names = disk_.names();
    const bool is_kept = std::any_of(names.begin(), names.end(), [](const std::string& one) {
      return one.starts_with("quarantine-");
    });
    if (!is_kept) return "what was damaged is neither told nor kept";
  }
  const LedgerCounts counts = core_->counts();
  if (counts.accepted != counts.billed + counts.free + counts.unresolved + counts.in_flight)
    return "I7";
  if (counts.backlog != 0) return fmt::format("a backlog of {} is left", counts.backlog);
  return "";
}

}  // namespace llmproxy
