// Values that other threads hand to a coroutine. Completion lives on the frame of who waits, and
// must be waited for; Notice is shared, so that who waits may give up at a deadline.
#pragma once

#include <atomic>
#include <coroutine>
#include <memory>
#include <optional>
#include <utility>

#include "net/interrupt.h"
#include "net/loop.h"

namespace llmproxy::net {

// complete() once, from any thread, at any time after construction; await on the loop's thread: the
// value is moved to who awaits, so once, or more often in turn where moving it changes nothing.
template <class T>
class Completion final : Posted {
 public:
  explicit Completion(Loop& loop) : loop_(loop) {}
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;

  void complete(T value) {
    value_.emplace(std::move(value));
    if (state_.exchange(State::kComplete, std::memory_order_acq_rel) == State::kAwaited) {
      loop_.post(*this);
    }
  }

  bool await_ready() const { return state_.load(std::memory_order_acquire) == State::kComplete; }
  bool await_suspend(std::coroutine_handle<> waiting) {
    waiting_ = waiting;
    State expected = State::kOpen;
    return state_.compare_exchange_strong(expected, State::kAwaited, std::memory_order_acq_rel);
  }
  T await_resume() { return std::move(*value_); }

 private:
  enum class State { kOpen, kAwaited, kComplete };
  void run() override { waiting_.resume(); }

  Loop& loop_;
  std::atomic<State> state_{State::kOpen};
  std::coroutine_handle<> waiting_;
  std::optional<T> value_;
};

// Something has happened; what, the shared object that holds the Notice knows. give() at most once,
// from any thread; wait() at most once, on the loop's thread. The loop outlives whoever may still
// give().
class Notice final : public std::enable_shared_from_this<Notice>, Posted, Timer, Interruptible {
 public:
  static std::shared_ptr<Notice> make(Loop& loop) { return std::make_shared<Notice>(loop); }
  explicit Notice(Loop& loop) : Timer(loop), loop_(loop) {}

  void give() {
    self_ = shared_from_this();
    loop_.post(*this);
  }

  class Wait {
   public:
    Wait(Notice& notice, MonotonicTime deadline, Interrupt* interrupt)
        : notice_(notice),
          deadline_(deadline),
          is_fired_(interrupt != nullptr && interrupt->is_fired()),
          guard_(interrupt, notice) {}
    bool await_ready() const { return notice_.is_given_ || is_fired_; }
    void await_suspend(std::coroutine_handle<> waiting) {
      notice_.arm(deadline_);  // first: it may throw, and then nobody waits
      notice_.waiting_ = waiting;
    }
    // False: the deadline or the interrupt came first.
    bool await_resume() const { return notice_.is_given_; }

   private:
    Notice& notice_;
    MonotonicTime deadline_;
    bool is_fired_;
    Interrupt::Guard guard_;
  };
  Wait wait(MonotonicTime deadline, Interrupt* interrupt = nullptr) {
    return {*this, deadline, interrupt};
  }

 private:
  void run() override {
    const std::shared_ptr<Notice> self = std::move(self_);
    is_given_ = true;
    resume();
  }
  void on_deadline() override { resume(); }
  void interrupt() override { resume(); }
  void resume() {
    unqueue();
    if (waiting_) std::exchange(waiting_, nullptr).resume();
  }

  Loop& loop_;
  bool is_given_ = false;
  std::coroutine_handle<> waiting_;
  std::shared_ptr<Notice> self_;  // keeps it alive while it is posted
};

}  // namespace llmproxy::net
