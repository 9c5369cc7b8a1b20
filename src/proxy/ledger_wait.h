// Waiting for the ledger on an event loop.
#pragma once

#include <optional>

#include "billing/ledger.h"
#include "net/completion.h"
#include "net/task.h"

namespace llmproxy {

// Handed to Ledger::open or settle. Where these throw, nobody is told; otherwise
// is_durable() must be awaited before it goes.
class LedgerWait final : public Waiter {
 public:
  explicit LedgerWait(net::Loop& loop) : completion_(loop) {}
  void done(bool is_durable) noexcept override { completion_.complete(is_durable); }

  // Once the ledger has told. Any number of times, one after the other.
  net::Task<bool> is_durable() {
    if (!is_durable_) is_durable_ = co_await completion_;
    co_return *is_durable_;
  }

 private:
  net::Completion<bool> completion_;
  std::optional<bool> is_durable_;
};

}  // namespace llmproxy
