// Task: values, exceptions, lifetimes, and that frames are recycled.
#include "net/task.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/sanitized.h"
#include "net/test_loop.h"

namespace llmproxy::net {
namespace {

// Resumes only when told to.
struct Gate {
  std::coroutine_handle<> waiting;
  bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> handle) { waiting = handle; }
  void await_resume() const {}
};

struct CountsItself {
  explicit CountsItself(int& its_count) : count(&its_count) { ++*count; }
  CountsItself(CountsItself&& other) noexcept : count(std::exchange(other.count, nullptr)) {}
  CountsItself& operator=(CountsItself&&) = delete;
  ~CountsItself() {
    if (count != nullptr) --*count;
  }
  int* count;
};

class NoDefault {
 public:
  explicit NoDefault(std::string text) : text_(std::move(text)) {}
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

Task<int> add(int a, int b) {
  co_return a + b;
}
Task<int> add_three(int a, int b, int c) {
  const int two = co_await add(a, b);
  co_return co_await add(two, c);
}
Task<std::unique_ptr<int>> move_only() {
  co_return std::make_unique<int>(7);
}
Task<NoDefault> no_default() {
  co_return NoDefault("text");
}
Task<int> throwing(bool does_throw) {
  if (does_throw) throw std::runtime_error("a bug");
  co_return 1;
}
Task<void> throwing_nothing_back() {
  co_await throwing(true);
}
Task<void> wait_at(Gate& gate, CountsItself) {
  int alive = 0;
  const CountsItself local(alive);
  co_await gate;
}

Task<void> check_values(bool& is_done) {
  EXPECT_EQ(co_await add_three(1, 2, 3), 6);
  const std::unique_ptr<int> moved = co_await move_only();
  EXPECT_EQ(*moved, 7);
  const NoDefault value = co_await no_default();
  EXPECT_EQ(value.text(), "text");
  is_done = true;
}

Task<void> check_exceptions(bool& is_done) {
  EXPECT_EQ(co_await throwing(false), 1);
  std::string caught;
  try {
    co_await throwing(true);
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  EXPECT_EQ(caught, "a bug");
  bool is_caught = false;
  try {
    co_await throwing_nothing_back();
  } catch (const std::runtime_error&) {
    is_caught = true;
  }
  EXPECT_TRUE(is_caught);
  is_done = true;
}

Task<void> pass_through(Gate& gate, int& alive, std::string& trace) {
  const CountsItself local(alive);
  trace += "start ";
  CountsItself argument(alive);
  co_await wait_at(gate, std::move(argument));
  trace += "end ";
}

TEST(Task, GivesItsValue) {
  bool is_done = false;
  spawn(check_values(is_done));
  EXPECT_TRUE(is_done);
}

TEST(Task, PassesItsExceptionToWhoWaits) {
  bool is_done = false;
  spawn(check_exceptions(is_done));
  EXPECT_TRUE(is_done);
}

TEST(Task, NotStartedDestroysItsParametersAndRunsNothing) {
  int alive = 0;
  std::string trace;
  Gate gate;
  {
    const Task<void> never = wait_at(gate, CountsItself(alive));
    EXPECT_EQ(alive, 1);
    const Task<void> silent = pass_through(gate, alive, trace);
  }
  EXPECT_EQ(alive, 0);
  EXPECT_EQ(trace, "");
}

TEST(Task, DestroyedWhileSuspendedDestroysAllBelowIt) {
  int alive = 0;
  std::string trace;
  Gate gate;
  {
    Task<void> task = pass_through(gate, alive, trace);
    task.await_suspend(std::noop_coroutine()).resume();
    EXPECT_EQ(trace, "start ");
    EXPECT_EQ(alive, 2);
  }
  EXPECT_EQ(alive, 0);
  EXPECT_EQ(trace, "start ");
}

TEST(Task, MovedFromOwnsNothing) {
  int alive = 0;
  Gate gate;
  Task<void> first = wait_at(gate, CountsItself(alive));
  {
    const Task<void> second = std::move(first);
    EXPECT_EQ(alive, 1);
  }
  EXPECT_EQ(alive, 0);
}

TEST(Task, SpawnedRunsAtOnceAndFreesItselfAtItsEnd) {
  int alive = 0;
  std::string trace;
  Gate gate;
  spawn(pass_through(gate, alive, trace));
  EXPECT_EQ(trace, "start ");
  EXPECT_EQ(alive, 2);
  gate.waiting.resume();
  EXPECT_EQ(trace, "start end ");
  EXPECT_EQ(alive, 0);
}

// A step is its value, or waits for it.
Step<std::unique_ptr<int>> stepping(Gate& gate, bool waits, size_t& frames) {
  const size_t before = allocations;
  if (!waits) return nullptr;
  const auto later = [](Gate& at) -> Task<std::unique_ptr<int>> {
    co_await at;
    co_return std::make_unique<int>(7);
  };
  Step<std::unique_ptr<int>> step = later(gate);
  frames += allocations - before;
  return step;
}

Task<void> check_steps(Gate& gate, bool& is_done) {
  size_t frames = 0;
  const std::unique_ptr<int> at_once = co_await stepping(gate, false, frames);
  EXPECT_EQ(at_once, nullptr);
  EXPECT_EQ(frames, 0u);
  const std::unique_ptr<int> later = co_await stepping(gate, true, frames);
  EXPECT_EQ(*later, 7);
  is_done = true;
}

TEST(Step, IsItsValueOrWaitsForIt) {
  Gate gate;
  bool is_done = false;
  spawn(check_steps(gate, is_done));
  EXPECT_FALSE(is_done);
  gate.waiting.resume();
  EXPECT_TRUE(is_done);
}

TEST(Step, NotAwaitedDestroysItsTask) {
  int count = 0;
  Gate gate;
  {
    const Step<int> step = [](Gate& at, CountsItself) -> Task<int> {
      co_await at;
      co_return 1;
    }(gate, CountsItself(count));
  }
  EXPECT_EQ(count, 0);
}

TEST(TaskFrames, SteadyStateAllocatesNothing) {
  int sum = 0;
  int alive = 0;
  std::string trace;
  trace.reserve(100'000);
  const auto round = [&] {
    Gate gate;
    spawn(pass_through(gate, alive, trace));
    gate.waiting.resume();
    Task<int> task = add_three(1, 2, 3);
    task.await_suspend(std::noop_coroutine()).resume();
    sum += task.await_resume();
  };
  round();
  const size_t before = allocations;
  for (int i = 0; i < 1000; ++i) round();
  EXPECT_EQ(allocations, before);
  EXPECT_EQ(sum, 6006);
}

TEST(TaskFrames, SameSizeClassIsReused) {
  void* const first = allocate_frame(130);
  free_frame(first, 130);
  EXPECT_EQ(allocate_frame(192), first);  // 130 and 192 bytes are both blocks of 192
  free_frame(first, 192);
  void* const other = allocate_frame(193);
  EXPECT_NE(other, first);
  free_frame(other, 193);
}

TEST(TaskFrames, LargeOnesAreNotKept) {
  for (const size_t size : {kFrameBytesMax, kFrameBytesMax + 1}) {
    free_frame(allocate_frame(size), size);
    const size_t before = allocations;
    free_frame(allocate_frame(size), size);
    EXPECT_EQ(allocations - before, size > kFrameBytesMax ? 1u : 0u) << size;
  }
}

TEST(TaskFrames, KeepsNoMoreThanItsBound) {
  constexpr size_t kExtra = 10;
  constexpr size_t kSize = 5000;  // a class that nothing else here uses
  std::vector<void*> frames(kFramesKeptMax + kExtra);
  for (void*& frame : frames) frame = allocate_frame(kSize);
  for (void* frame : frames) free_frame(frame, kSize);
  const size_t before = allocations;
  for (void*& frame : frames) frame = allocate_frame(kSize);
  EXPECT_EQ(allocations - before, kExtra);
  for (void* frame : frames) free_frame(frame, kSize);
}

TEST(TaskFrames, WhatNobodyNeedsIsFreed) {
  constexpr size_t kSize = 6000, kMany = 8, kFew = 3;  // a class that nothing else here uses
  constexpr size_t kClassBytes = 6016;
  const auto use = [](size_t count) {
    std::vector<void*> frames(count);
    for (void*& frame : frames) frame = allocate_frame(kSize);
    for (void* frame : frames) free_frame(frame, kSize);
  };
  use(kMany);
  trim_frames();  // of all that was before
  trim_frames();
  use(kMany);
  EXPECT_EQ(trim_frames(), 0u) << "all of them were needed";
  use(kFew);
  EXPECT_EQ(trim_frames(), (kMany - kFew) * kClassBytes);
  const size_t before = allocations;
  use(kFew);
  EXPECT_EQ(allocations - before, 1u) << "of the list of frames";
}

TEST(TaskFrames, MayBeFreedOnAnotherThread) {
  std::vector<void*> frames(100);
  for (void*& frame : frames) frame = allocate_frame(320);
  std::thread other([&] {
    for (void* frame : frames) free_frame(frame, 320);
    const size_t before = allocations;
    std::vector<void*> again(frames.size());
    const size_t of_vector = allocations - before;
    for (void*& frame : again) frame = allocate_frame(320);
    EXPECT_EQ(allocations - before, of_vector);
    for (void* frame : again) free_frame(frame, 320);
  });
  other.join();
}

LastingTask<int> lasting(Gate& gate) {
  co_await gate;
  co_return 7;
}
LastingTask<void> lasting_detached(Gate& gate, int& result) {
  result = co_await lasting(gate);
}

TEST(TaskFrames, LastingOnesAreNoneOfThem) {
  Gate gate;
  int result = 0;
  trim_frames();
  trim_frames();  // there are none that a task could use again
  const size_t before = allocations;
  spawn(lasting_detached(gate, result));
  EXPECT_EQ(allocations, before);
  EXPECT_EQ(result, 0);
  gate.waiting.resume();
  EXPECT_EQ(result, 7);
}

#ifdef LLMPROXY_HAS_ASAN
TEST(TaskFrames, FreedOnesAreCaught) {
  auto* const frame = static_cast<volatile char*>(allocate_frame(192));
  frame[0] = 1;
  free_frame(const_cast<char*>(frame), 192);
  EXPECT_DEATH(frame[0] = 1, "use-after-poison");
  EXPECT_DEATH(frame[191] = 1, "use-after-poison");
  EXPECT_EQ(allocate_frame(192), frame);
  frame[191] = 1;
  free_frame(const_cast<char*>(frame), 192);
}
#endif

}  // namespace
}  // namespace llmproxy::net
