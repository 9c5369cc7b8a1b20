// The ledger without its threads, over a simulated disk and a database that answers as the test
// says: bounds, and damage that comes while it runs.
#include "billing/ledger_core.h"

#include <gtest/gtest.h>

#include <deque>
#include <string>
#include <vector>

#include "base/test_allocations.h"
#include "billing/ledger_test_rig.h"

namespace llmproxy {
namespace {

using namespace rig;
using std::chrono::milliseconds;
using enum Delivery;

class Nobody final : public Waiter {
 public:
  void done(bool) noexcept override {}
};

constexpr WallMs kWall = 1'790'000'000'000;

class LedgerCoreTest : public testing::Test {
 protected:
  explicit LedgerCoreTest(size_t block_bytes = 512, uint64_t max_bytes = uint64_t{64} << 20)
      : disk_(1, block_bytes) {
    settings_.max_bytes = max_bytes;
    settings_.database = "db";
    start();
  }
  void start() {
    core_.reset();
    directory_.reset();
    directory_ = disk_.open();
    Result<Recovered> found = recover_ledger(*directory_, {"db", false});
    ASSERT_TRUE(found) << found.error().message;
    recovered_ = *found;
    core_ = std::make_unique<LedgerCore>(
        *directory_, log_, settings_, std::move(*found), [] { return 0.5; }, now_);
    chores();
  }
  void kill() {
    core_.reset();
    directory_.reset();
    disk_.kill();
    start();
  }
  void chores() {
    while (auto chore = core_->files().next_chore(now_)) {
      const int error = core_->files().run_chore(*chore);
      core_->files().end_chore(*chore, error, now_);
    }
  }
  // All that is pending, in as many groups as that takes.
  void commit() {
    while (core_->has_pending() || core_->files().has_upkeep()) {
      std::vector<LedgerLog::Told> told;
      const auto write = core_->begin_commit(now_, false);
      if (!write) return;
      core_->end_commit(write->file->write(write->offset, write->bytes), now_, told);
      chores();
    }
  }
  // Steps until there is none, at most `most`; how many there were.
  int ship(int most = 1'000) {
    for (int i = 0; i < most; ++i) {
      now_ += milliseconds(1'000);
      const auto is_due = [&](std::optional<MonotonicTime> when) { return when && *when <= now_; };
      if (is_due(core_->next_read())) {
        LedgerCore::Reading reading = core_->begin_read();
        core_->run_read(reading);
        core_->end_read(std::move(reading), now_, wall_);
      } else if (is_due(core_->next_batch())) {
        const std::vector<Event> batch = core_->begin_batch();
        for (const Event& event : batch) sent_.push_back(event.prompt_n);
        core_->end_batch({std::vector<Delivery>(batch.size(), answer_), "scripted"}, now_);
      } else {
        return i;
      }
    }
    return most;
  }
  Settlement settlement(Outcome::Kind kind, uint16_t number) {
    return {.intent = intent(number),
            .outcome = {.kind = kind, .figure = {number, 1}, .reason = "why"},
            .date_created = kWall};
  }
  void settle(Settlement one) {
    ASSERT_TRUE(one.was_unresolved || core_->reserve(one.intent)) << one.intent.id.hex();
    (void)core_->settle(std::move(one), nobody_);
  }
  void bill_many(uint16_t count) {
    constexpr uint16_t kAtOnce = 100;
    for (int i = 1; i <= count; i += kAtOnce) {
      bill_some(static_cast<uint16_t>(i), static_cast<uint16_t>(std::min(i + kAtOnce - 1, +count)));
    }
  }
  void bill_some(uint16_t first, uint16_t last) {
    for (uint16_t i = first; i <= last; ++i) settle(settlement(Outcome::Kind::kBilled, i));
    commit();
  }

  SimulatedDisk disk_;
  std::unique_ptr<Directory> directory_;
  Log log_{-1, LogLevel::kCritical};
  LedgerSettings settings_;
  MonotonicTime now_{std::chrono::hours(1)};
  WallMs wall_ = kWall;
  Nobody nobody_;
  Recovered recovered_;
  std::unique_ptr<LedgerCore> core_;
  Delivery answer_ = kDelivered;
  std::vector<int64_t> sent_;
};

// While the backend thinks, an intent waits for others to go with it.
TEST_F(LedgerCoreTest, AnIntentIsInAHurryOnceItIsAwaited) {
  bill_some(1, 1);
  const MonotonicTime gap_end = now_ + settings_.commit_gap;
  Nobody first, second;
  for (uint16_t i = 2; i <= 3; ++i) ASSERT_TRUE(core_->reserve(intent(i)));
  core_->open(intent(2), false, first, now_);
  core_->open(intent(3), false, second, now_);
  EXPECT_EQ(core_->next_commit(now_, false), now_ + LedgerCore::kIntentDelay);
  core_->await(first);
  core_->await(first);
  EXPECT_EQ(core_->next_commit(now_, false), gap_end) << "the second may have company yet";
  core_->await(second);
  EXPECT_EQ(core_->next_commit(now_, false), now_);
  commit();
  core_->await(second);  // it has been told: nothing waits for it
  for (uint16_t i = 2; i <= 3; ++i) {
    Settlement one = settlement(Outcome::Kind::kBilled, i);
    one.has_intent = true;
    (void)core_->settle(std::move(one), nobody_);
    EXPECT_EQ(core_->next_commit(now_, false), i == 2 ? now_ + settings_.commit_gap : now_);
  }
}

// A stream that came whole before its intent was written is recorded as a plain reply is.
TEST_F(LedgerCoreTest, AnIntentCanBeWithdrawnUntilAGroupHasIt) {
  Nobody first, second, third;
  Nobody* const waiters[] = {&first, &second, &third};
  for (uint16_t i = 1; i <= 3; ++i) {
    ASSERT_TRUE(core_->reserve(intent(i)));
    core_->open(intent(i), false, *waiters[i - 1], now_);
  }
  EXPECT_TRUE(core_->withdraw(first));
  EXPECT_FALSE(core_->withdraw(first));
  core_->await(third);
  EXPECT_FALSE(core_->withdraw(third)) << "somebody waits for it";
  std::vector<LedgerLog::Told> told;
  const auto write = core_->begin_commit(now_, false);
  ASSERT_TRUE(write);
  EXPECT_FALSE(core_->withdraw(second)) << "it is being written";
  core_->end_commit(write->file->write(write->offset, write->bytes), now_, told);
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(core_->files().state().open().size(), 2u);
  EXPECT_FALSE(core_->withdraw(second)) << "it is durable";

  (void)core_->settle(settlement(Outcome::Kind::kBilled, 1), nobody_);
  EXPECT_FALSE(core_->everybody_waits()) << "the other two have no outcome yet";
  commit();
  EXPECT_EQ(core_->counts().billed, 1u);
  EXPECT_EQ(core_->counts().backlog, 1u);
}

TEST_F(LedgerCoreTest, IntentsThatWereWithdrawnLeaveNothingToWrite) {
  Nobody waiter;
  ASSERT_TRUE(core_->reserve(intent(1)));
  core_->open(intent(1), false, waiter, now_);
  EXPECT_TRUE(core_->has_pending());
  ASSERT_TRUE(core_->withdraw(waiter));
  EXPECT_FALSE(core_->has_pending());
  EXPECT_EQ(core_->next_commit(now_, false), std::nullopt);
  EXPECT_FALSE(core_->begin_commit(now_, false));
}

// Whoever catches it settles the request once more.
TEST_F(LedgerCoreTest, ASettleThatRunsOutOfMemoryChangesNothing) {
  using Kind = Outcome::Kind;
  settle(settlement(Kind::kUnresolved, 1));
  commit();
  uint16_t number = 1;
  for (const Kind kind : {Kind::kBilled, Kind::kFree, Kind::kUnresolved, Kind::kBilled}) {
    Settlement one = settlement(kind, number);
    one.was_unresolved = number == 1;
    if (!one.was_unresolved) {
      ASSERT_TRUE(core_->reserve(one.intent));
    }
    ++number;
    const LedgerCounts before = core_->counts();
    bool is_done = false;
    for (int passed = 0; !is_done; ++passed) {
      ASSERT_LT(passed, 100);
      Settlement again = one;
      allocation_fault.arm(1, passed);
      try {
        (void)core_->settle(std::move(again), nobody_);
        is_done = true;
      } catch (const std::bad_alloc&) {
      }
      allocation_fault.disarm();
      const LedgerCounts after = core_->counts();
      EXPECT_EQ(after.in_flight, before.in_flight - (is_done && !one.was_unresolved ? 1 : 0));
      const auto sum = [](const LedgerCounts& counts) {
        return counts.billed + counts.free + counts.unresolved + counts.in_flight;
      };
      EXPECT_EQ(sum(after), sum(before)) << "I7";
      EXPECT_EQ(after.late, before.late + (is_done && one.was_unresolved ? 1 : 0));
    }
    commit();
  }
  EXPECT_EQ(core_->counts().billed, 2u);
  EXPECT_EQ(core_->counts().free, 1u);
  EXPECT_EQ(core_->counts().unresolved, 1u);
  ship();
  EXPECT_EQ(sent_, (std::vector<int64_t>{1, 4}));
}

// Nor is a dead event billed anew without being closed.
TEST_F(LedgerCoreTest, AWordByHandThatRunsOutOfMemoryChangesNothing) {
  answer_ = kRefused;
  bill_some(1, 1);
  ship();
  commit();
  ASSERT_EQ(core_->dead_ids().size(), 1u);
  answer_ = kDelivered;
  sent_.clear();
  const size_t reserved = core_->files().bytes_reserved();
  bool is_done = false;
  for (int passed = 0; !is_done; ++passed) {
    ASSERT_LT(passed, 100);
    allocation_fault.arm(1, passed);
    try {
      is_done = core_->rebill(id(1), id(2), &nobody_) == LedgerCore::ByHand::kAppended;
    } catch (const std::bad_alloc&) {
    }
    allocation_fault.disarm();
    EXPECT_EQ(core_->files().has_pending(), is_done);
    EXPECT_EQ(core_->dead_ids().size(), is_done ? 0u : 1u);
    EXPECT_EQ(core_->files().bytes_reserved() > reserved, is_done);
  }
  commit();
  ship();
  EXPECT_EQ(sent_, std::vector<int64_t>{1});
  EXPECT_EQ(core_->files().bytes_reserved(), reserved);
}

// Beyond the bound its backend gets no new work, until late figures have resolved its own.
TEST_F(LedgerCoreTest, ABackendThatMakesManyUnresolvedOnesWaitsForThemToBeResolved) {
  const auto settle_of = [&](uint16_t number, const char* backend) {
    Settlement one = settlement(Outcome::Kind::kUnresolved, number);
    one.intent.backend = backend;
    settle(one);
    return one;
  };
  for (uint16_t i = 1; i < LedgerCore::kUnresolvedMax; ++i) {
    settle_of(i, "bad");
    if (i % 100 == 0) commit();
  }
  Settlement late = settle_of(LedgerCore::kUnresolvedMax, "worse");
  commit();
  const auto is_taken = [&](const char* backend) {
    Intent one = intent(1);
    one.backend = backend;
    const bool is_reserved = core_->reserve(one);
    if (is_reserved) core_->release(one);
    return is_reserved;
  };
  EXPECT_FALSE(is_taken("worse"));
  EXPECT_FALSE(is_taken("bad"));
  EXPECT_TRUE(is_taken("good"));
  late.was_unresolved = true;
  late.outcome.kind = Outcome::Kind::kBilled;
  settle(late);
  settle_of(20'000, "good");
  commit();
  EXPECT_FALSE(is_taken("bad")) << "as many as before";
  EXPECT_TRUE(is_taken("worse")) << "it has none any more";
}

// The way to the database.

class Shipping : public LedgerCoreTest {
 protected:
  static constexpr uint16_t kBatch = Shipper::kBatchMax;
  bool is_due(std::optional<MonotonicTime> when) const { return when && *when <= now_; }
  void read() {
    LedgerCore::Reading reading = core_->begin_read();
    core_->run_read(reading);
    core_->end_read(std::move(reading), now_, wall_);
  }
  BatchResult delivered(size_t events) { return {std::vector<Delivery>(events, kDelivered), ""}; }
};

TEST_F(Shipping, OneBatchIsReadWhileOneIsInTheDatabase) {
  bill_many(4 * kBatch);
  read();
  EXPECT_FALSE(core_->next_read()) << "one is enough until it is taken";
  const std::vector<Event> first = core_->begin_batch();
  ASSERT_TRUE(is_due(core_->next_read()));
  read();
  EXPECT_FALSE(core_->next_read()) << "and one ahead";
  EXPECT_FALSE(core_->next_batch()) << "one goes at a time";
  core_->end_batch(delivered(first.size()), now_);
  ASSERT_TRUE(is_due(core_->next_batch()));
  const std::vector<Event> second = core_->begin_batch();
  EXPECT_EQ(first.back().prompt_n, static_cast<int64_t>(first.size()));
  EXPECT_EQ(second.front().prompt_n, first.back().prompt_n + 1);
}

TEST_F(Shipping, TheRestOfABacklogDoesNotWaitForMoreToGoWithIt) {
  bill_many(2 * kBatch + 10);
  now_ += settings_.ship_interval;
  size_t sent = 0;
  while (is_due(core_->next_read())) {
    read();
    const size_t events = core_->begin_batch().size();
    core_->end_batch(delivered(events), now_);
    sent += events;
  }
  EXPECT_EQ(sent, 2u * kBatch + 10);
}

TEST_F(Shipping, LessThanABatchGathersWhileOneIsInTheDatabase) {
  bill_some(1, 1);
  now_ += settings_.ship_interval;
  read();
  const std::vector<Event> first = core_->begin_batch();
  for (uint16_t i = 2; i <= 6; ++i) {
    bill_some(i, i);
    now_ += settings_.ship_interval;
    EXPECT_FALSE(core_->next_read()) << i;
  }
  core_->end_batch(delivered(first.size()), now_);
  ASSERT_TRUE(is_due(core_->next_read()));
  read();
  ASSERT_TRUE(is_due(core_->next_batch()));
  EXPECT_EQ(core_->begin_batch().size(), 5u);
}

// Dead events.

class ManyDead : public LedgerCoreTest {
 protected:
  static constexpr uint16_t kMore = 50;
  void bill_all() { bill_many(LedgerCore::kDeadMax + kMore); }
  size_t dead() const { return core_->files().state().dead().size(); }
};

TEST_F(ManyDead, BeyondTheBoundRefusalsAreRetriedAndNotBuried) {
  answer_ = kRefused;
  bill_all();
  ship(200);
  commit();
  EXPECT_EQ(dead(), LedgerCore::kDeadMax);
  EXPECT_EQ(core_->counts().backlog, kMore);
  EXPECT_FALSE(core_->is_drained());
  EXPECT_LT(core_->files().state().mark(), core_->files().durable_sequence() - kMore);
  kill();
  commit();
  EXPECT_EQ(dead(), LedgerCore::kDeadMax);
  ship(200);
  commit();
  EXPECT_EQ(dead(), LedgerCore::kDeadMax) << "nor in the next life";
  answer_ = kDelivered;
  sent_.clear();
  ship();
  EXPECT_EQ(sent_.size(), kMore);
  EXPECT_EQ(core_->counts().backlog, 0u);
}

TEST_F(ManyDead, BeyondTheBoundWhatIsTooOldWaits) {
  settings_.max_replay_age = milliseconds(1'000);
  kill();
  wall_ = kWall + 10'000;
  bill_all();
  EXPECT_LT(ship(), 500) << "and nothing turns round and round";
  commit();
  EXPECT_LT(ship(), 500);
  EXPECT_EQ(dead(), LedgerCore::kDeadMax);
  EXPECT_EQ(core_->counts().backlog, kMore);
  EXPECT_FALSE(core_->is_drained());
  EXPECT_TRUE(sent_.empty());
  settings_.max_replay_age = milliseconds(1'000'000);
  kill();
  commit();
  ship();
  EXPECT_EQ(sent_.size(), kMore) << "the mark has not passed them";
  EXPECT_EQ(core_->counts().backlog, 0u);
}

// Damage that comes while it runs. Bills 1 to 3 are durable, each in a group of its own; one of
// the groups is spoiled then.
class RunningDamage : public LedgerCoreTest {
 protected:
  RunningDamage() {
    for (uint16_t i = 1; i <= 3; ++i) {
      places_.push_back(core_->files().views().empty() ? 512 : end());
      bill_some(i, i);
    }
  }
  uint64_t end() const { return core_->files().views().back().end_bytes; }
  void spoil(size_t bill) {
    disk_.spoil(segment_name(1), places_.at(bill - 1) + 40, std::string(8, '\xff'));
  }
  std::optional<std::string> kept(size_t bill) const {
    return disk_.content(Quarantine::name_of(1, places_.at(bill - 1)));
  }
  std::vector<uint64_t> places_;
};

TEST_F(RunningDamage, WhatLiesBehindItShipsAndTheDamageIsKept) {
  spoil(2);
  EXPECT_LT(ship(), 20) << "and then there is nothing to do";
  EXPECT_EQ(sent_, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(core_->counts().lost, 1u);
  EXPECT_EQ(core_->counts().backlog, 0u);
  EXPECT_TRUE(core_->is_drained());
  std::vector<LedgerLog::Told> told;
  EXPECT_EQ(core_->files().begin_write(now_)->bytes.size(), 512u) << "a mark up to the damage";
  core_->files().end_write(0, now_, told);
  EXPECT_EQ(core_->files().state().mark(), 1u) << "it is not kept yet";
  EXPECT_FALSE(kept(2));
  chores();
  ASSERT_TRUE(kept(2));
  EXPECT_EQ(kept(2)->substr(40, 8), std::string(8, '\xff'));
  commit();
  EXPECT_EQ(core_->files().state().mark(), 3u);
}

TEST_F(RunningDamage, TheMarkWaitsForTheQuarantine) {
  spoil(2);
  disk_.add_fault({.point = {.call = SimulatedDisk::Call::kCreate, .name_end = ".new"},
                   .error = ENOSPC,
                   .times = 3});
  ship();
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(kept(2));
    EXPECT_LE(core_->files().state().mark(), 1u);
    commit();
    chores();
    now_ += milliseconds(1'000);
  }
  chores();
  EXPECT_TRUE(kept(2));
  commit();
  EXPECT_EQ(core_->files().state().mark(), 3u);
}

// What the reader meets there may be half of a write, or one that is not said to be durable yet.
class UnderWay : public RunningDamage, public testing::WithParamInterface<size_t> {};

TEST_P(UnderWay, AGroupBehindItShips) {
  spoil(3);
  Settlement one = settlement(Outcome::Kind::kBilled, 4);
  one.intent.model.assign(1'500, 'm');
  settle(one);
  LedgerCore::Reading reading = core_->begin_read();
  const auto write = core_->begin_commit(now_, false);
  ASSERT_GT(write->bytes.size(), 1'024u);
  write->file->write(write->offset, write->bytes.substr(0, GetParam()));
  core_->run_read(reading);
  std::vector<LedgerLog::Told> told;
  core_->end_commit(write->file->write(write->offset, write->bytes), now_, told);
  core_->end_read(std::move(reading), now_, wall_);
  EXPECT_LT(ship(), 20);
  EXPECT_EQ(sent_, (std::vector<int64_t>{1, 2, 4}));
  EXPECT_EQ(core_->counts().lost, 1u);
  chores();
  EXPECT_TRUE(kept(3));
  EXPECT_EQ(kept(3)->size(), 512u) << "and nothing of what follows";
}

INSTANTIATE_TEST_SUITE_P(Written, UnderWay, testing::Values(512, 1'024, SIZE_MAX));

// Zeros are no end where there must be a group.
TEST_F(RunningDamage, AGroupOfZerosIsMissed) {
  disk_.spoil(segment_name(1), places_[2], std::string(512, '\0'));
  EXPECT_LT(ship(), 20);
  EXPECT_EQ(sent_, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(core_->counts().lost, 1u);
  EXPECT_EQ(core_->counts().backlog, 0u);
  bill_some(4, 4);
  EXPECT_LT(ship(), 20);
  EXPECT_EQ(sent_, (std::vector<int64_t>{1, 2, 4}));
}

// A start has told of it and kept it: not again, and what follows ships.
TEST_F(RunningDamage, WhatAStartHasToldOfIsNotToldAgain) {
  bill_some(4, 4);
  spoil(2);
  kill();
  EXPECT_EQ(recovered_.alarms.size(), 1u);
  EXPECT_EQ(recovered_.lost, (std::vector<Gap>{{2, 2}}));
  ASSERT_TRUE(kept(2));
  disk_.put(Quarantine::name_of(1, places_[1]), "seen");
  commit();
  EXPECT_LT(ship(), 20);
  chores();
  commit();
  EXPECT_EQ(sent_, (std::vector<int64_t>{1, 3, 4}));
  EXPECT_EQ(core_->counts().lost, 0u);
  EXPECT_EQ(core_->counts().backlog, 0u);
  EXPECT_EQ(kept(2), "seen");
}

// The greatest blocks that there are, and the least ledger: it takes work, and goes on doing so.
class LargeBlocks : public LedgerCoreTest {
 protected:
  LargeBlocks() : LedgerCoreTest(65'536, LedgerCore::max_bytes_min(65'536)) {}
};

TEST_F(LargeBlocks, TheLeastLedgerTakesWork) {
  for (uint16_t i = 1; i <= 200; i += 4) {
    bill_some(i, static_cast<uint16_t>(i + 3));
    ship();
    commit();
    if (i % 40 == 1) kill();
    EXPECT_LE(core_->counts().bytes_used, settings_.max_bytes);
  }
  EXPECT_EQ(core_->counts().backlog, 0u);
  EXPECT_GE(sent_.size(), 200u);
}

}  // namespace
}  // namespace llmproxy
