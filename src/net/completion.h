// Values that other threads hand to a coroutine. Completion lives on the frame of who waits, and
// must be waited for; Notice is shared, so that who waits may give up at a deadline.
#pragma once

#include <atomic>
#include <coroutine>
#include <memory>
#include <optional>
#include <utility>

#include "net/loop.h"

namespace llmproxy::net {

// complete() once, from any thread, at any time after construction; await once, on the loop's
// thread.
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

class Notice;

// Ends a wait for a Notice early, as if its deadline had come; every later wait ends at once. One
// thread.
class Interrupt {
 public:
  void fire();
  bool is_fired() const { return is_fired_; }

 private:
  friend class Notice;
  Notice* waiting_ = nullptr;
  bool is_fired_ = false;
};

// Something has happened; what, the shared object that holds the Notice knows. give() at most once,
// from any thread; wait() at most once, on the loop's thread. The loop outlives whoever may still
// give().
class Notice final : public std::enable_shared_from_this<Notice>, Posted, Timer {
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
        : notice_(notice), deadline_(deadline), interrupt_(interrupt) {}
    bool await_ready() const {
      return notice_.is_given_ || (interrupt_ != nullptr && interrupt_->is_fired_);
    }
    void await_suspend(std::coroutine_handle<> waiting) {
      notice_.waiting_ = waiting;
      notice_.arm(deadline_);
      if (interrupt_ != nullptr) interrupt_->waiting_ = &notice_;
    }
    bool await_resume() const {  // false: the deadline or the interrupt came first
      if (interrupt_ != nullptr) interrupt_->waiting_ = nullptr;
      return notice_.is_given_;
    }

   private:
    Notice& notice_;
    MonotonicTime deadline_;
    Interrupt* interrupt_;
  };
  Wait wait(MonotonicTime deadline, Interrupt* interrupt = nullptr) {
    return {*this, deadline, interrupt};
  }

 private:
  friend class Interrupt;
  void run() override {
    const std::shared_ptr<Notice> self = std::move(self_);
    is_given_ = true;
    resume();
  }
  void on_deadline() override { resume(); }
  void resume() {
    unqueue();
    if (waiting_) std::exchange(waiting_, nullptr).resume();
  }

  Loop& loop_;
  bool is_given_ = false;
  std::coroutine_handle<> waiting_;
  std::shared_ptr<Notice> self_;  // keeps it alive while it is posted
};

inline void Interrupt::fire() {
  is_fired_ = true;
  if (waiting_ != nullptr) waiting_->resume();
}

}  // namespace llmproxy::net
