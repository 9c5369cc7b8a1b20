// Jobs run beside the loop, in their order, within a bound, and what they throw is passed on.
#include "net/worker.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <stdexcept>

#include "net/test_loop.h"

namespace llmproxy::net {
namespace {

Task<void> run_job(Loop& loop, Worker& worker, std::function<void()> body, size_t& done) {
  const bool is_run = co_await worker.run(loop, std::move(body));
  EXPECT_TRUE(is_run);
  ++done;
}

Task<void> loop_goes_on(Loop& loop) {
  Worker worker;
  std::latch gate(1);
  size_t done = 0;
  for (size_t i = 0; i < 2 * Worker::kThreads; ++i) {
    spawn(run_job(
        loop, worker, [&] { gate.wait(); }, done));
  }
  for (int i = 0; i < 10; ++i) co_await NextRound(loop);
  EXPECT_EQ(done, 0u);
  gate.count_down();
  while (done < 2 * Worker::kThreads) co_await NextRound(loop);
}

TEST(Worker, HoldsUpNoLoop) {
  run_on_loop(loop_goes_on);
}

Task<void> bound(Loop& loop) {
  Worker worker;
  std::latch begun(Worker::kThreads);
  std::latch gate(1);
  size_t done = 0;
  for (size_t i = 0; i < Worker::kThreads; ++i) {
    spawn(run_job(
        loop, worker,
        [&] {
          begun.count_down();
          gate.wait();
        },
        done));
  }
  begun.wait();
  size_t ran = 0;
  for (size_t i = 0; i < Worker::kQueueMax; ++i)
    spawn(run_job(
        loop, worker, [] {}, done));
  std::function<void()> too_many = [&] { ++ran; };
  const bool is_run = co_await worker.run(loop, too_many);
  EXPECT_FALSE(is_run);
  gate.count_down();
  while (done < Worker::kThreads + Worker::kQueueMax) co_await NextRound(loop);
  EXPECT_EQ(ran, 0u);
}

TEST(Worker, RefusesWhatIsTooMuch) {
  run_on_loop(bound);
}

Task<void> throws(Loop& loop) {
  Worker worker;
  std::string caught;
  std::function<void()> body = [] { throw std::runtime_error("no memory"); };
  try {
    co_await worker.run(loop, body);
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  EXPECT_EQ(caught, "no memory");
  size_t done = 0;
  std::function<void()> next = [] {};
  co_await run_job(loop, worker, next, done);
  EXPECT_EQ(done, 1u);
}

TEST(Worker, PassesOnWhatIsThrown) {
  run_on_loop(throws);
}

TEST(Worker, RunsWhatNobodyWaitsFor) {
  std::latch begun(Worker::kThreads), gate(1);
  std::atomic<size_t> ran = 0;
  {
    Worker worker;
    for (size_t i = 0; i < Worker::kThreads; ++i) {
      EXPECT_TRUE(worker.start([&] {
        begun.count_down();
        gate.wait();
      }));
    }
    begun.wait();
    for (size_t i = 0; i < Worker::kQueueMax; ++i) EXPECT_TRUE(worker.start([&] { ++ran; }));
    EXPECT_FALSE(worker.start([&] { ++ran; }));
    gate.count_down();
  }
  EXPECT_EQ(ran, Worker::kQueueMax);  // also those that waited when it ended
}

}  // namespace
}  // namespace llmproxy::net
