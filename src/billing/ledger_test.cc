// The ledger with its threads, over a directory of this machine and a database whose every answer
// the test gives: counts, log lines, the end of one life and the start of the next.
#include "billing/ledger.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "billing/ledger_test_rig.h"
#include "billing/test_database.h"
#include "billing/test_gates.h"

namespace llmproxy {
namespace {

using enum Delivery;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Holds each write until the test answers it.
class ScriptedDatabase final : public TestDatabase {
 public:
  // The n-th batch (from 0), once it has come.
  std::vector<Event> batch(size_t n) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return batches_.size() > n; });
    return batches_[n];
  }
  size_t batches() {
    const std::lock_guard lock(mutex_);
    return batches_.size();
  }
  void answer(BatchResult result) {
    const std::lock_guard lock(mutex_);
    answers_.push_back(std::move(result));
    changed_.notify_all();
  }
  void answer_all(std::optional<Delivery> delivery) {
    const std::lock_guard lock(mutex_);
    for_all_ = delivery;
    changed_.notify_all();
  }
  // What it has taken, and how often each was sent.
  std::map<ObjectId, Event> stored() {
    const std::lock_guard lock(mutex_);
    return stored_;
  }

  BatchResult write_events(std::span<const Event> events) override {
    std::unique_lock lock(mutex_);
    batches_.emplace_back(events.begin(), events.end());
    changed_.notify_all();
    changed_.wait(lock, [&] { return for_all_ || !answers_.empty(); });
    BatchResult result{std::vector<Delivery>(events.size(), for_all_.value_or(kRetry)), "scripted"};
    if (!answers_.empty()) {
      result = std::move(answers_.front());
      answers_.pop_front();
    }
    for (size_t i = 0; i < events.size(); ++i) {
      if (result.deliveries[i] != kDelivered) continue;
      const auto [place, is_new] = stored_.emplace(events[i].id, events[i]);
      EXPECT_TRUE(is_new || place->second == events[i]) << "two events under one id";
    }
    return result;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::vector<Event>> batches_;
  std::deque<BatchResult> answers_;
  std::optional<Delivery> for_all_;
  std::map<ObjectId, Event> stored_;
};

// A log into a pipe; text() is what was written so far (it must fit the pipe).
class LogPipe {
 public:
  LogPipe() {
    if (pipe(ends_) != 0) std::abort();
    log.emplace(ends_[1]);
  }
  ~LogPipe() {
    log.reset();
    close(ends_[0]);
    close(ends_[1]);
  }
  std::string text() {
    log->flush(seconds(10));
    const std::string mark = "end of what was written";
    log->error("{}", mark);
    while (text_.find(mark) == std::string::npos) {
      char buffer[4096];
      const ssize_t n = read(ends_[0], buffer, sizeof buffer);
      if (n <= 0) break;
      text_.append(buffer, static_cast<size_t>(n));
    }
    return text_;
  }
  std::optional<Log> log;

 private:
  int ends_[2]{};
  std::string text_;
};

size_t count(const std::string& text, std::string_view word) {
  size_t found = 0;
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++found;
  return found;
}

class Told final : public Waiter {
 public:
  void done(bool is_durable) noexcept override {
    const std::lock_guard lock(mutex_);
    answers_.push_back(is_durable);
    changed_.notify_all();
  }
  // The first `n` answers, once they are there.
  std::vector<bool> wait(size_t n) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return answers_.size() >= n; });
    return answers_;
  }
  std::vector<bool> answers() {
    const std::lock_guard lock(mutex_);
    return answers_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<bool> answers_;
};

ObjectId id(uint8_t number) {
  return rig::id(number);
}

Settlement settlement(Outcome::Kind kind, uint8_t number) {
  return {.intent = {.id = id(number),
                     .time = 1'790'000'000'000,
                     .user_id = {.text = "user2"},
                     .api_key_id = "507f1f77bcf86cd799439011",
                     .model = "llama31-70b",
                     .backend = "llama \"quoted\""},
          .has_intent = false,
          .was_unresolved = false,
          .outcome = {.kind = kind, .figure = {number, 2 * number}, .reason = "no figure"},
          .date_created = 1'790'000'001'250};
}

using Kind = Outcome::Kind;

Event event(uint8_t number) {
  return {.id = id(number),
          .date_created = 1'790'000'001'250,
          .user_id = {.text = "user2"},
          .api_key_id = "507f1f77bcf86cd799439011",
          .model = "llama31-70b",
          .prompt_n = number,
          .completion_n = 2 * number};
}

class LedgerTest : public testing::Test {
 protected:
  LedgerTest() {
    std::string name = std::filesystem::temp_directory_path() / "ledger_test.XXXXXX";
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  // A failed test leaves nobody waiting for an answer.
  ~LedgerTest() override {
    if (database_) database_->answer_all(kDelivered);
    for (Gate* gate : {&gates_->read, &gates_->write, &gates_->create}) gate->open();
    ledger_.reset();
    std::filesystem::remove_all(path_);
  }
  // All waits so short that they are none; the scripted database makes the order.
  static Ledger::Settings settings() {
    return {.max_bytes = uint64_t{16} << 20,
            .commit_timeout = std::chrono::minutes(1),
            .ship_interval = milliseconds(0),
            .max_replay_age = std::chrono::hours(24 * 365 * 100),
            .backoff_min = milliseconds(0),
            .backoff_max = milliseconds(0)};
  }
  // A life; the one before is over.
  Ledger& start(const Ledger::Settings& chosen = settings()) {
    ledger_.reset();
    std::string problem;
    std::unique_ptr<Directory> directory;
    do {  // a thread that was left behind keeps the lock a little longer
      directory = open_directory(path_ + "/ledger", problem);
    } while (directory == nullptr && problem == "another process has it");
    EXPECT_NE(directory, nullptr) << problem;
    auto opened = Ledger::open(std::make_unique<GatedDirectory>(std::move(directory), gates_),
                               database_, *pipe_.log, chosen);
    EXPECT_TRUE(opened) << opened.error().message;
    ledger_ = std::move(*opened);
    return *ledger_;
  }
  // Told durable when it returns.
  void settle(Settlement one) {
    ASSERT_TRUE(one.was_unresolved || ledger_->reserve(one.intent));
    const size_t before = told_.answers().size();
    ledger_->settle(std::move(one), told_);
    told_.wait(before + 1);
  }
  void bill(uint8_t number) { settle(settlement(Kind::kBilled, number)); }
  std::vector<uint8_t> ids(size_t batch) {
    std::vector<uint8_t> numbers;
    for (const Event& one : database_->batch(batch)) numbers.push_back(one.id.bytes[11]);
    return numbers;
  }
  std::vector<uint8_t> stored() {
    std::vector<uint8_t> numbers;
    for (const auto& [key, one] : database_->stored()) numbers.push_back(key.bytes[11]);
    return numbers;
  }

  std::string path_;
  LogPipe pipe_;
  Told told_;
  std::shared_ptr<Gates> gates_ = std::make_shared<Gates>();
  std::shared_ptr<ScriptedDatabase> database_ = std::make_shared<ScriptedDatabase>();
  std::unique_ptr<Ledger> ledger_;
};

using Ids = std::vector<uint8_t>;
constexpr seconds kLong{60};

TEST_F(LedgerTest, ABilledRequestBecomesOneEventWithItsFields) {
  Ledger& ledger = start();
  bill(7);
  EXPECT_EQ(told_.answers(), std::vector{true});
  EXPECT_EQ(database_->batch(0), std::vector{event(7)});
  EXPECT_EQ(ledger.counts().backlog, 1u) << "until the database has answered";
  database_->answer({{kDelivered}});
  EXPECT_TRUE(ledger.close(kLong));
  const LedgerCounts counts = ledger.counts();
  EXPECT_EQ(counts.accepted, 1u);
  EXPECT_EQ(counts.billed, 1u);
  EXPECT_EQ(counts.in_flight, 0u);
  EXPECT_EQ(counts.delivered, 1u);
  EXPECT_EQ(counts.backlog, 0u);
}

TEST_F(LedgerTest, FreeIsCountedAndUnresolvedIsTold) {
  Ledger& ledger = start();
  const Settlement free = settlement(Kind::kFree, 1);
  ASSERT_TRUE(ledger.reserve(free.intent));
  ledger.settle(free, told_);
  EXPECT_EQ(told_.answers(), std::vector{true}) << "at once";
  Settlement stream = settlement(Kind::kUnresolved, 2);
  ASSERT_TRUE(ledger.reserve(stream.intent));
  ledger.open(stream.intent, false, told_);
  EXPECT_EQ(told_.wait(2), (std::vector{true, true}));
  EXPECT_EQ(ledger.counts().in_flight, 1u);
  stream.has_intent = true;
  ledger.settle(stream, told_);
  EXPECT_EQ(told_.wait(3), (std::vector{true, true, true}));
  const Settlement given_back = settlement(Kind::kFree, 3);
  ASSERT_TRUE(ledger.reserve(given_back.intent));
  ledger.release(given_back.intent);
  EXPECT_TRUE(ledger.close(kLong));
  const LedgerCounts counts = ledger.counts();
  EXPECT_EQ(counts.accepted, 2u);
  EXPECT_EQ(counts.free, 1u);
  EXPECT_EQ(counts.unresolved, 1u);
  EXPECT_EQ(counts.billed, 0u);
  EXPECT_EQ(counts.in_flight, 0u);
  const std::string log = pipe_.text();
  EXPECT_EQ(count(log, "unresolved: "), 1u);
  for (const char* part : {"000000000000000000000002", "507f1f77bcf86cd799439011", "\"user2\"",
                           "\"llama31-70b\"", R"("llama \"quoted\"")", "\"no figure\"", "ERROR"}) {
    EXPECT_NE(log.find(part), std::string::npos) << part << " in " << log;
  }
}

TEST_F(LedgerTest, AFigureThatComesLateBillsWhatWasUnresolved) {
  Ledger& ledger = start();
  settle(settlement(Kind::kUnresolved, 2));
  Settlement late = settlement(Kind::kBilled, 2);
  late.was_unresolved = true;
  settle(late);
  EXPECT_EQ(database_->batch(0), std::vector{event(2)});
  database_->answer({{kDelivered}});
  EXPECT_TRUE(ledger.close(kLong));
  EXPECT_EQ(ledger.counts().unresolved, 0u);
  EXPECT_EQ(ledger.counts().billed, 1u);
  EXPECT_EQ(ledger.counts().late, 1u);
  EXPECT_EQ(ledger.counts().accepted, 1u);
  EXPECT_EQ(count(pipe_.text(), "came late"), 1u);
}

TEST_F(LedgerTest, TheObserverSeesWhatWasDelivered) {
  Ledger& ledger = start();
  struct Seen {
    std::mutex mutex;
    std::condition_variable changed;
    Ids ids;
  } seen;
  ledger.set_observer(
      [](const Event& one, void* context) {
        auto& all = *static_cast<Seen*>(context);
        const std::lock_guard lock(all.mutex);
        all.ids.push_back(one.id.bytes[11]);
        all.changed.notify_all();
      },
      &seen);
  database_->answer_all(kDelivered);
  for (uint8_t i = 1; i <= 4; ++i) bill(i);
  std::unique_lock lock(seen.mutex);
  seen.changed.wait(lock, [&] { return seen.ids.size() == 4; });
  EXPECT_EQ(seen.ids, (Ids{1, 2, 3, 4}));
}

// Which of 2 to 4 have been read when a batch is made is a matter of time.
TEST_F(LedgerTest, ARetryKeepsIdsAndOrderAndAnOutageIsToldOnce) {
  Ledger& ledger = start();
  bill(1);
  ASSERT_EQ(ids(0), (Ids{1}));
  bill(2);
  bill(3);
  database_->answer({{kRetry}, "no server"});
  const Ids again = ids(1);
  const Ids all{1, 2, 3};
  EXPECT_EQ(again, Ids(all.begin(), all.begin() + static_cast<ptrdiff_t>(again.size())));
  bill(4);
  std::vector<Delivery> deliveries(again.size(), kDelivered);
  deliveries.front() = kRetry;
  database_->answer({deliveries, "no server"});
  EXPECT_EQ(ids(2).front(), 1);
  database_->answer_all(kDelivered);
  EXPECT_TRUE(ledger.close(kLong));
  EXPECT_EQ(ledger.counts().delivered, 4u);
  const std::string log = pipe_.text();
  EXPECT_EQ(count(log, "database takes no events"), 1u) << log;
  EXPECT_EQ(count(log, "no server"), 1u) << log;
  EXPECT_EQ(count(log, "takes events again"), 1u) << log;
}

TEST_F(LedgerTest, ARefusedEventIsToldAndNeverSentAgain) {
  Ledger& ledger = start();
  bill(9);
  database_->batch(0);
  database_->answer({{kRefused}, "another document has its _id"});
  database_->answer_all(kDelivered);
  EXPECT_TRUE(ledger.close(kLong));
  EXPECT_EQ(ledger.counts().dead, 1u);
  EXPECT_EQ(ledger.counts().delivered, 0u);
  EXPECT_EQ(ledger.counts().backlog, 0u);
  const std::string log = pipe_.text();
  for (const char* part : {"refused", "000000000000000000000009", "\"prompt_n\":9",
                           "\"completion_n\":18", "another document has its _id"}) {
    EXPECT_NE(log.find(part), std::string::npos) << part << " in " << log;
  }
  EXPECT_TRUE(start().close(kLong));
  EXPECT_EQ(database_->batches(), 1u) << "nor by the next life";
}

TEST_F(LedgerTest, AnEventThatIsTooOldIsWithheld) {
  auto young = settings();
  young.max_replay_age = seconds(1);
  Ledger& ledger = start(young);
  bill(9);
  EXPECT_TRUE(ledger.close(kLong));
  EXPECT_EQ(ledger.counts().dead, 1u);
  EXPECT_EQ(database_->batches(), 0u);
  EXPECT_EQ(count(pipe_.text(), "older than max_replay_age"), 1u);
}

// The end.

TEST_F(LedgerTest, CloseRefusesNewWorkAndShipsTheRest) {
  auto slow = settings();
  slow.ship_interval = std::chrono::hours(1);
  Ledger& ledger = start(slow);
  bill(1);
  bill(2);
  database_->answer_all(kDelivered);
  EXPECT_TRUE(ledger.close(kLong)) << "close does not wait for the interval";
  EXPECT_EQ(ids(0), (Ids{1, 2}));
  EXPECT_FALSE(ledger.reserve(settlement(Kind::kFree, 3).intent));
  EXPECT_TRUE(ledger.close(kLong)) << "again";
}

TEST_F(LedgerTest, WhatIsNotShippedWaitsForTheNextStart) {
  Ledger& first = start();
  database_->answer_all(kRetry);
  bill(1);
  bill(2);
  EXPECT_TRUE(first.close(milliseconds(0)));
  EXPECT_EQ(first.counts().backlog, 2u);
  EXPECT_EQ(first.counts().delivered, 0u);
  EXPECT_EQ(count(pipe_.text(), "2 events are not in the database yet"), 1u);
  database_->answer_all(kDelivered);
  Ledger& second = start();
  EXPECT_TRUE(second.close(kLong));
  EXPECT_EQ(second.counts().delivered, 2u);
  EXPECT_EQ(second.counts().billed, 0u) << "they were the first one's";
  EXPECT_EQ(stored(), (Ids{1, 2}));
  const size_t batches = database_->batches();
  EXPECT_TRUE(start().close(kLong));
  EXPECT_EQ(database_->batches(), batches) << "once";
}

TEST_F(LedgerTest, CloseLeavesAHangingDatabaseBehind) {
  Ledger& ledger = start();
  bill(1);
  database_->batch(0);  // the thread is inside now, and stays there
  bill(2);
  EXPECT_TRUE(ledger.close(milliseconds(0)));
  ledger_.reset();
  const std::string log = pipe_.text();
  EXPECT_EQ(count(log, "did not answer in time"), 1u) << log;
  EXPECT_EQ(count(log, "2 events are not in the database yet"), 1u) << log;

  // The thread comes back after ledger and log are gone, and lets go of what it kept alive.
  pipe_.log.reset();
  const std::weak_ptr<ScriptedDatabase> alive = database_;
  database_->answer_all(kDelivered);
  database_.reset();
  while (!alive.expired()) std::this_thread::yield();
  pipe_.log.emplace(2, LogLevel::kCritical);

  // What it took, nobody knows: the next start sends both.
  database_ = std::make_shared<ScriptedDatabase>();
  database_->answer_all(kDelivered);
  EXPECT_TRUE(start().close(kLong));
  EXPECT_EQ(database_->stored().at(id(1)), event(1));
  EXPECT_EQ(stored(), (Ids{1, 2}));
}

TEST_F(LedgerTest, WhatIsSettledAfterCloseIsToldFalse) {
  Ledger& ledger = start();
  Settlement plain = settlement(Kind::kBilled, 5), stream = settlement(Kind::kBilled, 6);
  ASSERT_TRUE(ledger.reserve(plain.intent) && ledger.reserve(stream.intent));
  ledger.open(stream.intent, false, told_);
  EXPECT_EQ(told_.wait(1), std::vector{true});
  EXPECT_TRUE(ledger.close(kLong));
  ledger.settle(plain, told_);
  stream.has_intent = true;
  ledger.settle(stream, told_);
  ledger.open(plain.intent, false, told_);
  ledger.progress(stream.intent.id, {1, 2}, true);
  EXPECT_EQ(told_.answers(), (std::vector{true, false, false, false}));
  start();
  EXPECT_EQ(ledger_->counts().recovered_unresolved, 1u) << "the stream, and nothing else";
  EXPECT_EQ(ledger_->counts().backlog, 0u);
}

TEST_F(LedgerTest, AStreamThatIsOpenAtTheEndIsBilledFromItsProgress) {
  database_->answer_all(kDelivered);
  Ledger& ledger = start();
  const Intent intent = settlement(Kind::kBilled, 6).intent;
  ASSERT_TRUE(ledger.reserve(intent));
  ledger.open(intent, true, told_);
  told_.wait(1);
  const uint64_t commits = ledger.counts().commits;
  ledger.progress(intent.id, {6, 60}, false);
  while (ledger.counts().commits == commits) std::this_thread::yield();
  EXPECT_TRUE(ledger.close(kLong));
  Ledger& next = start();
  EXPECT_EQ(next.counts().recovered_billed, 1u);
  EXPECT_TRUE(next.close(kLong));
  Event expected = event(6);
  expected.date_created = intent.time;
  expected.completion_n = 60;
  EXPECT_EQ(database_->stored().at(id(6)), expected);
}

// Streams that only damage can make: open, and unresolved already. What closes them lies between.
TEST_F(LedgerTest, EachStreamThatAStartLeavesUnresolvedIsTold) {
  {
    std::string problem;
    const std::unique_ptr<Directory> directory = open_directory(path_ + "/ledger", problem);
    ASSERT_NE(directory, nullptr) << problem;
    Result<Recovered> found = recover_ledger(*directory, {"", false});
    LedgerLog log(*directory, {}, std::move(found->start));
    auto chore = log.next_chore(monotonic_now());
    ASSERT_EQ(log.run_chore(*chore), 0);
    log.end_chore(*chore, 0, monotonic_now());
    for (uint16_t number = 1; number <= 3; ++number) {
      log.append({.record = rig::unresolved(number)});
      log.append({.record = rig::open(number)});
    }
    std::vector<LedgerLog::Told> told;
    for (const bool is_witness : {false, true}) {
      const auto write = log.begin_write(monotonic_now(), is_witness);
      ASSERT_EQ(write->file->write(write->offset, write->bytes), 0);
      log.end_write(0, monotonic_now(), told);
    }
  }
  EXPECT_EQ(start().counts().recovered_unresolved, 3u);
  EXPECT_EQ(count(pipe_.text(), "unresolved: "), 3u) << pipe_.text();
}

TEST_F(LedgerTest, ARequestWhoseNamesAreTooLongIsRefused) {
  Intent intent = settlement(Kind::kBilled, 1).intent;
  intent.user_id.text.assign(kRecordBytesMax, 'u');
  EXPECT_FALSE(start().reserve(intent));
  EXPECT_EQ(ledger_->counts().accepted, 0u);
}

TEST_F(LedgerTest, AMaxBytesThatIsTooSmallIsRefused) {
  std::string problem;
  std::unique_ptr<Directory> directory = open_directory(path_ + "/ledger", problem);
  ASSERT_NE(directory, nullptr) << problem;
  auto chosen = settings();
  chosen.max_bytes = LedgerCore::max_bytes_min(directory->block_bytes()) - 1;
  const auto opened = Ledger::open(std::move(directory), database_, *pipe_.log, chosen);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().status, 78);
  EXPECT_NE(opened.error().message.find("max_bytes is"), std::string::npos);
}

// Each wake is a system call of a thread that answers clients.
TEST_F(LedgerTest, WhileTheWriterPacesNobodyWakesIt) {
  auto pacing = settings();
  pacing.commit_gap = std::chrono::hours(1);
  Ledger& ledger = start(pacing);
  database_->answer_all(kDelivered);
  bill(1);  // alone: at once
  const Intent idle = settlement(Kind::kFree, 2).intent;
  ASSERT_TRUE(ledger.reserve(idle));  // somebody is left who could come along
  const LedgerCounts before = ledger.counts();
  constexpr uint8_t kRequests = 40;  // for which there is room without a commit
  for (uint8_t i = 3; i < 3 + kRequests; ++i) {
    ASSERT_TRUE(ledger.reserve(settlement(Kind::kBilled, i).intent));
    ledger.settle(settlement(Kind::kBilled, i), told_);
    ledger.progress(idle.id, {1, i}, false);
  }
  EXPECT_LE(ledger.counts().writer_wakes - before.writer_wakes, 2u);
  EXPECT_EQ(ledger.counts().commits, before.commits);
  ledger.release(idle);
  Settlement last = settlement(Kind::kBilled, 3 + kRequests);
  ASSERT_TRUE(ledger.reserve(last.intent));
  ledger.settle(last, told_);
  told_.wait(2 + kRequests);  // everybody waits: it is woken
  EXPECT_TRUE(ledger.close(kLong));
  EXPECT_EQ(database_->stored().size(), 2u + kRequests);
}

// More than the spares have room for, and nothing is committed meanwhile.
TEST_F(LedgerTest, RoomIsMadeAsItIsTaken) {
  Ledger& ledger = start();
  const MonotonicTime deadline = monotonic_now() + seconds(30);
  const Intent intent = settlement(Kind::kFree, 1).intent;
  constexpr size_t kRequests = 400;
  size_t taken = 0;
  while (taken < kRequests && monotonic_now() < deadline) {
    ledger.reserve(intent) ? static_cast<void>(++taken) : std::this_thread::yield();
  }
  EXPECT_EQ(taken, kRequests);
  EXPECT_EQ(ledger.counts().commits, 0u);
}

TEST_F(LedgerTest, ASecondOneIsRefusedByTheLock) {
  start();
  std::string problem;
  EXPECT_EQ(open_directory(path_ + "/ledger", problem), nullptr);
  EXPECT_EQ(problem, "another process has it");
  ledger_.reset();
  EXPECT_NE(open_directory(path_ + "/ledger", problem), nullptr);
}

// Perhaps before, where the keeper or the shipper wakes the writer.
TEST_F(LedgerTest, WhatIsToldWithoutAWakeIsWrittenAtTheNextOne) {
  Ledger& ledger = start();
  database_->answer_all(kDelivered);
  for (uint8_t i = 1; i <= 10; ++i) {
    ASSERT_TRUE(ledger.reserve(settlement(Kind::kBilled, i).intent));
    ledger.settle(settlement(Kind::kBilled, i), told_, Ledger::Wake::kLater);
  }
  ledger.wake();
  EXPECT_EQ(told_.wait(10), std::vector<bool>(10, true));
}

// A disk that does not answer.

TEST_F(LedgerTest, ASlowDiskGetsNoNewWork) {
  auto impatient = settings();
  impatient.commit_timeout = milliseconds(0);
  Ledger& ledger = start(impatient);
  database_->answer_all(kDelivered);
  ASSERT_TRUE(ledger.reserve(settlement(Kind::kBilled, 1).intent));
  gates_->write.close();
  ledger.settle(settlement(Kind::kBilled, 1), told_);
  gates_->write.await_someone();
  while (!ledger.is_stalled()) std::this_thread::yield();
  EXPECT_FALSE(ledger.reserve(settlement(Kind::kFree, 2).intent));
  EXPECT_TRUE(told_.answers().empty());
  gates_->write.open();
  EXPECT_EQ(told_.wait(1), std::vector{true}) << "what waits goes on waiting";
  while (ledger.is_stalled()) std::this_thread::yield();
  EXPECT_TRUE(ledger.reserve(settlement(Kind::kFree, 2).intent));
}

// Which of its calls hangs.
class HangingDisk : public LedgerTest, public testing::WithParamInterface<Gate Gates::*> {};

TEST_P(HangingDisk, DoesNotHoldTheEndUp) {
  auto impatient = settings();
  impatient.commit_timeout = milliseconds(20);
  Ledger& ledger = start(impatient);
  Gate& gate = (*gates_).*GetParam();
  gate.close();
  if (GetParam() == &Gates::create) {  // a spare is made when a segment has become full
    for (uint8_t i = 1; i <= 200 && !gate.has_someone(); ++i) {
      Settlement one = settlement(Kind::kBilled, i);
      while (!ledger.reserve(one.intent)) std::this_thread::yield();  // a slow write holds it up
      ledger.settle(std::move(one), told_);
      told_.wait(i);
    }
  } else {
    ASSERT_TRUE(ledger.reserve(settlement(Kind::kBilled, 1).intent));
    ledger.settle(settlement(Kind::kBilled, 1), told_);
  }
  gate.await_someone();
  EXPECT_FALSE(ledger.close(milliseconds(0)));
  EXPECT_EQ(count(pipe_.text(), "the disk does not answer"), 1u);
  ledger_.reset();
  gate.open();
  database_->answer_all(kDelivered);
  EXPECT_TRUE(start().close(kLong));
  EXPECT_TRUE(database_->stored().contains(id(1)));
}

INSTANTIATE_TEST_SUITE_P(Call, HangingDisk,
                         testing::Values(&Gates::write, &Gates::read, &Gates::create));

// All together.

TEST_F(LedgerTest, ManyThreadsNothingLostNothingTwice) {
  constexpr int kThreads = 4, kLives = 3, kEach = 100;
  ObjectIdMint mint;
  std::mutex mutex;
  std::map<ObjectId, Event> billed;
  for (int life = 0; life < kLives; ++life) {
    Ledger& ledger = start();
    database_->answer_all(life == 1 ? kRetry : kDelivered);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < kEach; ++i) {
          Settlement one = settlement(Kind::kBilled, static_cast<uint8_t>(t * 50 + i % 50));
          one.intent.id = mint.mint(one.date_created);
          one.has_intent = i % 2 == 0;
          if (i % 10 == 3) one.outcome.kind = Kind::kFree;
          if (i % 10 == 6) one.outcome.kind = Kind::kUnresolved;
          while (!ledger.reserve(one.intent)) std::this_thread::yield();
          Told told;
          if (one.has_intent) {
            ledger.open(one.intent, true, told);
            told.wait(1);
            ledger.progress(one.intent.id, {1, i}, false);
          }
          if (one.outcome.kind == Kind::kBilled) {
            Event expected = event(static_cast<uint8_t>(one.outcome.figure.prompt_n));
            expected.id = one.intent.id;
            const std::lock_guard lock(mutex);
            billed.emplace(expected.id, expected);
          }
          ledger.settle(one, told);
          for (const bool is_durable : told.wait(one.has_intent ? 2 : 1)) EXPECT_TRUE(is_durable);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_TRUE(ledger.close(life == kLives - 1 ? kLong : milliseconds(0)));
    const LedgerCounts counts = ledger.counts();
    EXPECT_EQ(counts.accepted, uint64_t{kThreads} * kEach);
    EXPECT_EQ(counts.billed, uint64_t{kThreads} * kEach * 8 / 10);
    EXPECT_EQ(counts.unresolved, uint64_t{kThreads} * kEach / 10);
    EXPECT_EQ(counts.free, uint64_t{kThreads} * kEach / 10);
    EXPECT_EQ(counts.in_flight, 0u);
  }
  EXPECT_EQ(ledger_->counts().backlog, 0u);
  EXPECT_EQ(database_->stored(), billed);
}

}  // namespace
}  // namespace llmproxy
