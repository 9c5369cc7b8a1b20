// The ledger: what has been answered and what it cost, durable on this machine's disk before the
// client gets its answer's end, and then shipped to the database. Events reach the database only
// through it. Its rules, with their reasons: docs/ledger.md.
//
// Three threads: one writes groups of records, one keeps the files, one ships; what they do is
// LedgerCore's. Callers: reserve, open, await, withdraw, progress and settle from any thread; each
// Waiter is told from the writer's thread, or from within the call.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/result.h"
#include "billing/database.h"
#include "billing/ledger_core.h"
#include "billing/ledger_survey.h"

namespace llmproxy {

// What a dead event is billed under when a person wants it billed anew.
ObjectId rebilled_id(const ObjectId& id);

class Ledger {
 public:
  using Settings = LedgerSettings;

  // Recovers what the process before left, then starts the threads. `directory` is locked by us;
  // `log` outlives the ledger. Errors: as recover_ledger(), and status 78 for a max_bytes that is
  // too small for the disk's blocks. The database is shared with the shipping thread: close()
  // leaves a thread behind that hangs in the driver, and that thread then keeps the database alive.
  // Null: nothing is shipped (the command line, on a stopped ledger).
  static Result<std::unique_ptr<Ledger>> open(std::unique_ptr<Directory> directory,
                                              std::shared_ptr<Database> database, Log& log,
                                              const Settings& settings);
  ~Ledger();  // as close() that waits for no database
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  // Room for one request, before its call goes out. False: full, failing or slow, so new work gets
  // 503. Every reservation ends in exactly one settle() or release() of an equal intent.
  bool reserve(const Intent& intent);
  void release(const Intent& intent);
  // Why reserve() says no at the moment, in words for the log.
  std::string refusal() const;

  // Whether the writer is woken for what it is told, or by the wake() that follows soon. An event
  // loop wakes it once for many: woken by the first of them, it would write that one alone.
  enum class Wake : uint8_t { kNow, kLater };
  void wake();  // if it was told something since it went to sleep

  // A stream is about to begin. Told false: it cannot be recorded, so nothing of it may reach the
  // client. `may_bill_running`: its running figures may make the bill (a backend set to
  // `continuous`, one choice).
  void open(const Intent& intent, bool may_bill_running, Waiter& waiter, Wake wake = Wake::kNow);
  // From now on somebody waits for the `waiter` that open() was given; it may have been told. Until
  // then a group may still gather others.
  void await(Waiter& waiter, Wake wake = Wake::kNow);
  // Nothing was sent of the stream, and nothing will be before its outcome is durable: it needs no
  // intent. True: it has none, and its waiter is never told. False: it is written, or about to be.
  bool withdraw(Waiter& waiter);
  // The latest figure of an open stream. Recorded within a second or so; nobody waits for it.
  void progress(const ObjectId& id, const Figure& figure, bool is_final);
  // Told false: it cannot be recorded: a plain reply must not go out, and is free. What has an
  // intent is told false only after close(): the next start finds it. A free outcome is told at
  // once.
  void settle(Settlement settlement, Waiter& waiter, Wake wake = Wake::kNow);

  // The disk does not keep up: no new work, and streams whose progress must be recorded wait.
  bool is_stalled() const;

  // Takes nothing new, ships for at most `flush_timeout`, ends the log cleanly. What is not shipped
  // stays for the next start. False: the disk did not answer within commit_timeout, so a write may
  // be under way, and waiters may never be told; the process should end by _exit. Once.
  bool close(Milliseconds flush_timeout);

  LedgerCounts counts() const;

  // By hand: what a person decides, and the program never does by itself. Each waits until it is
  // durable, at most commit_timeout and a second. Any thread but the ledger's own. An Error's
  // status: 404 there is no such one, 409 it has another outcome already, 503 it is not known to be
  // recorded: say it again, which changes nothing where it was.
  //
  // `id` is that of an unresolved request: it is billed by this figure, dated by its intent, or
  // free. The same again is a success for as long as the files know of it.
  std::optional<Error> resolve(const ObjectId& id, const std::optional<Figure>& figure);
  // A dead event is sent again under its id, however old it is; not one that was billed anew.
  std::optional<Error> requeue(const ObjectId& id);
  Result<size_t> requeue_all();  // how many
  // It is sent under another id, which is made from its own: always the same, so that saying it
  // twice bills once. The new id.
  Result<ObjectId> rebill(const ObjectId& id);

  // Called on the shipping thread for each delivered event, in order (demo shows them). It must not
  // block: close() waits for it.
  void set_observer(void (*observer)(const Event& event, void* context), void* context);

 private:
  struct State;  // what the threads share with this object, and keep if they are left behind
  explicit Ledger(std::shared_ptr<State> state);
  using Change = std::function<LedgerCore::ByHand(LedgerCore& core, Waiter* waiter)>;
  Result<LedgerCore::ByHand> change(const Change& change);
  void await_recovered() const;    // at most commit_timeout
  Survey durable_records() const;  // to be read without the lock
  Result<std::optional<Record>> find_outcome(const ObjectId& id) const;
  Result<std::set<ObjectId>> find_by_hand() const;  // events by a person's word

  const std::shared_ptr<State> state_;
  struct Threads;
  std::unique_ptr<Threads> threads_;
};

}  // namespace llmproxy
