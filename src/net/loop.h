// The event loop of one thread: readiness of descriptors (epoll, edge-triggered), timers, and work
// posted by other threads. All of it but post() and stop() belongs to the loop's own thread.
#pragma once

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "net/task.h"

namespace llmproxy::net {

constexpr MonotonicTime kNever = MonotonicTime::max();

class Loop;

// Something with a descriptor. Told of its edges: EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP,
// EPOLLERR.
class Watched {
 public:
  virtual void on_events(uint32_t events) = 0;

 protected:
  ~Watched() = default;
};

// Work for the loop, linked in without allocation. It stays alive until run() is called.
class Posted {
 public:
  virtual void run() = 0;

 protected:
  ~Posted() = default;

 private:
  friend class Loop;
  Posted* next_ = nullptr;
};

// A deadline. Moving it later costs nothing: the heap entry stays where it is and is looked at
// again when it comes up, so a connection may set one for every read.
class Timer {
 public:
  explicit Timer(Loop& loop) : loop_(loop) {}
  virtual ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void arm(MonotonicTime when);  // kNever disarms
  void disarm() { when_ = kNever; }

 protected:
  virtual void on_deadline() = 0;
  void unqueue();  // leaves the heap at once, so that another thread may destroy what is left

 private:
  friend class Loop;
  static constexpr size_t kNotQueued = SIZE_MAX;

  Loop& loop_;
  MonotonicTime when_ = kNever;
  size_t place_ = kNotQueued;  // index in the loop's heap
};

class Loop {
 public:
  Loop();
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  void run();   // until stop()
  void stop();  // any thread; run() returns after the round it is in

  // Any thread. A loop that waits is woken once for all that is posted until it gets to it; one
  // that works sees it at the end of its round.
  void post(Posted& work);

  // Runs what has been posted. For who ends after run() has returned and is referred to by messages
  // that came too late; the destructor runs the rest.
  void run_posted();

  // The time at which this round began.
  MonotonicTime now() const { return now_; }
  uint64_t round() const { return rounds_; }  // its number
  bool is_busy() const { return is_busy_; }   // epoll brought something: there may be more
  // When it was first asked for the wall clock, which it is asked for once.
  WallMs wall_now() {
    if (std::exchange(wall_round_, rounds_) != rounds_) wall_now_ = wall_now_ms();
    return wall_now_;
  }

  // EPOLL_CTL_ADD. False, with errno set, when the system refuses it (out of watches or memory).
  [[nodiscard]] bool watch(int fd, uint32_t events, Watched& watched);
  void unwatch(int fd);                 // for descriptors that stay open
  void forget(const Watched& watched);  // drops its events of this round

 private:
  friend class Timer;
  struct Entry {
    MonotonicTime when;
    Timer* timer;
  };

  void run_timers();
  int wait_ms() const;
  void place(size_t index, Entry entry);
  void sift_up(size_t index);
  void sift_down(size_t index);
  void insert(Timer& timer);
  void remove(size_t index);

  class WakeUp;
  int epoll_fd_ = -1;
  std::unique_ptr<WakeUp> wake_up_;
  std::atomic<Posted*> posted_{nullptr};
  std::atomic<bool> is_waiting_{false};  // in epoll_wait, or about to be
  std::atomic<bool> stopping_{false};
  MonotonicTime now_;
  uint64_t rounds_ = 0;
  bool is_busy_ = false;
  WallMs wall_now_ = 0;
  uint64_t wall_round_ = UINT64_MAX;  // in which it was asked for
  std::vector<Entry> timers_;         // binary heap, earliest first
  struct Round;
  Round* round_ = nullptr;  // the events being delivered
};

// co_await Sleep(loop, when)
class Sleep final : Timer {
 public:
  Sleep(Loop& loop, MonotonicTime when) : Timer(loop), loop_(loop), when_(when) {}
  bool await_ready() const { return when_ <= loop_.now(); }
  void await_suspend(std::coroutine_handle<> waiting) {
    waiting_ = waiting;
    arm(when_);
  }
  void await_resume() const {}

 private:
  void on_deadline() override { waiting_.resume(); }
  Loop& loop_;
  MonotonicTime when_;
  std::coroutine_handle<> waiting_;
};

}  // namespace llmproxy::net
