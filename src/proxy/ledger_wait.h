// Waiting for the ledger on an event loop.
#pragma once

#include "billing/ledger.h"
#include "net/completion.h"

namespace llmproxy {

// Handed to Ledger::open or settle, then awaited through `durable`: true when the record is
// durable.
class LedgerWait final : public Waiter {
 public:
  explicit LedgerWait(net::Loop& loop) : durable(loop) {}
  void done(bool is_durable) noexcept override { durable.complete(is_durable); }

  net::Completion<bool> durable;
};

}  // namespace llmproxy
