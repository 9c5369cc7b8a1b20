// The ledger's threads: each takes its next step under the lock, does what blocks without it, and
// says how it went.
#include "billing/ledger.h"

#include <fmt/format.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "base/thread_name.h"
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

struct Ledger::State {
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
  void read();
  void ship();
  void ship_batch(Lock& lock);
  void wake_writer(bool has_kept_files = false);
  void tell_writer(Wake wake);
  void wake_reader();

  const std::unique_ptr<Directory> directory;
  const std::shared_ptr<Database> database;
  Log& log;  // not touched once is_left
  const Settings settings;
  std::atomic<MonotonicTime::rep> writing_since{0};  // 0: no write is under way
  std::atomic<bool> is_failing{false};

  std::mutex mutex;  // guards all below
  std::condition_variable writer_wake, keeper_wake, reader_wake, shipper_wake;
  std::condition_variable ended;  // close(): a thread has ended, or is in the database
  LedgerCore core;
  enum class Sleep : uint8_t {
    kAwake,
    kForWork,     // or for the time when some is due
    kForGap,      // between commits
    kForSegment,  // to write to
    kForRetry,    // while the disk fails
  };
  Sleep writer_sleep = Sleep::kAwake;
  uint64_t writer_wakes = 0;
  bool has_news = false;  // since it went to sleep, of which somebody will wake it later
  bool is_keeper_asleep = false, is_reader_asleep = false;  // and do not look again by themselves
  bool is_in_database = false;
  bool is_closing = false;
  bool is_writing_stopped = false, is_shipping_stopped = false, is_keeping_stopped = false;
  bool has_writer_ended = false, has_keeper_ended = false;
  bool has_reader_ended = false, has_shipper_ended = false;
  bool is_left = false;  // close() went on without a thread
  void (*observer)(const Event&, void*) = nullptr;
  void* observer_context = nullptr;
};

struct Ledger::Threads {
  std::thread writer, keeper, reader, shipper;
};

// The writer.

// A system call, and a turn of another thread: only where it would do something. While it waits for
// the gap to pass it comes by itself, unless nobody is left who could come along.
void Ledger::State::wake_writer(bool has_kept_files) {
  switch (writer_sleep) {
    case Sleep::kAwake:
    case Sleep::kForRetry:
      return;
    case Sleep::kForGap:
      if (!core.everybody_waits()) return;
      break;
    case Sleep::kForSegment:
      if (!has_kept_files) return;
      break;
    case Sleep::kForWork:
      break;
  }
  writer_sleep = Sleep::kAwake;
  ++writer_wakes;
  writer_wake.notify_one();
}

void Ledger::State::tell_writer(Wake wake) {
  if (wake == Wake::kNow) return wake_writer();
  has_news = true;
}

void Ledger::State::commit(Lock& lock) {
  const MonotonicTime begun = monotonic_now();
  const std::optional<LedgerLog::Write> write = core.begin_commit(begun, is_writing_stopped);
  if (!write) {  // no segment to write to: the keeper makes one
    writer_sleep = Sleep::kForSegment;
    writer_wake.wait_for(lock, kRecheck);
    writer_sleep = Sleep::kAwake;
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
  wake_reader();
  if (is_closing) shipper_wake.notify_one();  // this may have been the last
  lock.unlock();
  for (const LedgerLog::Told& one : told) {
    if (one.append.waiter != nullptr) one.append.waiter->done(one.is_durable);
  }
  lock.lock();
}

void Ledger::State::write() {
  Lock lock(mutex);
  while (!is_left && !(is_writing_stopped && !core.has_pending())) {
    const MonotonicTime now = monotonic_now();
    const std::optional<MonotonicTime> when = core.next_commit(now, is_writing_stopped);
    if (when && *when <= now) {
      commit(lock);
      continue;
    }
    writer_sleep = core.files().next_try() ? Sleep::kForRetry
                   : core.is_gathering()   ? Sleep::kForGap
                                           : Sleep::kForWork;
    has_news = false;  // it has seen all there is
    wait(writer_wake, lock, when);
    writer_sleep = Sleep::kAwake;
  }
  if (!is_left) commit(lock);  // an empty group, as a witness of what was before it
  has_writer_ended = true;
  ended.notify_all();
}

// The keeper.

void Ledger::State::keep() {
  Lock lock(mutex);
  while (!is_keeping_stopped) {
    LedgerLog& files = core.files();
    std::optional<LedgerLog::Chore> chore = files.next_chore(monotonic_now());
    if (!chore) {
      is_keeper_asleep = !files.next_chore_at();
      wait(keeper_wake, lock, files.next_chore_at());
      is_keeper_asleep = false;
      continue;
    }
    lock.unlock();
    const int error = files.run_chore(*chore);
    lock.lock();
    if (is_left) return;
    files.end_chore(*chore, error, monotonic_now());
    if (error != 0) {
      log.error("ledger: its files cannot be kept: {}; trying again", errno_text(error));
    } else if (chore->kind == LedgerLog::Chore::Kind::kQuarantine) {
      log.error("ledger: {}", chore->content);
    }
    wake_writer(true);
  }
  has_keeper_ended = true;
  ended.notify_all();
}

// The reader.

void Ledger::State::wake_reader() {
  if (!is_reader_asleep || !core.next_read()) return;
  is_reader_asleep = false;
  reader_wake.notify_one();
}

void Ledger::State::read() {
  Lock lock(mutex);
  while (!is_shipping_stopped && !has_shipper_ended) {
    const std::optional<MonotonicTime> due = core.next_read();
    if (!due || *due > monotonic_now()) {
      is_reader_asleep = !due;
      wait(reader_wake, lock, due);
      is_reader_asleep = false;
      continue;
    }
    LedgerCore::Reading reading = core.begin_read();
    lock.unlock();
    core.run_read(reading);
    lock.lock();
    if (is_left) return;
    core.end_read(std::move(reading), monotonic_now(), wall_now_ms());
    if (core.files().has_chore(monotonic_now())) keeper_wake.notify_one();
    wake_writer();
    shipper_wake.notify_one();
  }
  has_reader_ended = true;
  ended.notify_all();
}

// The shipper.

void Ledger::State::ship_batch(Lock& lock) {
  const std::vector<Event> batch = core.begin_batch();
  wake_reader();
  is_in_database = true;
  ended.notify_all();
  lock.unlock();
  const BatchResult result = database->write_events(batch);
  lock.lock();
  is_in_database = false;
  if (is_left) return;
  const std::vector<Event> delivered = core.end_batch(result, monotonic_now());
  wake_reader();
  wake_writer();
  if (observer == nullptr) return;
  const auto call = observer;
  void* const context = observer_context;
  lock.unlock();
  for (const Event& event : delivered) call(event, context);
  lock.lock();
}

void Ledger::State::ship() {
  Lock lock(mutex);
  while (!is_shipping_stopped) {
    const std::optional<MonotonicTime> due = core.next_batch();
    if (due && *due <= monotonic_now()) {
      ship_batch(lock);
      continue;
    }
    if (is_closing && core.is_drained()) break;
    wait(shipper_wake, lock, due);
  }
  has_shipper_ended = true;
  reader_wake.notify_one();
  ended.notify_all();
}

// Callers.

bool Ledger::reserve(const Intent& intent) {
  if (is_stalled()) return false;
  const std::lock_guard lock(state_->mutex);
  const bool is_taken = state_->core.reserve(intent);
  // In time for the next ones.
  if (state_->is_keeper_asleep && state_->core.files().wants_spare()) {
    state_->is_keeper_asleep = false;
    state_->keeper_wake.notify_one();
  }
  return is_taken;
}

std::string Ledger::refusal() const {
  const bool is_stalling = is_stalled();
  const std::lock_guard lock(state_->mutex);
  const LedgerLog& files = state_->core.files();
  const std::string reason =
      files.last_error() == 0 ? "" : fmt::format(": {}", errno_text(files.last_error()));
  if (files.is_failing()) return "the ledger's disk fails" + reason;
  if (is_stalling) return "the ledger's disk is slow: a write takes longer than commit_timeout";
  if (state_->is_closing) return "the ledger is closed";
  // Less than 2 % are missing to a segment more.
  if (files.has_many_segments() ||
      files.bytes_used() > state_->settings.max_bytes / 100 * (LedgerLog::kFullPercent - 2)) {
    return "the ledger is full: events wait for the database";
  }
  if (files.state().unresolved().size() >= LedgerCore::kUnresolvedMax) {
    return "the ledger has too many unresolved requests, this backend's among them";
  }
  return "the ledger has no room on its disk" + reason;
}

void Ledger::release(const Intent& intent) {
  const std::lock_guard lock(state_->mutex);
  state_->core.release(intent);
}

void Ledger::wake() {
  const std::lock_guard lock(state_->mutex);
  if (std::exchange(state_->has_news, false)) state_->wake_writer();
}

void Ledger::open(const Intent& intent, bool may_bill_running, Waiter& waiter, Wake wake) {
  {
    const std::lock_guard lock(state_->mutex);
    if (!state_->is_writing_stopped) {
      const bool is_first = state_->core.open(intent, may_bill_running, waiter, monotonic_now());
      if (is_first) state_->tell_writer(wake);
      return;
    }
  }
  waiter.done(false);  // after close()
}

void Ledger::await(Waiter& waiter, Wake wake) {
  const std::lock_guard lock(state_->mutex);
  state_->core.await(waiter);
  state_->tell_writer(wake);
}

bool Ledger::withdraw(Waiter& waiter) {
  const std::lock_guard lock(state_->mutex);
  return state_->core.withdraw(waiter);
}

void Ledger::progress(const ObjectId& id, const Figure& figure, bool is_final) {
  const std::lock_guard lock(state_->mutex);
  if (state_->core.progress(id, figure, is_final)) state_->wake_writer();
}

void Ledger::settle(Settlement settlement, Waiter& waiter, Wake wake) {
  bool is_told_at_once = false, is_closed = false;
  {
    const std::lock_guard lock(state_->mutex);
    is_closed = state_->is_writing_stopped;
    if (!is_closed) is_told_at_once = state_->core.settle(std::move(settlement), waiter);
    state_->tell_writer(wake);
  }
  if (is_told_at_once || is_closed) waiter.done(!is_closed);
}

bool Ledger::is_stalled() const {
  if (state_->is_failing.load(std::memory_order_relaxed)) return true;
  const MonotonicTime::rep since = state_->writing_since.load(std::memory_order_relaxed);
  if (since == 0) return false;
  const MonotonicTime begun{MonotonicTime::duration(since)};
  return monotonic_now() - begun > state_->settings.commit_timeout;
}

LedgerCounts Ledger::counts() const {
  const std::lock_guard lock(state_->mutex);
  LedgerCounts counts = state_->core.counts();
  counts.writer_wakes = state_->writer_wakes;
  return counts;
}

void Ledger::set_observer(void (*observer)(const Event& event, void* context), void* context) {
  const std::lock_guard lock(state_->mutex);
  state_->observer = observer;
  state_->observer_context = context;
}

// By hand; ledger_by_hand.cc says what.

namespace {

// Lives until it is told, also when nobody waits any more.
class HandWaiter final : public Waiter {
 public:
  static std::shared_ptr<HandWaiter> make() {
    auto waiter = std::make_shared<HandWaiter>();
    waiter->self_ = waiter;
    return waiter;
  }
  void done(bool is_durable) noexcept override {
    const auto self = std::move(self_);
    const std::lock_guard lock(mutex_);
    is_durable_ = is_durable;
    told_.notify_all();
  }
  void forget() { self_.reset(); }  // nobody was given it
  // Nothing: not told within `limit`.
  std::optional<bool> wait(Milliseconds limit) {
    std::unique_lock lock(mutex_);
    told_.wait_for(lock, limit, [&] { return is_durable_.has_value(); });
    return is_durable_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable told_;
  std::optional<bool> is_durable_;
  std::shared_ptr<HandWaiter> self_;
};

}  // namespace

// Just started: what recovery wants written is on its way.
void Ledger::await_recovered() const {
  constexpr Milliseconds kPause{1};
  const MonotonicTime limit = monotonic_now() + state_->settings.commit_timeout;
  State::Lock lock(state_->mutex);
  while (!state_->core.has_recovered() && monotonic_now() < limit) {
    lock.unlock();
    std::this_thread::sleep_for(kPause);
    lock.lock();
  }
}

Result<LedgerCore::ByHand> Ledger::change(const Change& change) {
  constexpr Milliseconds kGrace{1'000};  // for a group that is being written before it
  const Error unknown{.status = 503,
                      .message = "the disk did not take it, or not all of it; say it again"};
  await_recovered();
  const std::shared_ptr<HandWaiter> waiter = HandWaiter::make();
  {
    const std::lock_guard lock(state_->mutex);
    const auto answer = state_->is_writing_stopped || !state_->core.has_recovered()
                            ? LedgerCore::ByHand::kRefused
                            : change(state_->core, waiter.get());
    if (answer != LedgerCore::ByHand::kAppended) {
      waiter->forget();
      return answer;
    }
    state_->wake_writer();
  }
  const std::optional<bool> is_durable = waiter->wait(state_->settings.commit_timeout + kGrace);
  if (!is_durable.value_or(false)) return unknown;
  return LedgerCore::ByHand::kAppended;
}

Survey Ledger::durable_records() const {
  await_recovered();
  Survey survey;
  const std::lock_guard lock(state_->mutex);
  survey.views = state_->core.files().views();
  survey.proven = state_->core.files().durable_sequence();
  return survey;
}

// Its life.

namespace {

void tell_of_recovery(const Recovered& recovered, Log& log) {
  for (const std::string& note : recovered.notes) log.warning("ledger: {}", note);
  for (const std::string& alarm : recovered.alarms) log.error("ledger: {}", alarm);
  for (size_t i = recovered.start.tail; i < recovered.first.size(); ++i) {  // of this start
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
      log.error("ledger: no room can be had: {}; no new work until it can", errno_text(error));
    }
  }
}

constexpr int kStatusConfig = 78;

Error too_small(uint64_t max_bytes, size_t block_bytes) {
  return {.status = kStatusConfig,
          .message = fmt::format(
              "ledger: max_bytes is {}, and needs at least {} on a disk with blocks of {} bytes",
              max_bytes, LedgerCore::max_bytes_min(block_bytes), block_bytes)};
}

}  // namespace

Result<std::unique_ptr<Ledger>> Ledger::open(std::unique_ptr<Directory> directory,
                                             std::shared_ptr<Database> database, Log& log,
                                             const Settings& settings) {
  const size_t block_bytes = directory->block_bytes();
  if (settings.max_bytes < LedgerCore::max_bytes_min(block_bytes))
    return too_small(settings.max_bytes, block_bytes);
  Result<Recovered> recovered =
      recover_ledger(*directory, {settings.database, settings.may_retarget});
  if (!recovered) return recovered.error();
  tell_of_recovery(*recovered, log);
  auto state = std::make_shared<State>(std::move(directory), std::move(database), log, settings,
                                       std::move(*recovered));
  make_room(state->core.files(), log);
  return std::unique_ptr<Ledger>(new Ledger(std::move(state)));
}

Ledger::Ledger(std::shared_ptr<State> state)
    : state_(std::move(state)), threads_(std::make_unique<Threads>()) {
  const auto start = [this](std::thread& thread, const char* name, void (State::*work)()) {
    thread = std::thread([name, work, its = state_] {
      name_thread(name);
      (*its.*work)();
    });
  };
  start(threads_->writer, "ledger-write", &State::write);
  start(threads_->keeper, "ledger-keep", &State::keep);
  if (state_->database == nullptr) {
    state_->has_reader_ended = state_->has_shipper_ended = true;
  } else {
    start(threads_->reader, "ledger-read", &State::read);
    start(threads_->shipper, "ledger-ship", &State::ship);
  }
}

Ledger::~Ledger() {
  close(Milliseconds{0});
}

bool Ledger::close(Milliseconds flush_timeout) {
  State& state = *state_;
  State::Lock lock(state.mutex);
  if (threads_ == nullptr) return !state.is_left;
  state.core.hurry();
  state.is_closing = true;
  state.reader_wake.notify_one();
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
  state.reader_wake.notify_one();
  const MonotonicTime limit = monotonic_now() + state.settings.commit_timeout;
  // In the database a thread may stay; not in a read of the disk.
  const bool can_part = state.ended.wait_until(lock, limit, [&] {
    return state.has_reader_ended && (state.has_shipper_ended || state.is_in_database);
  });
  stop(state.is_writing_stopped, state.writer_wake);
  await(state.has_writer_ended, limit);
  stop(state.is_keeping_stopped, state.keeper_wake);
  await(state.has_keeper_ended, limit);

  const bool is_clean = can_part && state.has_writer_ended && state.has_keeper_ended;
  state.is_left = !is_clean || !state.has_shipper_ended;
  if (!is_clean) state.log.error("ledger: the disk does not answer; leaving what it was to write");
  if (can_part && !state.has_shipper_ended)
    state.log.warning("the database did not answer in time");
  const uint64_t backlog = state.core.counts().backlog;
  if (backlog > 0 && state.database != nullptr) {
    state.log.warning(
        "{} events are not in the database yet; the ledger keeps them for the next start", backlog);
  }
  const std::unique_ptr<Threads> threads = std::move(threads_);
  const auto part_from = [](std::thread& thread, bool has_ended) {
    if (!thread.joinable()) return;  // there is none without a database
    has_ended ? thread.join() : thread.detach();
  };
  const bool has_writer_ended = state.has_writer_ended, has_keeper_ended = state.has_keeper_ended;
  const bool has_reader_ended = state.has_reader_ended, has_shipper_ended = state.has_shipper_ended;
  lock.unlock();
  part_from(threads->writer, has_writer_ended);
  part_from(threads->keeper, has_keeper_ended);
  part_from(threads->reader, has_reader_ended);
  part_from(threads->shipper, has_shipper_ended);
  return is_clean;
}

}  // namespace llmproxy
