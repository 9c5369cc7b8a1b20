// The loop: timers against a sorted model, posted work, watched descriptors, and the values that
// other threads hand over. Timers of these tests are due in the past, so nothing waits.
#include "net/loop.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "net/completion.h"
#include "net/test_loop.h"

namespace llmproxy::net {
namespace {

using std::chrono::microseconds;

class FunctionTimer final : public Timer {
 public:
  FunctionTimer(Loop& loop, std::function<void()> body) : Timer(loop), body_(std::move(body)) {}

 private:
  void on_deadline() override {
    const auto body = body_;  // it may destroy this timer
    body();
  }
  std::function<void()> body_;
};

class FunctionWork final : public Posted {
 public:
  explicit FunctionWork(std::function<void()> body) : body_(std::move(body)) {}
  void run() override { body_(); }

 private:
  std::function<void()> body_;
};

// Runs the loop until the timers that are due now have had their turn.
void run_due(Loop& loop) {
  FunctionTimer last(loop, [&] { loop.stop(); });
  last.arm(monotonic_now());
  loop.run();
}

class LoopTimers : public testing::Test {
 protected:
  MonotonicTime at(int us) const { return base_ + microseconds(us); }
  FunctionTimer& make(char name) {
    timers_.push_back(std::make_unique<FunctionTimer>(loop, [this, name] { fired += name; }));
    return *timers_.back();
  }

  Loop loop;
  std::string fired;

 private:
  const MonotonicTime base_ = monotonic_now() - std::chrono::seconds(100);
  std::vector<std::unique_ptr<FunctionTimer>> timers_;
};

TEST_F(LoopTimers, FireInOrder) {
  const std::string names = "gbadfce";
  for (const char name : names) make(name).arm(at(name));
  run_due(loop);
  EXPECT_EQ(fired, "abcdefg");
}

TEST_F(LoopTimers, MovedLaterFiresOnceAndThen) {
  FunctionTimer& moved = make('m');
  make('a').arm(at(10));
  moved.arm(at(5));
  for (int us = 6; us < 25; ++us) moved.arm(at(us));
  make('b').arm(at(20));
  make('c').arm(at(30));
  run_due(loop);
  EXPECT_EQ(fired, "abmc");
}

TEST_F(LoopTimers, MovedEarlierFiresOnceAndThen) {
  FunctionTimer& moved = make('m');
  make('a').arm(at(10));
  moved.arm(at(50));
  make('b').arm(at(20));
  moved.arm(at(15));
  moved.arm(at(5));
  run_due(loop);
  EXPECT_EQ(fired, "mab");
}

TEST_F(LoopTimers, MovedLaterThenEarlierAgain) {
  FunctionTimer& moved = make('m');
  make('a').arm(at(10));
  moved.arm(at(5));
  moved.arm(at(50));
  moved.arm(at(15));  // later than its place in the heap, earlier than the last word
  make('b').arm(at(20));
  run_due(loop);
  EXPECT_EQ(fired, "amb");
}

TEST_F(LoopTimers, DisarmedDoesNotFireAndMayBeArmedAgain) {
  FunctionTimer& gone = make('g');
  FunctionTimer& again = make('r');
  gone.arm(at(5));
  again.arm(at(6));
  gone.disarm();
  again.arm(kNever);
  again.arm(at(30));
  make('a').arm(at(10));
  run_due(loop);
  EXPECT_EQ(fired, "ar");
}

TEST_F(LoopTimers, NotYetDueDoesNotFire) {
  FunctionTimer& later = make('l');
  later.arm(monotonic_now() + std::chrono::hours(1));
  make('a').arm(at(1));
  run_due(loop);
  EXPECT_EQ(fired, "a");
}

TEST_F(LoopTimers, IsWaitedForByTheLoop) {
  const MonotonicTime when = monotonic_now() + std::chrono::milliseconds(2);
  MonotonicTime fired_at{};
  FunctionTimer timer(loop, [&] {
    fired_at = loop.now();
    loop.stop();
  });
  timer.arm(when);
  loop.run();
  EXPECT_GE(fired_at, when);
}

TEST_F(LoopTimers, MayDestroyItselfAndOthersWhenFiring) {
  auto victim = std::make_unique<FunctionTimer>(loop, [&] { fired += 'v'; });
  std::unique_ptr<FunctionTimer> self;
  self = std::make_unique<FunctionTimer>(loop, [&] {
    fired += 's';
    victim.reset();
    self.reset();
  });
  self->arm(at(1));
  victim->arm(at(2));
  make('a').arm(at(3));
  run_due(loop);
  EXPECT_EQ(fired, "sa");
}

TEST_F(LoopTimers, MayArmItselfAgainWhenFiring) {
  int times = 0;
  FunctionTimer* self = nullptr;
  FunctionTimer timer(loop, [&] {
    fired += 't';
    if (++times < 3) self->arm(at(10 * times));
  });
  self = &timer;
  timer.arm(at(0));
  make('a').arm(at(5));
  make('b').arm(at(15));
  run_due(loop);
  EXPECT_EQ(fired, "tatbt");
}

// Many timers; each that fires arms, moves, disarms or destroys others. The model is a sorted set.
class RandomTimers {
 public:
  explicit RandomTimers(unsigned seed) : random_(seed), base_(monotonic_now() - kSpan) {
    for (size_t i = 0; i < kTimers; ++i) make(i);
    for (int i = 0; i < 4000; ++i) step(base_);
  }
  void run() {
    run_due(loop_);
    EXPECT_TRUE(model_.empty()) << model_.size() << " never fired";
    EXPECT_GT(fired_, kTimers / 2);
  }

 private:
  static constexpr size_t kTimers = 500;
  static constexpr std::chrono::seconds kSpan{50};

  void make(size_t i) {
    timers_[i] = std::make_unique<FunctionTimer>(loop_, [this, i] { on_fire(i); });
    when_[i] = kNever;
  }
  void forget(size_t i) {
    if (when_[i] != kNever) model_.erase({when_[i], i});
    when_[i] = kNever;
  }
  void step(MonotonicTime from) {
    const size_t i = random_() % kTimers;
    switch (random_() % 8) {
      case 0:
        forget(i);
        timers_[i]->disarm();
        break;
      case 1:
        if (&*timers_[i] == firing_) break;
        forget(i);
        timers_[i].reset();
        make(i);
        break;
      default: {
        const auto left = std::chrono::duration_cast<microseconds>(base_ + kSpan - from).count();
        forget(i);
        when_[i] = from + microseconds(random_() % static_cast<unsigned long>(left));
        model_.insert({when_[i], i});
        timers_[i]->arm(when_[i]);
      }
    }
  }
  void on_fire(size_t i) {
    ++fired_;
    ASSERT_FALSE(model_.empty());
    EXPECT_EQ(model_.begin()->first, when_[i]) << "not the earliest";
    const MonotonicTime now = when_[i];
    forget(i);
    firing_ = &*timers_[i];
    if (steps_left_ > 0 && --steps_left_ > 0) step(now);
    firing_ = nullptr;
  }

  std::mt19937 random_;
  const MonotonicTime base_;
  Loop loop_;
  std::array<std::unique_ptr<FunctionTimer>, kTimers> timers_;
  std::array<MonotonicTime, kTimers> when_{};
  std::set<std::pair<MonotonicTime, size_t>> model_;
  Timer* firing_ = nullptr;
  size_t fired_ = 0;
  int steps_left_ = 5000;
};

TEST(Loop, RandomTimersFireLikeASortedModel) {
  for (unsigned seed = 1; seed <= 20; ++seed) RandomTimers(seed).run();
}

TEST(Loop, PostedFromFourThreadsRunsOnceEachInTheOrderOfItsThread) {
  constexpr size_t kThreads = 4, kEach = 10'000;
  Loop loop;
  const Watchdog watchdog(loop);
  std::array<size_t, kThreads> next{};
  size_t run = 0;
  std::vector<std::vector<std::unique_ptr<FunctionWork>>> work(kThreads);
  for (size_t t = 0; t < kThreads; ++t) {
    for (size_t i = 0; i < kEach; ++i) {
      work[t].push_back(std::make_unique<FunctionWork>([&, t, i] {
        EXPECT_EQ(next[t]++, i);
        if (++run == kThreads * kEach) loop.stop();
      }));
    }
  }
  std::vector<std::thread> threads;
  for (auto& of_thread : work) {
    threads.emplace_back([&loop, &of_thread] {
      for (auto& item : of_thread) loop.post(*item);
    });
  }
  loop.run();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(run, kThreads * kEach);
}

TEST(Loop, PostedByPostedWorkRunsInALaterRound) {
  Loop loop;
  const Watchdog watchdog(loop);
  std::string trace;
  FunctionWork second([&] {
    trace += '2';
    loop.stop();
  });
  FunctionWork first([&] {
    loop.post(second);
    trace += '1';
  });
  loop.post(first);
  loop.run();
  EXPECT_EQ(trace, "12");
}

Task<void> ask_the_wall_clock(Loop& loop) {
  const WallMs first = loop.wall_now();
  while (wall_now_ms() <= first) std::this_thread::yield();
  EXPECT_EQ(loop.wall_now(), first);
  co_await NextRound(loop);
  EXPECT_GT(loop.wall_now(), first);
}
TEST(Loop, TheWallClockIsAskedOnceARound) {
  run_on_loop(ask_the_wall_clock);
}

TEST(Loop, StopFromAnotherThreadEndsAWaitingLoop) {
  for (int i = 0; i < 100; ++i) {
    Loop loop;
    const Watchdog watchdog(loop);
    std::thread other([&] { loop.stop(); });
    loop.run();
    other.join();
  }
}

TEST(Loop, StopBeforeRunReturnsAtOnceAndWhatWasPostedRunsAtTheEnd) {
  bool has_run = false;
  FunctionWork work([&] { has_run = true; });
  {
    Loop loop;
    loop.stop();
    loop.post(work);
    loop.run();
    EXPECT_FALSE(has_run);
  }
  EXPECT_TRUE(has_run);
}

class Counter final : public Watched {
 public:
  explicit Counter(std::function<void()> body) : body_(std::move(body)) {}
  void on_events(uint32_t) override {
    ++calls;
    body_();
  }
  int calls = 0;

 private:
  std::function<void()> body_;
};

// There may be more behind an event; nothing is behind what was posted.
TEST(Loop, IsBusyInARoundWithEvents) {
  Loop loop;
  const Watchdog watchdog(loop);
  std::vector<bool> busy;
  FunctionWork last([&] {
    busy.push_back(loop.is_busy());
    loop.stop();
  });
  FunctionWork first([&] {
    busy.push_back(loop.is_busy());
    loop.post(last);
  });
  const int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
  Counter counter([&] {
    busy.push_back(loop.is_busy());
    loop.post(first);
  });
  ASSERT_TRUE(loop.watch(fd, EPOLLIN | EPOLLET, counter));
  loop.run();
  EXPECT_EQ(busy, (std::vector{true, true, false}));
  EXPECT_FALSE(loop.is_busy());
  loop.unwatch(fd);
  close(fd);
}

TEST(Loop, ForgottenInTheSameRoundIsNotTold) {
  Loop loop;
  const Watchdog watchdog(loop);
  constexpr size_t kCount = 8;
  std::vector<std::unique_ptr<Counter>> watched(kCount);
  std::vector<int> fds(kCount);
  int calls = 0;
  FunctionWork stop([&] { loop.stop(); });
  for (size_t i = 0; i < kCount; ++i) {
    watched[i] = std::make_unique<Counter>([&, i] {
      if (++calls == 1) loop.post(stop);
      for (size_t other = 0; other < kCount; ++other) {
        if (other == i || watched[other] == nullptr) continue;
        loop.forget(*watched[other]);
        loop.unwatch(fds[other]);
        watched[other].reset();  // told of an event, it would be a use after free
      }
    });
    fds[i] = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    ASSERT_TRUE(loop.watch(fds[i], EPOLLIN | EPOLLET, *watched[i]));
  }
  loop.run();
  EXPECT_EQ(calls, 1);
  for (const int fd : fds) close(fd);
}

TEST(Loop, ADescriptorThatCannotBeWatchedIsAnError) {
  Loop loop;
  Counter counter([] {});
  EXPECT_FALSE(loop.watch(-1, EPOLLIN, counter));
  EXPECT_EQ(errno, EBADF);
}

Task<void> complete_before_await(Loop& loop) {
  Completion<std::unique_ptr<int>> completion(loop);
  completion.complete(std::make_unique<int>(3));
  const std::unique_ptr<int> value = co_await completion;
  EXPECT_EQ(*value, 3);
}

Task<void> complete_after_await(Loop& loop) {
  Completion<int> completion(loop);
  FunctionWork later([&] { completion.complete(4); });
  loop.post(later);
  EXPECT_EQ(co_await completion, 4);
}

Task<void> complete_from_thread(Loop& loop) {
  for (int i = 0; i < 300; ++i) {
    auto completion = std::make_unique<Completion<std::string>>(loop);
    std::thread other([&completion, i] {
      if (i % 2 == 0) std::this_thread::yield();
      completion->complete("a text that does not fit in place " + std::to_string(i));
    });
    if (i % 3 == 0) co_await NextRound(loop);
    Completion<std::string>& awaited = *completion;  // GCC 12 would copy what `co_await *` names
    const std::string value = co_await awaited;
    EXPECT_EQ(value, "a text that does not fit in place " + std::to_string(i));
    completion.reset();  // complete() may not have returned yet; it must not touch it any more
    other.join();
  }
}

TEST(Completion, BeforeAwait) {
  run_on_loop(complete_before_await);
}
TEST(Completion, AfterAwait) {
  run_on_loop(complete_after_await);
}
TEST(Completion, FromAnotherThread) {
  run_on_loop(complete_from_thread);
}

Task<void> given_before_wait(Loop& loop) {
  const auto notice = Notice::make(loop);
  notice->give();
  co_await NextRound(loop);
  EXPECT_TRUE(co_await notice->wait(monotonic_now() - std::chrono::hours(1)));
}

Task<void> given_before_deadline(Loop& loop) {
  const auto notice = Notice::make(loop);
  FunctionWork later([&] { notice->give(); });
  loop.post(later);
  EXPECT_TRUE(co_await notice->wait(soon()));
}

Task<void> given_with_no_deadline(Loop& loop) {
  const auto notice = Notice::make(loop);
  FunctionWork later([&] { notice->give(); });
  loop.post(later);
  EXPECT_TRUE(co_await notice->wait(kNever));
}

Task<void> given_after_deadline(Loop& loop) {
  auto notice = Notice::make(loop);
  const std::weak_ptr<Notice> life = notice;
  auto giver = notice;  // outlives the waiter
  EXPECT_FALSE(co_await notice->wait(monotonic_now() - std::chrono::seconds(1)));
  notice.reset();
  giver->give();
  giver.reset();
  EXPECT_FALSE(life.expired());  // posted, and keeps itself
  co_await NextRound(loop);
  EXPECT_TRUE(life.expired());
}

Task<void> dropped_by_the_waiter_at_its_deadline(Loop& loop) {
  auto notice = Notice::make(loop);
  const std::weak_ptr<Notice> life = notice;
  EXPECT_FALSE(co_await notice->wait(monotonic_now() - std::chrono::seconds(1)));
  notice.reset();  // inside its own on_deadline()
  EXPECT_TRUE(life.expired());
}

Task<void> given_by_a_thread_around_the_deadline(Loop& loop) {
  std::minstd_rand random(5);
  for (int i = 0; i < 300; ++i) {
    auto notice = Notice::make(loop);
    auto answer = std::make_shared<int>(0);
    std::thread giver([notice, answer] {
      *answer = 42;
      notice->give();
    });
    const auto deadline = monotonic_now() + microseconds(random() % 200);
    const bool is_given = co_await notice->wait(deadline);
    EXPECT_TRUE(!is_given || *answer == 42);
    notice.reset();
    giver.join();  // the loop outlives whoever may give
  }
  co_await NextRound(loop);
}

// A wait that cannot begin leaves nobody waiting.
Task<void> out_of_memory(Loop& loop) {
  const auto notice = Notice::make(loop);
  bool has_thrown = false;
  allocation_fault.arm(1);  // the loop's list of timers
  try {
    co_await notice->wait(soon());
  } catch (const std::bad_alloc&) {
    has_thrown = true;
  }
  EXPECT_TRUE(has_thrown);
  notice->give();
  const MonotonicTime when = loop.now() + std::chrono::milliseconds(5);
  co_await Sleep(loop, when);
  EXPECT_GE(loop.now(), when);
}

Task<void> interrupted(Loop& loop) {
  Interrupt interrupt;
  const auto first = Notice::make(loop);
  FunctionWork later([&] { interrupt.fire(); });
  loop.post(later);
  EXPECT_FALSE(co_await first->wait(kNever, &interrupt));
  const auto second = Notice::make(loop);
  EXPECT_FALSE(co_await second->wait(kNever, &interrupt));  // at once
  interrupt.fire();
}

TEST(Notice, AWaitThatCannotBeginIsNone) {
  run_on_loop(out_of_memory);
}
TEST(Notice, Interrupted) {
  run_on_loop(interrupted);
}
TEST(Notice, GivenBeforeTheWait) {
  run_on_loop(given_before_wait);
}
TEST(Notice, GivenBeforeTheDeadline) {
  run_on_loop(given_before_deadline);
}
TEST(Notice, GivenWithNoDeadline) {
  run_on_loop(given_with_no_deadline);
}
TEST(Notice, GivenAfterTheDeadlineOutlivesTheWaiter) {
  run_on_loop(given_after_deadline);
}
TEST(Notice, DroppedAtItsDeadline) {
  run_on_loop(dropped_by_the_waiter_at_its_deadline);
}
TEST(Notice, GivenByAThreadAroundTheDeadline) {
  run_on_loop(given_by_a_thread_around_the_deadline);
}

TEST(Notice, GivenToAStoppedLoopFreesItself) {
  std::weak_ptr<Notice> life;
  {
    Loop loop;
    const auto notice = Notice::make(loop);
    life = notice;
    notice->give();
  }
  EXPECT_TRUE(life.expired());
}

Task<void> sleep_in_turn(Loop& loop) {
  co_await Sleep(loop, loop.now());  // due: does not suspend
  const MonotonicTime when = loop.now() + std::chrono::milliseconds(1);
  co_await Sleep(loop, when);
  EXPECT_GE(loop.now(), when);
}

TEST(Sleep, EndsAtItsTime) {
  run_on_loop(sleep_in_turn);
}

}  // namespace
}  // namespace llmproxy::net
