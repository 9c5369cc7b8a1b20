// What a person decides, on a ledger that runs and ships nothing, over real files; and surveys
// beside one that works.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "billing/ledger.h"
#include "billing/ledger_survey.h"
#include "billing/ledger_test_rig.h"
#include "billing/test_database.h"
#include "billing/test_waiter.h"

namespace llmproxy {
namespace {

using rig::id;
using rig::LogRig;
using Kind = Outcome::Kind;

// Refuses what it is told to refuse, takes the rest.
class RefusingDatabase final : public TestDatabase {
 public:
  BatchResult write_events(std::span<const Event> events) override {
    BatchResult result;
    const std::lock_guard lock(mutex_);
    for (const Event& event : events) {
      const bool is_refused = is_refusing_;
      result.deliveries.push_back(is_refused ? Delivery::kRefused : Delivery::kDelivered);
      if (!is_refused) stored_[event.id] = event;
    }
    return result;
  }
  void set_refusing(bool is_refusing) {
    const std::lock_guard lock(mutex_);
    is_refusing_ = is_refusing;
  }
  std::map<ObjectId, Event> stored() {
    const std::lock_guard lock(mutex_);
    return stored_;
  }

 private:
  std::mutex mutex_;
  bool is_refusing_ = false;
  std::map<ObjectId, Event> stored_;
};

class ByHandTest : public testing::Test {
 protected:
  ByHandTest() : log_(STDERR_FILENO, LogLevel::kCritical) {
    std::string name = std::filesystem::temp_directory_path() / "by_hand_test.XXXXXX";
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~ByHandTest() override {
    ledger_.reset();
    std::filesystem::remove_all(path_);
  }
  Ledger& start(bool has_database = false) {
    ledger_.reset();
    std::string problem;
    auto directory = open_directory(path_, problem);
    EXPECT_NE(directory, nullptr) << problem;
    Ledger::Settings settings;
    settings.max_bytes = uint64_t{16} << 20;
    settings.ship_interval = Milliseconds(1);
    settings.database = "db";
    settings.max_replay_age = std::chrono::hours(24 * 365 * 100);
    auto opened =
        Ledger::open(std::move(directory), has_database ? database_ : nullptr, log_, settings);
    EXPECT_TRUE(opened) << opened.error().message;
    ledger_ = std::move(*opened);
    return *ledger_;
  }
  Settlement settlement(Kind kind, uint16_t number) {
    return {.intent = rig::intent(number),
            .has_intent = false,
            .was_unresolved = false,
            .outcome = {.kind = kind, .figure = {number, 2 * number}, .reason = "no figure"},
            .date_created = rig::intent(number).time + 1'000};
  }
  void settle(Settlement one) {
    TestWaiter told;
    ASSERT_TRUE(one.was_unresolved || ledger_->reserve(one.intent));
    ledger_->settle(std::move(one), told);
    ASSERT_TRUE(told.wait());
  }
  Survey survey() {
    std::string problem;
    const auto directory = open_directory_to_read(path_, problem);
    EXPECT_NE(directory, nullptr) << problem;
    auto found = survey_ledger(*directory);
    EXPECT_TRUE(found) << found.error().message;
    return found ? std::move(*found) : Survey{};
  }
  static std::map<ObjectId, Bill> bills(const Survey& survey) {
    std::map<ObjectId, Bill> all;
    EXPECT_FALSE(read_bills(survey, [&](const Bill& one) {
      EXPECT_TRUE(all.emplace(one.event.id, one).second) << one.event.id.hex();
    }));
    return all;
  }
  // A bill that the database refused, while a running ledger knows it as dead.
  void bury(uint16_t number) {
    database_->set_refusing(true);
    settle(settlement(Kind::kBilled, number));
    while (!survey().state.dead().contains(id(number))) std::this_thread::yield();
    database_->set_refusing(false);
    settle(settlement(Kind::kUnresolved, static_cast<uint16_t>(number + 1'000)));  // behind it
  }
  void await_delivered(const ObjectId& event) {
    while (!database_->stored().contains(event)) std::this_thread::yield();
  }

  std::string path_;
  Log log_;
  std::shared_ptr<RefusingDatabase> database_ = std::make_shared<RefusingDatabase>();
  std::unique_ptr<Ledger> ledger_;
};

TEST_F(ByHandTest, AnUnresolvedRequestIsBilledDatedByItsIntent) {
  start();
  settle(settlement(Kind::kUnresolved, 1));
  EXPECT_FALSE(ledger_->resolve(id(1), Figure{30, 4}));
  const Survey found = survey();
  EXPECT_TRUE(found.state.unresolved().empty());
  const Bill bill = bills(found).at(id(1));
  EXPECT_EQ(bill.event.date_created, rig::intent(1).time);
  EXPECT_EQ(bill.event.prompt_n, 30);
  EXPECT_EQ(bill.event.completion_n, 4);
  EXPECT_EQ(bill.event.model, "model");
  EXPECT_EQ(bill.origin, Origin::kByHand);
  const LedgerCounts counts = ledger_->counts();
  EXPECT_EQ(counts.by_hand, 1u);
  EXPECT_EQ(counts.unresolved, 1u) << "I7: it ended so";
  EXPECT_EQ(counts.billed, 0u);
  EXPECT_EQ(counts.backlog, 1u);
}

TEST_F(ByHandTest, TheSameFigureAgainIsASuccessAndAnotherIsNot) {
  start();
  settle(settlement(Kind::kUnresolved, 1));
  settle(settlement(Kind::kUnresolved, 2));
  EXPECT_FALSE(ledger_->resolve(id(1), Figure{30, 4}));
  EXPECT_FALSE(ledger_->resolve(id(2), std::nullopt));
  for (int life = 0; life < 2; ++life) {
    EXPECT_FALSE(ledger_->resolve(id(1), Figure{30, 4}));
    EXPECT_FALSE(ledger_->resolve(id(2), std::nullopt));
    const auto other = ledger_->resolve(id(1), Figure{30, 5});
    ASSERT_TRUE(other);
    EXPECT_EQ(other->status, 409);
    EXPECT_NE(other->message.find("\"completion_n\":4"), std::string::npos) << other->message;
    EXPECT_EQ(ledger_->resolve(id(1), std::nullopt)->status, 409);
    EXPECT_EQ(ledger_->resolve(id(2), Figure{30, 4})->status, 409);
    start();
  }
  EXPECT_EQ(bills(survey()).size(), 1u);
  EXPECT_EQ(survey().state.totals().billed, 1u);
}

TEST_F(ByHandTest, OnlyUnresolvedRequestsCanBeResolved) {
  start();
  settle(settlement(Kind::kBilled, 1));
  EXPECT_EQ(ledger_->resolve(id(1), Figure{9, 9})->status, 409);
  EXPECT_EQ(ledger_->resolve(id(2), Figure{9, 9})->status, 404);
  EXPECT_EQ(ledger_->resolve(id(2), std::nullopt)->status, 404);
  EXPECT_EQ(bills(survey()).at(id(1)).event.prompt_n, 1);
}

// Its client had its end; the backend's figure comes when a person has decided already.
TEST_F(ByHandTest, ALateFigureChangesNoBillThatWasMadeByHand) {
  start();
  settle(settlement(Kind::kUnresolved, 1));
  EXPECT_FALSE(ledger_->resolve(id(1), Figure{30, 4}));
  Settlement late = settlement(Kind::kBilled, 1);
  late.was_unresolved = true;
  settle(late);
  EXPECT_EQ(bills(survey()).at(id(1)).event.prompt_n, 30);
  EXPECT_EQ(survey().state.totals().billed, 1u);
  EXPECT_EQ(ledger_->counts().late, 0u);
  EXPECT_EQ(ledger_->counts().unresolved, 1u);
}

TEST_F(ByHandTest, WhatALateFigureBilledCannotBeResolved) {
  start();
  settle(settlement(Kind::kUnresolved, 1));
  Settlement late = settlement(Kind::kBilled, 1);
  late.was_unresolved = true;
  settle(late);
  EXPECT_EQ(ledger_->resolve(id(1), Figure{30, 4})->status, 409);
  EXPECT_EQ(survey().state.totals().billed, 1u);
}

TEST_F(ByHandTest, ADeadEventIsSentAgainUnderItsId) {
  start(true);
  bury(1);
  EXPECT_FALSE(ledger_->requeue(id(1)));
  await_delivered(id(1));
  EXPECT_TRUE(survey().state.dead().empty());
  EXPECT_EQ(ledger_->requeue(id(1))->status, 404);
  EXPECT_EQ(database_->stored().at(id(1)), rig::bill(1).event);
}

TEST_F(ByHandTest, AllDeadEventsAreSentAgain) {
  start(true);
  for (uint16_t i = 1; i <= 3; ++i) bury(i);
  const auto count = ledger_->requeue_all();
  ASSERT_TRUE(count);
  EXPECT_EQ(*count, 3u);
  EXPECT_TRUE(survey().state.dead().empty());
  for (uint16_t i = 1; i <= 3; ++i) await_delivered(id(i));
  EXPECT_EQ(*ledger_->requeue_all(), 0u);
}

TEST_F(ByHandTest, ADeadEventIsBilledAnewOnceHoweverOftenItIsSaid) {
  start(true);
  bury(1);
  const auto first = ledger_->rebill(id(1));
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_NE(*first, id(1));
  await_delivered(*first);
  const auto second = ledger_->rebill(id(1));
  ASSERT_TRUE(second);
  EXPECT_EQ(*second, *first);
  const Survey found = survey();
  EXPECT_TRUE(found.state.dead().empty());
  EXPECT_EQ(bills(found).at(id(1)).state, Bill::State::kReplaced);
  EXPECT_EQ(bills(found).size(), 2u);
  EXPECT_FALSE(database_->stored().contains(id(1)));
  EXPECT_EQ(ledger_->rebill(id(2)).error().status, 404);
}

// It was billed anew while an older event held the mark; the next life ships it once more, and has
// it refused once more.
TEST_F(ByHandTest, WhatWasBilledAnewIsNotSentAgainUnderItsId) {
  LogRig log;
  log.start();
  log.commit(rig::bill(1));
  log.commit(rig::bill(2));
  log.commit(rig::dead(2));
  Event anew = rig::bill(2).event;
  anew.id = rebilled_id(id(2));
  log.append(EventRecord{anew, Origin::kByHand});
  log.append(ClosedRecord{id(2)});
  log.commit();
  log.commit(rig::dead(2));
  log.commit(rig::dead(1));
  for (const std::string& name : log.disk.names()) {
    if (name == "lock") continue;
    std::ofstream(path_ + "/" + name, std::ios::binary) << *log.disk.content(name);
  }
  start();
  EXPECT_EQ(ledger_->requeue(id(2))->status, 409);
  const auto count = ledger_->requeue_all();
  ASSERT_TRUE(count);
  EXPECT_EQ(*count, 1u);
  const Survey found = survey();
  EXPECT_EQ(found.state.dead().size(), 1u);
  const auto again = ledger_->rebill(id(2));
  ASSERT_TRUE(again);
  EXPECT_EQ(*again, anew.id);
  EXPECT_TRUE(survey().state.dead().empty());
  EXPECT_EQ(bills(survey()).at(id(2)).state, Bill::State::kReplaced);
}

TEST_F(ByHandTest, WithoutADatabaseNothingIsShippedAndNothingIsLost) {
  start();
  settle(settlement(Kind::kBilled, 1));
  EXPECT_TRUE(ledger_->close(Milliseconds(0)));
  EXPECT_EQ(bills(survey()).at(id(1)).state, Bill::State::kWaiting);
  start(true);
  await_delivered(id(1));
}

TEST_F(ByHandTest, NothingIsDecidedAfterTheEnd) {
  start();
  settle(settlement(Kind::kUnresolved, 1));
  EXPECT_TRUE(ledger_->close(Milliseconds(0)));
  EXPECT_EQ(ledger_->resolve(id(1), Figure{1, 1})->status, 503);
  EXPECT_EQ(survey().state.unresolved().size(), 1u);
}

// Without threads: what is said between two commits.
class CoreByHandTest : public testing::Test {
 protected:
  using ByHand = LedgerCore::ByHand;
  CoreByHandTest() : log_(STDERR_FILENO, LogLevel::kCritical), directory_(disk_.open()) {
    LedgerSettings settings;
    settings.max_bytes = uint64_t{16} << 20;
    Recovered recovered = std::move(*recover_ledger(*directory_, {}));
    core_.emplace(
        *directory_, log_, settings, std::move(recovered), [] { return 0.5; }, now_);
    while (!core_->files().is_ready()) {
      auto chore = core_->files().next_chore(now_);
      const int error = core_->files().run_chore(*chore);
      core_->files().end_chore(*chore, error, now_);
    }
  }
  ~CoreByHandTest() override { core_.reset(); }
  int commit() {
    now_ += Milliseconds(1'000);
    const auto write = core_->begin_commit(now_, false);
    if (!write) return -1;
    const int error = write->file->write(write->offset, write->bytes);
    std::vector<LedgerLog::Told> told;
    core_->end_commit(error, now_, told);
    for (const LedgerLog::Told& one : told) {
      if (one.append.waiter != nullptr) one.append.waiter->done(one.is_durable);
    }
    return error;
  }
  void unresolved(uint16_t number) {
    TestWaiter told;
    ASSERT_TRUE(core_->reserve(rig::intent(number)));
    Settlement one{.intent = rig::intent(number),
                   .has_intent = false,
                   .was_unresolved = false,
                   .outcome = {.kind = Kind::kUnresolved, .reason = "no figure"},
                   .date_created = 1};
    EXPECT_FALSE(core_->settle(std::move(one), told));
    ASSERT_EQ(commit(), 0);
    ASSERT_TRUE(told.wait());
  }

  SimulatedDisk disk_{1};
  Log log_;
  std::unique_ptr<Directory> directory_;
  MonotonicTime now_{std::chrono::hours(1)};
  std::optional<LedgerCore> core_;
};

// Two events of one request would be two bills.
TEST_F(CoreByHandTest, WhatIsBeingResolvedIsNotResolvedTwice) {
  unresolved(1);
  TestWaiter first, second;
  EXPECT_EQ(core_->resolve(id(1), Figure{1, 1}, &first), ByHand::kAppended);
  EXPECT_EQ(core_->resolve(id(1), Figure{1, 1}, &second), ByHand::kUnderWay);
  Settlement late{.intent = rig::intent(1),
                  .has_intent = false,
                  .was_unresolved = true,
                  .outcome = {.kind = Kind::kBilled, .figure = {7, 7}},
                  .date_created = 1};
  EXPECT_TRUE(core_->settle(late, second)) << "nothing of it is written";
  ASSERT_EQ(commit(), 0);
  EXPECT_TRUE(first.wait());
  EXPECT_EQ(core_->files().state().totals().billed, 1u);
  EXPECT_EQ(core_->resolve(id(1), Figure{1, 1}, &second), ByHand::kUnknown);
  EXPECT_EQ(core_->files().bytes_reserved(), 0u);
}

TEST_F(CoreByHandTest, NorWhatALateFigureIsBilling) {
  unresolved(1);
  TestWaiter told, second;
  Settlement late{.intent = rig::intent(1),
                  .has_intent = false,
                  .was_unresolved = true,
                  .outcome = {.kind = Kind::kBilled, .figure = {7, 7}},
                  .date_created = 1};
  EXPECT_FALSE(core_->settle(late, told));
  EXPECT_EQ(core_->resolve(id(1), Figure{1, 1}, &second), ByHand::kUnderWay);
  ASSERT_EQ(commit(), 0);
  EXPECT_TRUE(told.wait());
  EXPECT_EQ(core_->files().state().totals().billed, 1u);
  EXPECT_EQ(core_->counts().late, 1u);
}

TEST_F(CoreByHandTest, WhatTheDiskRefusesChangesNothing) {
  unresolved(1);
  disk_.add_fault({.point = {.call = SimulatedDisk::Call::kWrite, .name_end = ".segment"},
                   .error = EIO,
                   .times = 2});
  TestWaiter told, again;
  EXPECT_EQ(core_->resolve(id(1), Figure{1, 1}, &told), ByHand::kAppended);
  EXPECT_EQ(commit(), EIO);
  EXPECT_EQ(commit(), EIO);
  EXPECT_FALSE(told.wait());
  EXPECT_EQ(core_->counts().by_hand, 0u);
  EXPECT_EQ(core_->counts().free, 0u);
  EXPECT_EQ(core_->files().bytes_reserved(), 0u);
  EXPECT_EQ(commit(), 0) << "the probe";
  while (auto chore = core_->files().next_chore(now_)) {
    const int error = core_->files().run_chore(*chore);
    core_->files().end_chore(*chore, error, now_);
  }
  EXPECT_EQ(core_->resolve(id(1), Figure{1, 1}, &again), ByHand::kAppended);
  EXPECT_EQ(commit(), 0);
  EXPECT_TRUE(again.wait());
  EXPECT_EQ(core_->counts().by_hand, 1u);
}

// A running owner writes, rolls and lets segments go; what is read is never called damage.
TEST_F(ByHandTest, SurveysBesideAWorkingLedgerFindNoDamage) {
  start(true);
  std::atomic<bool> is_over{false};
  std::thread work([&] {
    for (uint16_t number = 1; !is_over; number = static_cast<uint16_t>(number % 60'000 + 1)) {
      Settlement one = settlement(Kind::kBilled, number);
      one.intent.model = std::string(1'500, 'm');
      if (!ledger_->reserve(one.intent)) continue;
      TestWaiter told;
      ledger_->settle(std::move(one), told);
      told.wait();
    }
  });
  uint64_t last = 0;
  for (int i = 0; i < 30 || survey().first_sequence() == 1; ++i) {
    const Survey found = survey();
    EXPECT_TRUE(found.alarms.empty()) << found.alarms.front();
    EXPECT_TRUE(found.notes.empty()) << found.notes.front();
    EXPECT_GE(found.state.last_sequence(), last);
    last = found.state.last_sequence();
    uint64_t expected = found.first_sequence();
    EXPECT_FALSE(read_records(found, 0, [&](uint64_t sequence, const Record&) {
      EXPECT_EQ(sequence, expected++);
      return true;
    }));
    EXPECT_EQ(expected, found.state.last_sequence() + 1);
  }
  is_over = true;
  work.join();
}

}  // namespace
}  // namespace llmproxy
