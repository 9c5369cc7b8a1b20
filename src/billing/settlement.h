// How a request ended, as the ledger is told, and who waits for it to be recorded.
#pragma once

#include "base/clock.h"
#include "billing/intent.h"
#include "billing/outcome.h"

namespace llmproxy {

// Told once, when the record is durable (true) or cannot become so (false). Must stay alive until
// then.
class Waiter {
 public:
  virtual void done(bool is_durable) noexcept = 0;

 protected:
  ~Waiter() = default;

 private:
  friend class LedgerCore;
  enum class State : uint8_t { kUnawaited, kAwaited, kTold };
  State state_ = State::kUnawaited;  // of an intent; guarded by the ledger
};

// `intent` is what an open one was, or what it would have been (plain replies).
struct Settlement {
  Intent intent;
  bool has_intent = false;  // open() was told durable for it
  // A figure that came after the request had been settled as unresolved: it bills it now. Its room
  // was given back then, so this takes none.
  bool was_unresolved = false;
  Outcome outcome;
  WallMs date_created = 0;
};

}  // namespace llmproxy
