// The ledger: what has been answered and what it cost, between the requests and the database.
// Events reach the database only through it. This one keeps its records in memory (a queue with a
// bound) and so loses them with the process; the durable one keeps this interface.
//
// Thread: reserve, open and settle from any; each tells its Waiter from the ledger's own thread or
// from within the call.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "billing/database.h"
#include "billing/event.h"
#include "billing/settlement.h"

namespace llmproxy {

struct LedgerCounts {
  uint64_t billed = 0, free = 0, unresolved = 0;              // settled in this process life
  uint64_t delivered = 0, refused = 0, lost = 0, queued = 0;  // events
};

class Ledger {
 public:
  struct Settings {
    size_t events_max = 100'000;
    Milliseconds ship_interval{1'000};
    Milliseconds backoff_min{100};  // between tries while the database fails, doubled
    Milliseconds backoff_max{5'000};
  };

  // Starts the shipping thread. `log` outlives the ledger. The database is shared with the thread:
  // close() leaves a thread behind that hangs in the driver, and that thread then keeps the
  // database alive.
  Ledger(std::shared_ptr<Database> database, Log& log, Settings settings);
  // For a `database` that outlives the ledger and never hangs.
  Ledger(Database& database, Log& log, Settings settings);
  ~Ledger();  // as close(0)
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  // Room for one request, before its call goes out. False: full, so new work gets 503. Every
  // reservation ends in exactly one settle() or release().
  bool reserve();
  void release();

  void open(const Intent& intent, Waiter& waiter);
  void settle(Settlement settlement, Waiter& waiter);

  // Stops taking, ships what is queued for at most `flush_timeout`, logs each event it then loses,
  // one line with all its fields. Returns how many it lost. An event settled later is lost in the
  // same way.
  uint64_t close(Milliseconds flush_timeout);

  LedgerCounts counts() const;

  // Called on the shipping thread for each delivered event, in order of settling (demo shows them).
  // It must not block: close() waits for it.
  void set_observer(void (*observer)(const Event& event, void* context), void* context);

 private:
  struct State;  // what the shipping thread shares with this object, and keeps if it is left behind
  static void ship(std::shared_ptr<State> state);

  const std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace llmproxy
