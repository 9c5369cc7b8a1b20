// The ledger's threads: each takes its next step under the lock, does what blocks without it, and
// says how it went.
#include "billing/durable_ledger.h"

#include <fmt/format.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "base/check.h"
#include "billing/ledger_words.h"

namespace llmproxy {
namespace {

constexpr Milliseconds kRecheck{1'000};  // of a writer that has no segment to write to

std::function<double()> jitter() {
  return [random = std::minstd_rand(std::random_device()())]() mutable {
    return std::uniform_real_distribution<double>(0.0, 1.0)(random);
  };
}

void wait(std::condition_variable& condition, std::unique_lock<std::mutex>& lock,
          std::optional<MonotonicTime> until) {
  until ? static_cast<void>(condition.wait_until(lock, *until)) : condition.wait(lock);
}

}  // namespace

struct DurableLedger::State {
  State(std::unique_ptr<Directory> its_directory, std::shared_ptr<Database> its_database,
        Log& its_log, const Settings& its_settings, Recovered recovered)
      : directory(std::move(its_directory)),
        database(std::move(its_database)),
        log(its_log),
        settings(its_settings),
        core(*directory, log, settings, std::move(recovered), jitter(), monotonic_now()) {}

  using Lock = std::unique_lock<std::mutex>;

  void write();
  void commit(Lock& lock);
  void keep();
  void ship();
  void ship_batch(Lock& lock);
  void wake_writer() {
    if (is_writer_asleep) writer_wake.notify_one();
  }

  const std::unique_ptr<Directory> directory;
  const std::shared_ptr<Database> database;
  Log& log;  // not touched once is_left
  const Settings settings;
  std::atomic<MonotonicTime::rep> writing_since{0};  // 0: no write is under way
  std::atomic<bool> is_failing{false};

  std::mutex mutex;  // guards all below
  std::condition_variable writer_wake, keeper_wake, shipper_wake;
  std::condition_variable ended;  // close(): a thread has ended, or is in the database
  LedgerCore core;
  bool is_writer_asleep = false, is_shipper_asleep = false;
  bool is_in_database = false;
  bool is_closing = false;
  bool is_writing_stopped = false, is_shipping_stopped = false, is_keeping_stopped = false;
  bool has_writer_ended = false, has_shipper_ended = false, has_keeper_ended = false;
  bool is_left = false;  // close() went on without a thread
  void (*observer)(const Event&, void*) = nullptr;
  void* observer_context = nullptr;
};

struct DurableLedger::Threads {
  std::thread writer, keeper, shipper;
};

// The writer.

void DurableLedger::State::commit(Lock& lock) {
  const MonotonicTime begun = monotonic_now();
  const std::optional<LedgerLog::Write> write = core.begin_commit(begun, is_writing_stopped);
  if (!write) {  // no segment to write to: the keeper makes one
    is_writer_asleep = true;
    writer_wake.wait_for(lock, kRecheck);
    is_writer_asleep = false;
    return;
  }
  writing_since = begun.time_since_epoch().count();
  lock.unlock();
  const int error = write->file->write(write->offset, write->bytes);
  const MonotonicTime now = monotonic_now();
  writing_since = 0;
  lock.lock();
  if (is_left) return;
  std::vector<LedgerLog::Told> told;
  core.end_commit(error, now, told);
  is_failing = core.is_failing();
  if (core.files().has_chore(now)) keeper_wake.notify_one();
  std::optional<MonotonicTime> later;
  if (is_shipper_asleep && (core.next_step(now, later) != LedgerCore::Step::kNone || later)) {
    is_shipper_asleep = false;
    shipper_wake.notify_one();
  }
  lock.unlock();
  for (const LedgerLog::Told& one : told) {
    if (one.append.waiter != nullptr) one.append.waiter->done(one.is_durable);
  }
  lock.lock();
}

void DurableLedger::State::write() {
  Lock lock(mutex);
  while (!is_left && !(is_writing_stopped && !core.files().has_pending())) {
    const MonotonicTime now = monotonic_now();
    const std::optional<MonotonicTime> when = core.next_commit(now, is_writing_stopped);
    if (when && *when <= now) {
      commit(lock);
      continue;
    }
    is_writer_asleep = true;
    wait(writer_wake, lock, when);
    is_writer_asleep = false;
  }
  if (!is_left) commit(lock);  // an empty group, as a witness of what was before it
  has_writer_ended = true;
  ended.notify_all();
}

// The keeper.

void DurableLedger::State::keep() {
  Lock lock(mutex);
  while (!is_keeping_stopped) {
    LedgerLog& files = core.files();
    std::optional<LedgerLog::Chore> chore = files.next_chore(monotonic_now());
    if (!chore) {
      wait(keeper_wake, lock, files.next_chore_at());
      continue;
    }
    lock.unlock();
    const int error = files.run_chore(*chore);
    lock.lock();
    if (is_left) return;
    files.end_chore(*chore, error, monotonic_now());
    if (error != 0) {
      log.error("ledger: its files cannot be kept: {}; trying again", std::strerror(error));
    }
    wake_writer();
  }
  has_keeper_ended = true;
  ended.notify_all();
}

// The shipper.

void DurableLedger::State::ship_batch(Lock& lock) {
  const std::vector<Event> batch = core.begin_batch();
  is_in_database = true;
  ended.notify_all();
  lock.unlock();
  const BatchResult result = database->write_events(batch);
  lock.lock();
  is_in_database = false;
  if (is_left) return;
  const std::vector<Event> delivered = core.end_batch(result, monotonic_now());
  wake_writer();
  if (observer == nullptr) return;
  const auto call = observer;
  void* const context = observer_context;
  lock.unlock();
  for (const Event& event : delivered) call(event, context);
  lock.lock();
}

void DurableLedger::State::ship() {
  Lock lock(mutex);
  while (!is_shipping_stopped) {
    std::optional<MonotonicTime> later;
    switch (core.next_step(monotonic_now(), later)) {
      case LedgerCore::Step::kBatch:
        ship_batch(lock);
        continue;
      case LedgerCore::Step::kRead: {
        LedgerCore::Reading reading = core.begin_read();
        lock.unlock();
        core.run_read(reading);
        lock.lock();
        if (is_left) return;
        core.end_read(std::move(reading), monotonic_now(), wall_now_ms());
        wake_writer();
        continue;
      }
      case LedgerCore::Step::kNone:
        break;
    }
    if (is_closing && core.is_drained()) break;
    is_shipper_asleep = !later;  // with a time to look at, what becomes durable need not wake it
    wait(shipper_wake, lock, later);
    is_shipper_asleep = false;
  }
  has_shipper_ended = true;
  ended.notify_all();
}

// Callers.

bool DurableLedger::reserve(const Intent& intent) {
  if (is_stalled()) return false;
  const std::lock_guard lock(state_->mutex);
  return state_->core.reserve(intent);
}

std::string DurableLedger::refusal() const {
  const bool is_stalling = is_stalled();
  const std::lock_guard lock(state_->mutex);
  const LedgerLog& files = state_->core.files();
  const std::string reason =
      files.last_error() == 0 ? "" : fmt::format(": {}", std::strerror(files.last_error()));
  if (files.is_failing()) return "the ledger's disk fails" + reason;
  if (is_stalling) return "the ledger's disk is slow: a write takes longer than commit_timeout";
  if (state_->is_closing) return "the ledger is closed";
  // Less than 2 % are missing to a segment more.
  if (files.bytes_used() > state_->settings.max_bytes / 100 * (LedgerLog::kFullPercent - 2)) {
    return "the ledger is full: events wait for the database";
  }
  if (files.state().unresolved().size() >= LedgerCore::kUnresolvedMax) {
    return "the ledger has too many unresolved requests, this backend's among them";
  }
  return "the ledger has no room on its disk" + reason;
}

void DurableLedger::release(const Intent& intent) {
  const std::lock_guard lock(state_->mutex);
  state_->core.release(intent);
}

void DurableLedger::open(const Intent& intent, bool may_bill_running, Waiter& waiter) {
  {
    const std::lock_guard lock(state_->mutex);
    if (!state_->is_writing_stopped) {
      state_->core.open(intent, may_bill_running, waiter);
      return state_->wake_writer();
    }
  }
  waiter.done(false);  // after close()
}

void DurableLedger::progress(const ObjectId& id, const Figure& figure, bool is_final) {
  const std::lock_guard lock(state_->mutex);
  state_->core.progress(id, figure, is_final);
  state_->wake_writer();
}

void DurableLedger::settle(Settlement settlement, Waiter& waiter) {
  bool is_told_at_once = false, is_closed = false;
  {
    const std::lock_guard lock(state_->mutex);
    is_closed = state_->is_writing_stopped;
    if (!is_closed) is_told_at_once = state_->core.settle(std::move(settlement), waiter);
    state_->wake_writer();
  }
  if (is_told_at_once || is_closed) waiter.done(!is_closed);
}

bool DurableLedger::is_stalled() const {
  if (state_->is_failing.load(std::memory_order_relaxed)) return true;
  const MonotonicTime::rep since = state_->writing_since.load(std::memory_order_relaxed);
  if (since == 0) return false;
  const MonotonicTime begun{MonotonicTime::duration(since)};
  return monotonic_now() - begun > state_->settings.commit_timeout;
}

DurableCounts DurableLedger::counts() const {
  const std::lock_guard lock(state_->mutex);
  return state_->core.counts();
}

void DurableLedger::set_observer(void (*observer)(const Event& event, void* context),
                                 void* context) {
  const std::lock_guard lock(state_->mutex);
  state_->observer = observer;
  state_->observer_context = context;
}

// Its life.

namespace {

void tell_of_recovery(const Recovered& recovered, Log& log) {
  for (const std::string& note : recovered.notes) log.warning("ledger: {}", note);
  for (const std::string& alarm : recovered.alarms) log.error("ledger: {}", alarm);
  for (size_t i = recovered.first.size() - recovered.billed - recovered.unresolved;
       i < recovered.first.size(); ++i) {
    const auto* const unresolved = std::get_if<UnresolvedRecord>(&recovered.first[i]);
    if (unresolved != nullptr) log.error("unresolved: {}", describe(*unresolved));
  }
  const uint64_t open = recovered.billed + recovered.unresolved;
  if (open > 0) {
    log.warning("ledger: {} streams were open when the proxy ended: {} billed, {} unresolved", open,
                recovered.billed, recovered.unresolved);
  }
  if (recovered.backlog > 0) {
    log.info("ledger: {} events wait for the database", recovered.backlog);
  }
}

// Room before work; later it is the keeper's.
void make_room(LedgerLog& files, Log& log) {
  while (!files.is_ready()) {
    std::optional<LedgerLog::Chore> chore = files.next_chore(monotonic_now());
    if (!chore) break;
    const int error = files.run_chore(*chore);
    files.end_chore(*chore, error, monotonic_now());
    if (error != 0) {
      log.error("ledger: no room can be had: {}; no new work until it can", std::strerror(error));
    }
  }
}

}  // namespace

Result<std::unique_ptr<DurableLedger>> DurableLedger::open(std::unique_ptr<Directory> directory,
                                                           std::shared_ptr<Database> database,
                                                           Log& log, const Settings& settings) {
  Result<Recovered> recovered =
      recover_ledger(*directory, {settings.database, settings.may_retarget});
  if (!recovered) return recovered.error();
  tell_of_recovery(*recovered, log);
  auto state = std::make_shared<State>(std::move(directory), std::move(database), log, settings,
                                       std::move(*recovered));
  make_room(state->core.files(), log);
  return std::unique_ptr<DurableLedger>(new DurableLedger(std::move(state)));
}

DurableLedger::DurableLedger(std::shared_ptr<State> state)
    : state_(std::move(state)), threads_(std::make_unique<Threads>()) {
  threads_->writer = std::thread([its = state_] { its->write(); });
  threads_->keeper = std::thread([its = state_] { its->keep(); });
  threads_->shipper = std::thread([its = state_] { its->ship(); });
}

DurableLedger::~DurableLedger() {
  close(Milliseconds{0});
}

bool DurableLedger::close(Milliseconds flush_timeout) {
  State& state = *state_;
  State::Lock lock(state.mutex);
  if (threads_ == nullptr) return !state.is_left;
  state.core.hurry();
  state.is_closing = true;
  state.shipper_wake.notify_one();
  const auto stop = [&](bool& is_stopped, std::condition_variable& wake) {
    is_stopped = true;
    wake.notify_one();
  };
  const auto await = [&](const bool& has_ended, MonotonicTime limit) {
    state.ended.wait_until(lock, limit, [&] { return has_ended; });
  };
  await(state.has_shipper_ended, monotonic_now() + flush_timeout);
  stop(state.is_shipping_stopped, state.shipper_wake);
  const MonotonicTime limit = monotonic_now() + state.settings.commit_timeout;
  // In the database it may stay; not in a read of the disk.
  const bool can_part = state.ended.wait_until(
      lock, limit, [&] { return state.has_shipper_ended || state.is_in_database; });
  stop(state.is_writing_stopped, state.writer_wake);
  await(state.has_writer_ended, limit);
  stop(state.is_keeping_stopped, state.keeper_wake);
  await(state.has_keeper_ended, limit);

  const bool is_clean = can_part && state.has_writer_ended && state.has_keeper_ended;
  state.is_left = !is_clean || !state.has_shipper_ended;
  if (!is_clean) state.log.error("ledger: the disk does not answer; leaving what it was to write");
  if (can_part && !state.has_shipper_ended)
    state.log.warning("the database did not answer in time");
  if (const uint64_t backlog = state.core.counts().backlog; backlog > 0) {
    state.log.warning(
        "{} events are not in the database yet; the ledger keeps them for the next start", backlog);
  }
  const std::unique_ptr<Threads> threads = std::move(threads_);
  const auto part_from = [](std::thread& thread, bool has_ended) {
    has_ended ? thread.join() : thread.detach();
  };
  const bool has_writer_ended = state.has_writer_ended, has_keeper_ended = state.has_keeper_ended;
  const bool has_shipper_ended = state.has_shipper_ended;
  lock.unlock();
  part_from(threads->writer, has_writer_ended);
  part_from(threads->keeper, has_keeper_ended);
  part_from(threads->shipper, has_shipper_ended);
  return is_clean;
}

}  // namespace llmproxy
