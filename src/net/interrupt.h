// Ending a wait from outside, as a server that stops ends all that its sessions wait for. One
// thread.
#pragma once

namespace llmproxy::net {

// Something that a coroutine waits for.
class Interruptible {
 public:
  virtual void interrupt() = 0;  // may resume who waits, and so end this object's life

 protected:
  ~Interruptible() = default;
};

// Of one session: ends the wait that it is told of, and every later one at once.
class Interrupt {
 public:
  void fire() {
    is_fired_ = true;
    if (target_ != nullptr) target_->interrupt();
  }
  bool is_fired() const { return is_fired_; }

  // For as long as it lives, fire() reaches `target`. One at a time. `interrupt` may be null.
  class Guard {
   public:
    Guard(Interrupt* interrupt, Interruptible& target) : interrupt_(interrupt) {
      if (interrupt_ == nullptr) return;
      interrupt_->target_ = &target;
      if (interrupt_->is_fired_) target.interrupt();
    }
    ~Guard() {
      if (interrupt_ != nullptr) interrupt_->target_ = nullptr;
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    Interrupt* interrupt_;
  };

 private:
  Interruptible* target_ = nullptr;
  bool is_fired_ = false;
};

}  // namespace llmproxy::net
