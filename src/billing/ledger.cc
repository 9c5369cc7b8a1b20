// The ledger in memory: room, counts, the shipping thread and its log lines. When and what is sent
// is shipper's; what a request costs is outcome's.
#include "billing/ledger.h"

#include <fmt/format.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <random>
#include <utility>

#include "api/json_edit.h"
#include "base/check.h"
#include "billing/shipper.h"

namespace llmproxy {
namespace {

constexpr uint8_t kBsonString = 0x02;

// All fields, as one JSON object: enough to write the document by hand.
std::string describe(const Event& event) {
  std::string type;
  if (event.user_id.bson_type != kBsonString) {
    type = fmt::format(R"(,"user_id_bson_type":{})", event.user_id.bson_type);
  }
  return fmt::format(
      R"({{"_id":"{}","date_created":"{}","user_id":{}{},"api_key_id":{},"model":{},)"
      R"("prompt_n":{},"completion_n":{}}})",
      event.id.hex(), format_utc(event.date_created), quote_json(event.user_id.text), type,
      quote_json(event.api_key_id), quote_json(event.model), event.prompt_n, event.completion_n);
}

std::string describe_unresolved(const Settlement& settlement) {
  const Intent& intent = settlement.intent;
  return fmt::format(
      R"({{"_id":"{}","started":"{}","ended":"{}","user_id":{},"api_key_id":{},"model":{},)"
      R"("backend":{},"reason":{}}})",
      intent.id.hex(), format_utc(intent.time), format_utc(settlement.date_created),
      quote_json(intent.user_id.text), quote_json(intent.api_key_id), quote_json(intent.model),
      quote_json(intent.backend), quote_json(settlement.outcome.reason));
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

std::function<double()> jitter() {
  return [random = std::minstd_rand(std::random_device()())]() mutable {
    return std::uniform_real_distribution<double>(0.0, 1.0)(random);
  };
}

}  // namespace

struct Ledger::State {
  State(std::shared_ptr<Database> its_database, Log& its_log, const Settings& its_settings)
      : database(std::move(its_database)),
        log(its_log),
        settings(its_settings),
        shipper({settings.ship_interval, settings.backoff_min, settings.backoff_max}, jitter()) {}

  void give_back_room(size_t requests) {
    const size_t before = used.fetch_sub(requests, std::memory_order_relaxed);
    LLMPROXY_CHECK(before >= requests);
  }
  void tell(const Shipper::Answer& answer, const std::string& detail);  // with mutex held
  void lose(const Event& event);                                        // with mutex held
  void write_batch(std::unique_lock<std::mutex>& lock);

  const std::shared_ptr<Database> database;
  Log& log;  // not touched once is_left
  const Settings settings;

  std::atomic<size_t> used{0};  // reservations and queued events: at most events_max
  std::atomic<bool> is_closing{false};

  std::mutex mutex;                  // guards all below
  std::condition_variable wake;      // the thread: something is due, or the end has come
  std::condition_variable progress;  // close(): the thread has ended, or has left the database
  Shipper shipper;
  LedgerCounts counts{};
  uint64_t pushed = 0;
  void (*observer)(const Event&, void*) = nullptr;
  void* observer_context = nullptr;
  bool is_in_database = false;
  bool is_stopped = false;  // no further batch
  bool has_ended = false;   // nobody ships any more
  bool is_left = false;     // close() went on without the thread
};

void Ledger::State::tell(const Shipper::Answer& answer, const std::string& detail) {
  counts.delivered += answer.delivered.size();
  counts.refused += answer.refused.size();
  for (const Event& event : answer.refused) {
    log.error("refused by the database, never sent again: {}: {}", describe(event), detail);
  }
  if (answer.outage_began) {
    log.error("database takes no events; they wait and are sent again ({} queued): {}",
              shipper.size(), detail);
  }
  if (answer.outage_lasted) {
    log.info("database takes events again after {} ms ({} queued)", answer.outage_lasted->count(),
             shipper.size());
  }
}

void Ledger::State::lose(const Event& event) {
  ++counts.lost;
  log.error("lost: {}", describe(event));
}

void Ledger::State::write_batch(std::unique_lock<std::mutex>& lock) {
  const std::vector<Event> batch = shipper.take();
  is_in_database = true;
  lock.unlock();
  const BatchResult result = database->write_events(batch);
  lock.lock();
  is_in_database = false;
  if (is_left) return;
  const Shipper::Answer answer = shipper.answer(result, monotonic_now());
  tell(answer, result.detail);
  give_back_room(answer.delivered.size() + answer.refused.size());
  if (observer == nullptr) return;
  const auto call = observer;
  void* const context = observer_context;
  lock.unlock();
  for (const Event& event : answer.delivered) call(event, context);
  lock.lock();
}

void Ledger::ship(std::shared_ptr<State> state) {
  std::unique_lock lock(state->mutex);
  while (!state->is_stopped) {
    const std::optional<MonotonicTime> due = state->shipper.due();
    if (!due && state->is_closing) break;
    if (!due) {
      state->wake.wait(lock);
    } else if (*due > monotonic_now()) {
      state->wake.wait_until(lock, *due);
    } else {
      state->write_batch(lock);
    }
  }
  state->has_ended = true;
  state->progress.notify_all();
}

Ledger::Ledger(std::shared_ptr<Database> database, Log& log, Settings settings)
    : state_(std::make_shared<State>(std::move(database), log, settings)),
      thread_(&Ledger::ship, state_) {}

Ledger::Ledger(Database& database, Log& log, Settings settings)
    : Ledger(std::shared_ptr<Database>(std::shared_ptr<void>(), &database), log, settings) {}

Ledger::~Ledger() {
  close(Milliseconds{0});
}

bool Ledger::reserve() {
  if (state_->is_closing.load(std::memory_order_relaxed)) return false;
  if (state_->used.fetch_add(1, std::memory_order_relaxed) < state_->settings.events_max) {
    return true;
  }
  state_->used.fetch_sub(1, std::memory_order_relaxed);
  return false;
}

void Ledger::release() {
  state_->give_back_room(1);
}

// Memory is durable by definition here: nothing to wait for.
void Ledger::open(const Intent&, Waiter& waiter) {
  waiter.done(true);
}

void Ledger::settle(Settlement settlement, Waiter& waiter) {
  State& state = *state_;
  const Outcome::Kind kind = settlement.outcome.kind;
  if (kind != Outcome::Kind::kBilled) {
    {
      const std::lock_guard lock(state.mutex);
      ++(kind == Outcome::Kind::kFree ? state.counts.free : state.counts.unresolved);
      if (kind == Outcome::Kind::kUnresolved) {
        state.log.error("unresolved: {}", describe_unresolved(settlement));
      }
    }
    state.give_back_room(1);
    waiter.done(true);
    return;
  }
  const bool was_unresolved = settlement.was_unresolved;
  if (was_unresolved) state.used.fetch_add(1, std::memory_order_relaxed);
  Event event = make_event(std::move(settlement));
  bool is_taken = false;
  {
    const std::lock_guard lock(state.mutex);
    ++state.counts.billed;
    if (was_unresolved) {
      --state.counts.unresolved;
      state.log.info("resolved by a figure that came late: {}", describe(event));
    }
    is_taken = !state.has_ended && !state.is_left;
    if (!is_taken) {
      state.lose(event);
    } else if (state.shipper.push(++state.pushed, std::move(event), monotonic_now())) {
      state.wake.notify_one();
    }
  }
  if (!is_taken) state.give_back_room(1);
  waiter.done(is_taken);
}

uint64_t Ledger::close(Milliseconds flush_timeout) {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  if (!thread_.joinable()) return state.counts.lost;
  state.is_closing = true;
  state.shipper.hurry();
  state.wake.notify_one();
  const MonotonicTime limit = monotonic_now() + flush_timeout;
  state.progress.wait_until(lock, limit, [&] { return state.has_ended; });

  state.is_stopped = true;
  state.wake.notify_one();
  state.progress.wait(lock, [&] { return state.has_ended || state.is_in_database; });
  state.is_left = !state.has_ended;
  const std::vector<Event> lost = state.shipper.drop();
  for (const Event& event : lost) state.lose(event);
  state.give_back_room(lost.size());
  std::thread thread = std::move(thread_);
  const bool is_left = state.is_left;
  const uint64_t lost_in_all = state.counts.lost;
  if (is_left)
    state.log.warning(
        "the database did not answer in time; events it was being sent may have arrived");
  lock.unlock();
  if (is_left) {
    thread.detach();
  } else {
    thread.join();
  }
  return lost_in_all;
}

LedgerCounts Ledger::counts() const {
  const std::lock_guard lock(state_->mutex);
  LedgerCounts counts = state_->counts;
  counts.queued = state_->shipper.size();
  return counts;
}

void Ledger::set_observer(void (*observer)(const Event& event, void* context), void* context) {
  const std::lock_guard lock(state_->mutex);
  state_->observer = observer;
  state_->observer_context = context;
}

}  // namespace llmproxy
