// The ledger without its threads, over a simulated disk and a database that answers as the test
// says: bounds, and damage that comes while it runs.
#include "billing/ledger_core.h"

#include <gtest/gtest.h>

#include <deque>
#include <string>
#include <vector>

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
    std::vector<LedgerLog::Told> told;
    while (core_->files().has_pending() || core_->files().has_upkeep()) {
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
      std::optional<MonotonicTime> later;
      switch (core_->next_step(now_, later)) {
        case LedgerCore::Step::kRead: {
          LedgerCore::Reading reading = core_->begin_read();
          core_->run_read(reading);
          core_->end_read(std::move(reading), now_, wall_);
          break;
        }
        case LedgerCore::Step::kBatch: {
          const std::vector<Event> batch = core_->begin_batch();
          for (const Event& event : batch) sent_.push_back(event.prompt_n);
          core_->end_batch({std::vector<Delivery>(batch.size(), answer_), "scripted"}, now_);
          break;
        }
        case LedgerCore::Step::kNone:
          if (!later || *later > now_) return i;
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
