// What the durable records of the ledger say, all together: which streams are open, what is
// unresolved, what is dead, how far all is settled with the database, and which segment holds what
// is still needed. Recovery replays the log into it and the running ledger applies each group that
// has become durable: the same code, so what a start finds is what the process before had. No
// files, threads or clocks.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "billing/record.h"

namespace llmproxy {

struct ObjectIdHash {
  size_t operator()(const ObjectId& id) const;  // ids are minted by us: no seed needed
};

class LedgerState {
 public:
  struct Open {
    IntentRecord record;
    std::optional<ProgressRecord> progress;
    uint64_t segment = 0;   // where the intent's latest copy lies
    uint64_t sequence = 0;  // of that copy
  };
  // Unresolved and dead ones. `segment` 0: no segment but only the side file holds it.
  struct Unresolved {
    UnresolvedRecord record;
    uint64_t segment = 0;
  };
  struct Dead {
    DeadRecord record;
    uint64_t segment = 0;
  };
  struct Segment {
    uint64_t number = 0;
    uint64_t first_sequence = 0;
    uint64_t last_sequence = 0;  // below first_sequence: it holds no record
    size_t open = 0;             // intents whose latest copy lies in it
    // It holds a record that changed what is unresolved or dead: goes only after the side file
    // knows.
    bool has_side_records = false;
  };
  struct Totals {  // of all records that were applied
    uint64_t billed = 0, free = 0, unresolved = 0;
    uint64_t recovered = 0, late = 0, by_hand = 0;  // of the first three
    uint64_t dead = 0;
  };

  // A new last segment, before a record of it is applied.
  void add_segment(uint64_t number, uint64_t first_sequence);
  // The oldest segment, or one in which nothing counts: it is not needed any more.
  void drop_segment(uint64_t number);

  // The next record, of the last segment. Says in words which invariant it breaks ("" none): the
  // running ledger ends the process then, recovery tells it and goes on.
  std::string apply(const Record& record, uint64_t sequence);
  // Sequences that are lost to damage: the last segment goes on behind them.
  void skip_to(uint64_t sequence) { last_sequence_ = sequence; }

  const std::unordered_map<ObjectId, Open, ObjectIdHash>& open() const { return open_; }
  const std::map<ObjectId, Unresolved>& unresolved() const { return unresolved_; }
  size_t unresolved_of(std::string_view backend) const;
  const std::map<ObjectId, Dead>& dead() const { return dead_; }
  const std::map<uint64_t, Segment>& segments() const { return segments_; }
  const Totals& totals() const { return totals_; }
  uint64_t last_sequence() const { return last_sequence_; }
  uint64_t mark() const { return mark_; }
  uint64_t mark_segment() const {
    return mark_segment_;
  }  // where the latest mark lies; 0: none yet

  // The oldest segment, if nothing but its open intents keeps it: settled up to its end, by a mark
  // in a later one.
  const Segment* find_settled() const;
  // Its open intents, latest progress behind each, at most `max` records.
  std::vector<Record> copies_of_open(uint64_t segment, size_t max) const;

  // What goes into the side file: everything unresolved and dead as of last_sequence(). And back.
  std::string side_file() const;
  bool read_side_file(std::string_view bytes);
  // The side file with all up to `sequence` is durable: what lies in segments up to there needs
  // them no more.
  void note_side_file(uint64_t sequence);

 private:
  struct Apply;
  void close(const ObjectId& id);
  void put_unresolved(const UnresolvedRecord& record, uint64_t segment);
  bool erase_unresolved(const ObjectId& id);

  std::unordered_map<ObjectId, Open, ObjectIdHash> open_;
  std::map<ObjectId, Unresolved> unresolved_;
  std::map<std::string, size_t, std::less<>> unresolved_of_;  // by backend, none of them 0
  std::map<ObjectId, Dead> dead_;
  std::map<uint64_t, Segment> segments_;
  Totals totals_;
  uint64_t last_sequence_ = 0;
  uint64_t mark_ = 0;
  uint64_t mark_segment_ = 0;
};

}  // namespace llmproxy
