// Waiting for the ledger on an event loop.
#pragma once

#include <coroutine>

#include "billing/ledger.h"
#include "net/completion.h"

namespace llmproxy {

// Handed to Ledger::open or settle. Where these throw, nobody is told; otherwise
// is_durable() must be awaited before it goes.
class LedgerWait final : public Waiter {
 public:
  explicit LedgerWait(net::Loop& loop) : completion_(loop) {}
  void done(bool is_durable) noexcept override { completion_.complete(is_durable); }

  // To be awaited: what the ledger has told. Any number of times, one after the other.
  class Told {
   public:
    explicit Told(net::Completion<bool>& completion) : completion_(completion) {}
    bool await_ready() const { return completion_.await_ready(); }
    bool await_suspend(std::coroutine_handle<> waiting) {
      return completion_.await_suspend(waiting);
    }
    bool await_resume() const { return completion_.await_resume(); }

   private:
    net::Completion<bool>& completion_;
  };
  Told is_durable() { return Told(completion_); }
  bool is_told() const { return completion_.await_ready(); }

 private:
  net::Completion<bool> completion_;
};

}  // namespace llmproxy
