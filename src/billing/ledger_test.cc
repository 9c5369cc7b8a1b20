// The ledger over a database whose every answer the test gives: room, counts, log lines, the end.
#include "billing/ledger.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <vector>

#include "api/json_edit.h"

namespace llmproxy {
namespace {

using enum Delivery;
using std::chrono::milliseconds;

constexpr milliseconds kPatience{3'600'000};  // of close(): the database answers all the same

// Holds each write until the test answers it.
class ScriptedDatabase final : public Database {
 public:
  // The n-th batch (from 0), once it has come.
  std::vector<Event> batch(size_t n) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return batches_.size() > n; });
    return batches_[n];
  }
  void answer(BatchResult result) {
    const std::lock_guard lock(mutex_);
    answers_.push_back(std::move(result));
    changed_.notify_all();
  }
  void answer_all(Delivery delivery) {
    const std::lock_guard lock(mutex_);
    for_all_ = delivery;
    changed_.notify_all();
  }

  BatchResult write_events(std::span<const Event> events) override {
    std::unique_lock lock(mutex_);
    batches_.emplace_back(events.begin(), events.end());
    changed_.notify_all();
    changed_.wait(lock, [&] { return for_all_ || !answers_.empty(); });
    if (answers_.empty()) {
      return {std::vector<Delivery>(events.size(), *for_all_), "scripted"};
    }
    BatchResult result = std::move(answers_.front());
    answers_.pop_front();
    return result;
  }
  KeyLookup find_key(std::string_view, std::string_view, WallMs) override { return {}; }
  Result<std::string> create_key(const NewKey&) override { return Error{}; }
  Result<std::vector<KeyRecord>> list_keys() override { return Error{}; }
  Result<bool> set_key_expiry(std::string_view, std::optional<WallMs>) override { return Error{}; }
  Result<bool> delete_key(std::string_view) override { return Error{}; }
  std::string check() override { return ""; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::vector<Event>> batches_;
  std::deque<BatchResult> answers_;
  std::optional<Delivery> for_all_;
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
    log->flush(std::chrono::seconds(10));
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

struct Told final : Waiter {
  void done(bool is_durable) noexcept override { answers.push_back(is_durable); }
  std::vector<bool> answers;
};

ObjectId id(uint8_t number) {
  ObjectId id;
  id.bytes[11] = number;
  return id;
}

Settlement settlement(Outcome::Kind kind, uint8_t number) {
  return {.intent = {.id = id(number),
                     .time = 1'790'000'000'000,
                     .user_id = {.text = "user2"},
                     .api_key_id = "507f1f77bcf86cd799439011",
                     .model = "llama31-70b",
                     .backend = "llama \"quoted\""},
          .has_intent = true,
          .outcome = {.kind = kind, .figure = {number, 2 * number}, .reason = "no figure"},
          .date_created = 1'790'000'001'250};
}

class LedgerTest : public testing::Test {
 protected:
  // A failed test leaves nobody waiting for an answer.
  void TearDown() override {
    if (database_) database_->answer_all(kDelivered);
  }
  // All waits so short that they are none; the scripted database makes the order.
  static Ledger::Settings settings() {
    return {.events_max = 4,
            .ship_interval = milliseconds(0),
            .backoff_min = milliseconds(0),
            .backoff_max = milliseconds(0)};
  }
  Ledger& start(Ledger::Settings chosen = settings()) {
    ledger_.emplace(database_, *pipe_.log, chosen);
    return *ledger_;
  }
  void bill(uint8_t number) {
    ASSERT_TRUE(ledger_->reserve());
    ledger_->settle(settlement(Outcome::Kind::kBilled, number), told_);
  }
  std::vector<uint8_t> ids(size_t batch) {
    std::vector<uint8_t> numbers;
    for (const Event& event : database_->batch(batch)) numbers.push_back(event.id.bytes[11]);
    return numbers;
  }

  LogPipe pipe_;
  Told told_;
  std::shared_ptr<ScriptedDatabase> database_ = std::make_shared<ScriptedDatabase>();
  std::optional<Ledger> ledger_;
};

TEST_F(LedgerTest, ABilledRequestBecomesOneEventWithItsFields) {
  Ledger& ledger = start();
  bill(7);
  EXPECT_EQ(told_.answers, std::vector{true});
  const Event expected{.id = id(7),
                       .date_created = 1'790'000'001'250,
                       .user_id = {.text = "user2"},
                       .api_key_id = "507f1f77bcf86cd799439011",
                       .model = "llama31-70b",
                       .prompt_n = 7,
                       .completion_n = 14};
  EXPECT_EQ(database_->batch(0), std::vector{expected});
  EXPECT_EQ(ledger.counts().queued, 1U) << "until the database has answered";
  database_->answer({{kDelivered}});
  EXPECT_EQ(ledger.close(kPatience), 0U);
  EXPECT_EQ(ledger.counts().billed, 1U);
  EXPECT_EQ(ledger.counts().delivered, 1U);
  EXPECT_EQ(ledger.counts().queued, 0U);
}

TEST_F(LedgerTest, FreeIsCountedAndUnresolvedIsTold) {
  Ledger& ledger = start();
  ASSERT_TRUE(ledger.reserve());
  ledger.open(settlement(Outcome::Kind::kFree, 1).intent, told_);
  ledger.settle(settlement(Outcome::Kind::kFree, 1), told_);
  ASSERT_TRUE(ledger.reserve());
  ledger.settle(settlement(Outcome::Kind::kUnresolved, 2), told_);
  EXPECT_EQ(told_.answers, (std::vector{true, true, true}));
  EXPECT_EQ(ledger.close(kPatience), 0U);
  EXPECT_EQ(ledger.counts().free, 1U);
  EXPECT_EQ(ledger.counts().unresolved, 1U);
  EXPECT_EQ(ledger.counts().billed, 0U);
  const std::string log = pipe_.text();
  EXPECT_EQ(count(log, "unresolved: "), 1U);
  for (const char* part : {"000000000000000000000002", "507f1f77bcf86cd799439011", "\"user2\"",
                           "\"llama31-70b\"", R"("llama \"quoted\"")", "\"no figure\"", "ERROR"}) {
    EXPECT_NE(log.find(part), std::string::npos) << part << " in " << log;
  }
}

TEST_F(LedgerTest, AFigureThatComesLateBillsWhatWasUnresolved) {
  Ledger& ledger = start();
  ASSERT_TRUE(ledger.reserve());
  ledger.settle(settlement(Outcome::Kind::kUnresolved, 2), told_);
  Settlement late = settlement(Outcome::Kind::kBilled, 2);
  late.was_unresolved = true;
  ledger.settle(late, told_);
  EXPECT_EQ(ids(0), std::vector<uint8_t>{2});
  database_->answer({{kDelivered}});
  EXPECT_EQ(ledger.close(kPatience), 0U);
  EXPECT_EQ(ledger.counts().unresolved, 0U);
  EXPECT_EQ(ledger.counts().billed, 1U);
  EXPECT_EQ(count(pipe_.text(), "came late"), 1U);
}

TEST_F(LedgerTest, FullRefusesUntilTheDatabaseHasTaken) {
  Ledger& ledger = start();
  bill(1);
  bill(2);
  ASSERT_TRUE(ledger.reserve());
  ASSERT_TRUE(ledger.reserve());
  EXPECT_FALSE(ledger.reserve()) << "two reservations and two events";
  ledger.release();
  EXPECT_TRUE(ledger.reserve());
  ledger.settle(settlement(Outcome::Kind::kFree, 3), told_);
  EXPECT_TRUE(ledger.reserve());
  EXPECT_FALSE(ledger.reserve());
  ledger.release();
  ledger.release();
  database_->answer_all(kDelivered);
  ledger.close(kPatience);
  EXPECT_EQ(ledger.counts().delivered, 2U);
}

TEST_F(LedgerTest, RoomComesBackWithDelivery) {
  Ledger& ledger = start();
  struct Seen {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<uint8_t> ids;
  } seen;
  ledger.set_observer(
      [](const Event& event, void* context) {
        auto& all = *static_cast<Seen*>(context);
        const std::lock_guard lock(all.mutex);
        all.ids.push_back(event.id.bytes[11]);
        all.changed.notify_all();
      },
      &seen);
  database_->answer_all(kDelivered);
  for (uint8_t i = 1; i <= 4; ++i) bill(i);
  {
    std::unique_lock lock(seen.mutex);
    seen.changed.wait(lock, [&] { return seen.ids.size() == 4; });
    EXPECT_EQ(seen.ids, (std::vector<uint8_t>{1, 2, 3, 4}));
  }
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(ledger.reserve());
  EXPECT_FALSE(ledger.reserve());
  for (int i = 0; i < 4; ++i) ledger.release();
}

TEST_F(LedgerTest, ARetryKeepsIdsAndOrderAndAnOutageIsToldOnce) {
  Ledger& ledger = start();
  bill(1);
  ASSERT_EQ(ids(0), (std::vector<uint8_t>{1}));
  bill(2);
  bill(3);
  database_->answer({{kRetry}, "no server"});
  ASSERT_EQ(ids(1), (std::vector<uint8_t>{1, 2, 3}));
  bill(4);
  database_->answer({{kRetry, kDelivered, kRetry}, "no server"});
  ASSERT_EQ(ids(2), (std::vector<uint8_t>{1, 3, 4}));
  database_->answer({{kDelivered, kDelivered, kDelivered}});
  EXPECT_EQ(ledger.close(kPatience), 0U);
  EXPECT_EQ(ledger.counts().delivered, 4U);
  const std::string log = pipe_.text();
  EXPECT_EQ(count(log, "database takes no events"), 1U) << log;
  EXPECT_EQ(count(log, "no server"), 1U) << log;
  EXPECT_EQ(count(log, "takes events again"), 1U) << log;
}

TEST_F(LedgerTest, ARefusedEventIsToldAndNeverSentAgain) {
  Ledger& ledger = start();
  bill(9);
  database_->batch(0);
  database_->answer({{kRefused}, "another document has its _id"});
  database_->answer_all(kDelivered);
  EXPECT_EQ(ledger.close(kPatience), 0U);
  EXPECT_EQ(ledger.counts().refused, 1U);
  EXPECT_EQ(ledger.counts().delivered, 0U);
  const std::string log = pipe_.text();
  for (const char* part : {"refused", "000000000000000000000009", "\"prompt_n\":9",
                           "\"completion_n\":18", "another document has its _id"}) {
    EXPECT_NE(log.find(part), std::string::npos) << part << " in " << log;
  }
}

TEST_F(LedgerTest, CloseRefusesNewWorkAndShipsTheRest) {
  auto slow = settings();
  slow.ship_interval = std::chrono::hours(1);
  Ledger& ledger = start(slow);
  bill(1);
  bill(2);
  database_->answer_all(kDelivered);
  EXPECT_EQ(ledger.close(kPatience), 0U) << "close does not wait for the interval";
  EXPECT_EQ(ids(0), (std::vector<uint8_t>{1, 2}));
  EXPECT_FALSE(ledger.reserve());
  EXPECT_EQ(ledger.close(kPatience), 0U);
}

TEST_F(LedgerTest, CloseTellsWhatADeadDatabaseLoses) {
  auto slow = settings();
  slow.ship_interval = std::chrono::hours(1);
  Ledger& ledger = start(slow);
  bill(1);
  bill(2);
  database_->answer_all(kRetry);
  EXPECT_EQ(ledger.close(milliseconds(0)), 2U);
  EXPECT_EQ(ledger.counts().lost, 2U);
  EXPECT_EQ(ledger.counts().queued, 0U);
  const std::string log = pipe_.text();
  EXPECT_EQ(count(log, "lost: "), 2U) << log;
  EXPECT_NE(log.find(R"(lost: {"_id":"000000000000000000000002",)"
                     R"("date_created":"2026-09-21T14:13:21.250Z","user_id":"user2",)"
                     R"("api_key_id":"507f1f77bcf86cd799439011","model":"llama31-70b",)"
                     R"("prompt_n":2,"completion_n":4})"),
            std::string::npos)
      << log;
}

TEST_F(LedgerTest, CloseLeavesAHangingDatabaseBehind) {
  Ledger& ledger = start();
  bill(1);
  database_->batch(0);  // the thread is inside now, and stays there
  bill(2);
  EXPECT_EQ(ledger.close(milliseconds(0)), 2U);
  ledger_.reset();
  const std::string log = pipe_.text();
  EXPECT_EQ(count(log, "lost: "), 2U) << log;
  EXPECT_NE(log.find("may have arrived"), std::string::npos) << log;

  // The thread comes back after ledger and log are gone, and lets go of what it kept alive.
  pipe_.log.reset();
  const std::weak_ptr<ScriptedDatabase> alive = database_;
  database_->answer_all(kDelivered);
  database_.reset();
  while (!alive.expired()) std::this_thread::yield();
  pipe_.log.emplace(2);
}

TEST_F(LedgerTest, WhatIsSettledAfterCloseIsLostAloud) {
  Ledger& ledger = start();
  ASSERT_TRUE(ledger.reserve());
  ledger.close(kPatience);
  ledger.settle(settlement(Outcome::Kind::kBilled, 5), told_);
  EXPECT_EQ(told_.answers, std::vector{false});
  EXPECT_EQ(ledger.close(kPatience), 1U);
  EXPECT_EQ(count(pipe_.text(), "lost: "), 1U);
}

TEST_F(LedgerTest, ManyThreadsNothingLostNothingTwice) {
  constexpr size_t kThreads = 4, kEach = 2'000;
  auto wide = settings();
  wide.events_max = kThreads * kEach;
  Ledger& ledger = start(wide);
  database_->answer_all(kDelivered);
  ObjectIdMint mint;
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      Told told;
      for (size_t i = 0; i < kEach; ++i) {
        if (!ledger.reserve()) return;
        Settlement one = settlement(Outcome::Kind::kBilled, 1);
        one.intent.id = mint.mint(one.date_created);
        ledger.settle(std::move(one), told);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(ledger.close(kPatience), 0U);
  EXPECT_EQ(ledger.counts().billed, kThreads * kEach);
  EXPECT_EQ(ledger.counts().delivered, kThreads * kEach);
}

}  // namespace
}  // namespace llmproxy
