// The budget of all bodies: taken, refused, given back, and never overdrawn by several threads.
#include "proxy/memory_budget.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace llmproxy {
namespace {

constexpr auto kRequest = MemoryBudget::Use::kRequest;
constexpr auto kReply = MemoryBudget::Use::kReply;

TEST(MemoryBudget, TakesUpToItsLimit) {
  MemoryBudget budget(100);
  EXPECT_TRUE(budget.take(60, kReply));
  EXPECT_FALSE(budget.take(41, kReply));
  EXPECT_TRUE(budget.take(40, kReply));
  EXPECT_FALSE(budget.take(1, kReply));
  budget.give(10);
  EXPECT_TRUE(budget.take(10, kReply));
  budget.set_limit(200);
  EXPECT_TRUE(budget.take(100, kReply));
  budget.set_limit(50);
  budget.give(151);
  EXPECT_TRUE(budget.take(1, kReply));
  EXPECT_FALSE(budget.take(1, kReply));
}

TEST(MemoryBudget, RequestsLeaveRoomForReplies) {
  MemoryBudget budget(100);
  EXPECT_FALSE(budget.take(51, kRequest));
  EXPECT_TRUE(budget.take(50, kRequest));
  EXPECT_FALSE(budget.take(1, kRequest));
  EXPECT_TRUE(budget.take(50, kReply));
  EXPECT_FALSE(budget.take(1, kReply));
  budget.give(70);
  EXPECT_TRUE(budget.take(20, kRequest));  // half of all is free again, whoever has the rest
  EXPECT_FALSE(budget.take(1, kRequest));
}

TEST(MemoryBudget, APooledBlockIsFree) {
  EXPECT_EQ(beyond_block(0), 0u);
  EXPECT_EQ(beyond_block(net::kBlockBytes), 0u);
  EXPECT_EQ(beyond_block(net::kBlockBytes + 3), 3u);
}

TEST(MemoryShare, RaisesOnlyAndGivesBackAtItsEnd) {
  MemoryBudget budget(100);
  {
    MemoryShare share(budget, kReply);
    EXPECT_TRUE(share.raise_to(70));
    EXPECT_TRUE(share.raise_to(30));  // nothing to do
    EXPECT_FALSE(share.raise_to(101));
    EXPECT_TRUE(budget.take(30, kReply));  // the failed raise took nothing
    EXPECT_FALSE(share.raise_to(71));
    budget.give(30);
    EXPECT_TRUE(share.raise_to(100));
    share.release();
    EXPECT_TRUE(budget.take(100, kReply));
    budget.give(100);
    EXPECT_TRUE(share.raise_to(10));
  }
  EXPECT_TRUE(budget.take(100, kReply));
}

TEST(MemoryBudget, ManyThreadsNeverHoldMoreThanTheLimit) {
  MemoryBudget budget(3);
  std::atomic<int> held{0};
  std::atomic<int> times{0};
  std::atomic<bool> is_overdrawn{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        if (!budget.take(1, kReply)) continue;
        if (++held > 3) is_overdrawn = true;
        ++times;
        --held;
        budget.give(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(is_overdrawn);
  EXPECT_GT(times, 0);
  EXPECT_TRUE(budget.take(3, kReply));
}

}  // namespace
}  // namespace llmproxy
