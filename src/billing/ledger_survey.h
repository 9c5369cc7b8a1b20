// What the files of a ledger say, read without changing anything: beside a running owner too. The
// base of the commands that show, compare and export. What a start would make of the files is
// recovery's, which does the reading.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/result.h"
#include "billing/ledger_log.h"

namespace llmproxy {

struct Survey {
  LedgerState state;                // what all records say
  std::vector<SegmentView> views;   // oldest first; their files stay readable when they go
  uint64_t proven = 0;              // records up to here lie in `views`
  std::vector<Record> tail;         // and these behind them: the last group
  uint64_t backlog = 0;             // events beyond the mark
  std::string database;             // whose events these are; "" of a ledger without a segment
  uint64_t bytes = 0;               // of all its files
  size_t quarantined = 0;           // files that earlier starts set aside
  std::vector<std::string> notes;   // what a crash leaves, and the next start sets aside
  std::vector<std::string> alarms;  // what should never be

  uint64_t first_sequence() const { return views.empty() ? 1 : views.front().first_sequence; }
};

// A running owner may be in the middle of a write, or let a segment go: what looks wrong is read
// again, at most kSurveyTriesMax times in all, and counts when it looks the same twice. Errors: as
// recover_ledger().
constexpr int kSurveyTriesMax = 5;
constexpr Milliseconds kSurveyPause{100};  // between two of them
Result<Survey> survey_ledger(Directory& directory);

// Each record beyond the sequence `after`, oldest first, the tail among them, until `see` returns
// false. What is damaged is passed over. An Error: the disk.
using SeeRecord = std::function<bool(uint64_t sequence, const Record& record)>;
std::optional<Error> read_records(const Survey& survey, uint64_t after, const SeeRecord& see);

// The latest event, or word that nothing is owed, under this id. Nothing: the files hold none.
Result<std::optional<Record>> find_outcome(const Survey& survey, const ObjectId& id);

// An event of the files, and what has become of it.
struct Bill {
  enum class State : uint8_t {
    kWaiting,    // not known to be in the database
    kDelivered,  // the database has it
    kDead,       // not sent any more until a person says so
    kReplaced,   // was dead, and a person billed it under another id
  };
  Event event;
  Origin origin = Origin::kRequest;
  State state = State::kWaiting;
};

std::string_view state_name(Bill::State state);

// Each event once, in the order of the log; then dead ones whose segments have gone.
std::optional<Error> read_bills(const Survey& survey, const std::function<void(const Bill&)>& see);

// The event that has waited longest for the database.
Result<std::optional<Event>> find_oldest_waiting(const Survey& survey);

}  // namespace llmproxy
