// The budget of all bodies: taken, refused, given back, and never overdrawn by several threads.
#include "proxy/memory_budget.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace llmproxy {
namespace {

TEST(MemoryBudget, TakesUpToItsLimit) {
  MemoryBudget budget(100);
  EXPECT_TRUE(budget.take(60));
  EXPECT_FALSE(budget.take(41));
  EXPECT_TRUE(budget.take(40));
  EXPECT_FALSE(budget.take(1));
  budget.give(10);
  EXPECT_TRUE(budget.take(10));
  budget.set_limit(200);
  EXPECT_TRUE(budget.take(100));
  budget.set_limit(50);
  budget.give(151);
  EXPECT_TRUE(budget.take(1));
  EXPECT_FALSE(budget.take(1));
}

TEST(MemoryShare, RaisesOnlyAndGivesBackAtItsEnd) {
  MemoryBudget budget(100);
  {
    MemoryShare share(budget);
    EXPECT_TRUE(share.raise_to(70));
    EXPECT_TRUE(share.raise_to(30));  // nothing to do
    EXPECT_FALSE(share.raise_to(101));
    EXPECT_TRUE(budget.take(30));  // the failed raise took nothing
    EXPECT_FALSE(share.raise_to(71));
    budget.give(30);
    EXPECT_TRUE(share.raise_to(100));
    share.release();
    EXPECT_TRUE(budget.take(100));
    budget.give(100);
    EXPECT_TRUE(share.raise_to(10));
  }
  EXPECT_TRUE(budget.take(100));
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
        if (!budget.take(1)) continue;
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
  EXPECT_TRUE(budget.take(3));
}

}  // namespace
}  // namespace llmproxy
