// The ledger without its threads: what requests say goes to the log, what is durable goes to the
// database, and what the database said goes back to the log. A step function: clocks come in as
// arguments, and the calls that block (a write, a chore, a read, a batch) stand between a begin and
// an end. The threads of ledger.cc drive it under one lock; the simulator of the tests drives it
// alone.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "billing/database.h"
#include "billing/intent.h"
#include "billing/ledger_log.h"
#include "billing/ledger_reader.h"
#include "billing/outcome.h"
#include "billing/recovery.h"
#include "billing/shipper.h"

namespace llmproxy {

struct LedgerCounts {
  // In this process life: accepted = billed + free + unresolved + in_flight (I7).
  uint64_t accepted = 0, billed = 0, free = 0, unresolved = 0, in_flight = 0;
  uint64_t late = 0;       // of the billed ones: had been unresolved
  uint64_t by_hand = 0;    // resolved, sent again or billed anew by a person: no part of the above
  uint64_t delivered = 0;  // to the database
  uint64_t lost = 0;       // to damage of the disk, in this life
  uint64_t dead = 0;       // events that it refused, or that are too old
  uint64_t backlog = 0;    // events that it does not have yet, of former lives too
  uint64_t recovered_billed = 0, recovered_unresolved = 0;  // streams that a crash left open
  uint64_t bytes_used = 0;
  uint64_t commits = 0;
  uint64_t writer_wakes = 0;  // from sleep, by others
};

struct LedgerSettings {
  uint64_t max_bytes = uint64_t{4} << 30;
  Milliseconds commit_gap{1};  // from one commit to the next, unless everybody waits already
  Milliseconds commit_timeout{5'000};  // a write that takes longer: no new work
  Milliseconds ship_interval{1'000};   // an event is in the database after so long
  Milliseconds max_replay_age{std::chrono::hours(24 * 30)};  // older events are withheld
  Milliseconds backoff_min{100};  // between tries while the database fails, doubled
  Milliseconds backoff_max{5'000};
  std::string database{};  // whose events these are; see RecoveryOptions
  bool may_retarget = false;
};

class LedgerCore {
 public:
  // Beyond so many unresolved ones, the backends that make them get no new work; beyond so many
  // dead ones, what the database refuses is sent again like in an outage, and what is too old to
  // send holds up all behind it: something is wrong that a person must see first.
  static constexpr size_t kUnresolvedMax = 10'000;
  static constexpr size_t kDeadMax = 10'000;
  static constexpr uint64_t kSegmentBytesMax = uint64_t{16} << 20;
  // An intent that nobody waits for waits so long for others, or to be withdrawn. Far less than a
  // model takes to its first token; more than a backend takes that has its whole answer ready.
  static constexpr Milliseconds kIntentDelay{4};

  // The least max_bytes on a disk with such blocks: so many segments of the least size, that some
  // can be written to while others go.
  static constexpr uint64_t kSegmentsMin = 8;
  static uint64_t max_bytes_min(size_t block_bytes);

  // settings.max_bytes is at least max_bytes_min().
  LedgerCore(Directory& directory, Log& log, const LedgerSettings& settings, Recovered recovered,
             std::function<double()> draw, MonotonicTime now);

  // Requests. As Ledger's functions of these names.
  bool reserve(const Intent& intent);
  void release(const Intent& intent);
  // True: the first that waits for others since the writer took what there was.
  bool open(const Intent& intent, bool may_bill_running, Waiter& waiter, MonotonicTime now);
  void await(Waiter& waiter);
  bool withdraw(Waiter& waiter);
  // True: the first since the writer took what there was.
  bool progress(const ObjectId& id, const Figure& figure, bool is_final);
  // True: its waiter is to be told at once, by the caller; it is not waited for.
  [[nodiscard]] bool settle(Settlement settlement, Waiter& waiter);

  // By hand (ledger_by_hand.cc). kAppended: `waiter` (may be null) is told when all of it is
  // durable, or false when the disk fails. Else nothing was appended. The ids are those of
  // unresolved requests, or of dead events.
  enum class ByHand : uint8_t {
    kAppended,
    kUnknown,   // no such one
    kUnderWay,  // its outcome is being recorded
    kRefused,   // the ledger is full or failing
  };
  // No figure: nothing is owed.
  ByHand resolve(const ObjectId& id, const std::optional<Figure>& figure, Waiter* waiter);
  ByHand requeue(const ObjectId& id, Waiter* waiter);
  ByHand rebill(const ObjectId& id, const ObjectId& new_id, Waiter* waiter);
  std::vector<ObjectId> dead_ids() const;
  // All that recovery wanted written is durable: before that not every dead or unresolved one is
  // known.
  bool has_recovered() const { return first_left_ == 0; }

  // The writer. next_commit: when begin_commit should be called; nothing: not before something is
  // appended. `is_last`: at the end, all that is pending and then an empty group, the witness.
  std::optional<MonotonicTime> next_commit(MonotonicTime now, bool is_last);
  std::optional<LedgerLog::Write> begin_commit(MonotonicTime now, bool is_last);
  void end_commit(int error, MonotonicTime now, std::vector<LedgerLog::Told>& told);
  bool everybody_waits() const { return waiting_ >= active_; }
  // Something is pending that a commit is due for as soon as the gap has passed.
  bool is_gathering() const { return is_opening_awaited_ || ledger_.has_pending(); }
  bool has_pending() const { return !opening_.empty() || ledger_.has_pending(); }

  // The keeper: next_chore, run_chore, end_chore of this.
  LedgerLog& files() { return ledger_; }
  const LedgerLog& files() const { return ledger_; }

  // The reader, which reads the next batch for the shipper while one is in the database. next_read:
  // when begin_read should be called; nothing: not before something is durable, or a batch taken or
  // answered.
  std::optional<MonotonicTime> next_read() const;
  struct Reading {
    std::vector<SegmentView> views;
    uint64_t until = 0;
    uint64_t events = 0;  // that are durable and unread
    std::vector<LedgerReader::Item> items{};
    bool is_more = false;
  };
  Reading begin_read() const;
  void run_read(Reading& reading);  // blocks; touches nothing that anything else here does
  void end_read(Reading reading, MonotonicTime now, WallMs wall_now);

  // The shipper. next_batch: when begin_batch should be called; nothing: not before end_read.
  std::optional<MonotonicTime> next_batch() const { return shipper_.due(); }
  std::vector<Event> begin_batch() { return shipper_.take(); }
  std::vector<Event> end_batch(BatchResult result, MonotonicTime now);  // the delivered ones
  // The end: everything at once, and nothing new.
  void hurry();
  bool is_drained() const;  // all that is durable is settled with the database, and all is durable

  LedgerCounts counts() const;
  bool is_failing() const { return ledger_.is_failing(); }

 private:
  struct Progress {
    Figure figure;
    bool is_final;
  };

  void append_awaited(LedgerLog::Append&& append);
  std::vector<LedgerLog::Append>::iterator find_opening(const Waiter& waiter);
  bool enter(LedgerLog::Append&& entry, const ObjectId& id, Outcome::Kind kind,
             bool was_unresolved);
  ByHand append_by_hand(const ObjectId& id, std::vector<Record> records, Waiter* waiter);
  void note_closed(const Record& record, bool is_durable);
  bool is_unresolved(const ObjectId& id) const;
  uint64_t& count_of(Outcome::Kind kind);
  void note_told(const LedgerLog::Told& told, MonotonicTime now);
  void tell_of_writing(int error, bool was_failing);
  void take_progress(MonotonicTime now);
  void tell_of_gaps();
  void take_event(LedgerReader::Item item, MonotonicTime since, WallMs wall_now);
  void tell_of_shipping(const Shipper::Answer& answer, const std::string& detail);
  bool can_bury(size_t more = 1) const;
  void bury_withheld();
  void bury(Event event, std::string reason, DeadRecord::Kind kind);
  void move_mark();

  Log& log_;
  const LedgerSettings settings_;
  // An event waits so long for others to go with it; the rest of ship_interval is for the database.
  const Milliseconds gathering_;
  LedgerLog ledger_;
  // Intents that are not the log's yet: nobody waited for them when they came, and perhaps nobody
  // ever does.
  std::vector<LedgerLog::Append> opening_;
  MonotonicTime opening_since_{};    // of the first of them
  bool is_opening_awaited_ = false;  // of one of them
  LedgerCounts counts_{};
  size_t active_ = 0;   // requests that have not been told that their outcome is durable
  size_t waiting_ = 0;  // of them: somebody waits for a record
  std::unordered_map<ObjectId, Progress, ObjectIdHash> progress_;  // that no record has yet
  // Unresolved or dead ones that a record that is not durable yet closes, each with the room that
  // it gives back.
  std::map<ObjectId, size_t> closing_;
  MonotonicTime progress_due_{}, upkeep_since_{}, begun_last_{};
  bool has_upkeep_ = false;

  Shipper shipper_;
  LedgerReader reader_;                      // between begin_read and end_read it is run_read's
  uint64_t read_until_;                      // its last sequence as of end_read
  std::vector<Gap> gaps_told_;               // by recovery
  std::deque<LedgerReader::Item> withheld_;  // events, too old to send, beyond kDeadMax
  size_t dead_pending_ = 0;                  // dead ones that are not durable yet
  std::optional<MonotonicTime> read_again_;  // the disk could not be read
  size_t first_left_ = 0;                    // of Recovered::first: not durable again
  uint64_t first_events_ = 0;                // of Recovered::first that are not durable again
  uint64_t unread_events_ = 0;               // durable, and not read by the shipper yet
  MonotonicTime unread_since_;
  bool has_settled_ = false;  // something was settled with the database since the last mark
  bool is_closing_ = false;
};

}  // namespace llmproxy
