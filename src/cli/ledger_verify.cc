// Holds the files against their own rules, and their delivered events against the database.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <ostream>
#include <span>
#include <vector>

#include "cli/ledger.h"
#include "cli/print.h"

namespace llmproxy {
namespace {

constexpr size_t kProblemsShown = 100;
constexpr int kStatusForbidden = 403;

// Counts what is wrong and shows the first of it.
class Problems {
 public:
  explicit Problems(std::ostream& out) : out_(out) {}
  void add(std::string_view what) {
    if (++count_ <= kProblemsShown) out_ << "wrong: " << printable(what) << '\n';
    if (count_ == kProblemsShown) out_ << "more is not shown\n";
  }
  size_t count() const { return count_; }

 private:
  std::ostream& out_;
  size_t count_ = 0;
};

// One outcome of a request; 24 bytes, since there may be millions.
struct SeenOutcome {
  ObjectId id;
  enum class Kind : uint32_t { kEvent, kEventByHand, kFree };
  Kind kind = Kind::kEvent;
  uint64_t content = 0;  // a hash

  bool operator<(const SeenOutcome& other) const { return id < other.id; }
};

uint64_t hash_of(const Event& event) {
  std::string bytes;
  append_record(bytes, EventRecord{event});
  return std::hash<std::string>()(bytes);
}

// I6. An event that a person had sent again stands in the log once more, the same.
void check_outcomes(std::span<const SeenOutcome> of_one_id, Problems& problems) {
  using Kind = SeenOutcome::Kind;
  const auto count = [&](Kind kind) {
    return std::count_if(of_one_id.begin(), of_one_id.end(),
                         [&](const SeenOutcome& one) { return one.kind == kind; });
  };
  const auto events = count(Kind::kEvent), again = count(Kind::kEventByHand);
  const auto freed = count(Kind::kFree);
  const std::string id = of_one_id.front().id.hex();
  if (freed > 1) problems.add(fmt::format("{} is free twice", id));
  if (freed > 0 && events + again > 0) problems.add(fmt::format("{} is billed and free", id));
  const SeenOutcome* first = nullptr;
  for (const SeenOutcome& one : of_one_id) {
    if (one.kind == Kind::kFree) continue;
    if (first != nullptr && one.content != first->content)
      return problems.add(fmt::format("{} has two events that differ", id));
    first = &one;
  }
  if (events > 1) problems.add(fmt::format("{} has {} events", id, events));
}

// Sequences without gaps, and one outcome for each id. The CRCs, and that all bytes belong to
// something, are the survey's, which has read every byte.
std::optional<Error> check_records(const Survey& survey, Problems& problems, uint64_t& events) {
  std::vector<SeenOutcome> outcomes;
  uint64_t expected = survey.first_sequence();
  auto error = read_records(survey, 0, [&](uint64_t sequence, const Record& record) {
    if (sequence != expected && survey.alarms.empty()) {
      problems.add(sequence == expected + 1
                       ? fmt::format("record {} is missing", expected)
                       : fmt::format("records {} to {} are missing", expected, sequence - 1));
    }
    expected = sequence + 1;
    if (const auto* event = std::get_if<EventRecord>(&record)) {
      const auto kind =
          is_by_hand(record) ? SeenOutcome::Kind::kEventByHand : SeenOutcome::Kind::kEvent;
      outcomes.push_back({event->event.id, kind, hash_of(event->event)});
    } else if (const auto* freed = std::get_if<FreeRecord>(&record)) {
      outcomes.push_back({freed->id, SeenOutcome::Kind::kFree, 0});
    }
    return true;
  });
  if (error) return error;
  if (expected != survey.state.last_sequence() + 1 && survey.alarms.empty()) {
    problems.add(
        fmt::format("records {} to {} are missing", expected, survey.state.last_sequence()));
  }
  std::stable_sort(outcomes.begin(), outcomes.end());
  for (size_t begin = 0; begin < outcomes.size();) {
    size_t end = begin;
    while (end < outcomes.size() && outcomes[end].id == outcomes[begin].id) ++end;
    check_outcomes(std::span(outcomes).subspan(begin, end - begin), problems);
    begin = end;
  }
  events = static_cast<uint64_t>(
      std::count_if(outcomes.begin(), outcomes.end(),
                    [](const SeenOutcome& one) { return one.kind != SeenOutcome::Kind::kFree; }));
  return std::nullopt;
}

// The delivered events of the files, in batches, against what the database has.
class Comparison {
 public:
  Comparison(Database& database, Problems& problems) : database_(database), problems_(problems) {}

  void take(const Bill& bill) {
    if (error_ || bill.state != Bill::State::kDelivered) return;
    batch_.push_back(bill.event);
    if (batch_.size() == Database::kBatchMax) compare();
  }
  void compare() {
    if (error_ || batch_.empty()) return;
    const auto stored = database_.find_events(batch_);
    if (!stored) {
      error_ = stored.error();
      return;
    }
    for (size_t i = 0; i < batch_.size(); ++i) tell(batch_[i].id, stored->at(i));
    compared_ += batch_.size();
    batch_.clear();
  }

  uint64_t compared() const { return compared_; }
  const std::optional<Error>& error() const { return error_; }

 private:
  void tell(const ObjectId& id, Stored stored) {
    if (stored == Stored::kAbsent)
      problems_.add(fmt::format("event {} was delivered and is not in the database", id.hex()));
    if (stored == Stored::kDifferent)
      problems_.add(fmt::format("event {} is another one in the database", id.hex()));
    if (stored == Stored::kTwice)
      problems_.add(fmt::format("event {} is in the database more than once", id.hex()));
  }

  Database& database_;
  Problems& problems_;
  std::vector<Event> batch_;
  uint64_t compared_ = 0;
  std::optional<Error> error_;
};

// 0, or the exit code for a database that could not be asked.
int compare_with_database(const LedgerShell& shell, const Survey& survey, Problems& problems,
                          std::string& summary) {
  if (shell.arguments.is_files_only) {
    summary = "the database was not asked";
    return 0;
  }
  const auto database = shell.open_database();
  const auto not_asked = [&](const Error& error) {
    summary = fmt::format("not compared with the database: {}", error.message);
    return error.status == kStatusForbidden ? 0 : kExitUnavailable;
  };
  if (!database) return not_asked(database.error());
  Comparison comparison(**database, problems);
  if (auto error = read_bills(survey, [&](const Bill& bill) { comparison.take(bill); })) {
    problems.add(error->message);
    return 0;
  }
  comparison.compare();
  if (comparison.error()) return not_asked(*comparison.error());
  summary = fmt::format("{} delivered ones compared with the database", comparison.compared());
  return 0;
}

}  // namespace

int ledger_verify(const LedgerShell& shell) {
  int code = 0;
  const auto survey = look_at_ledger(shell, false, code);
  if (!survey) return code;
  Problems problems(shell.out);
  for (const std::string& alarm : survey->alarms) problems.add(alarm);
  for (const std::string& note : survey->notes) shell.out << "note: " << printable(note) << '\n';
  if (survey->quarantined > 0)
    shell.out << fmt::format("note: {} files in quarantine\n", survey->quarantined);
  uint64_t events = 0;
  if (const auto error = check_records(*survey, problems, events)) return fail(shell.err, *error);
  std::string compared;
  code = compare_with_database(shell, *survey, problems, compared);
  shell.out << fmt::format("{} segments, {} bytes; records {} to {}, {} events; {}; {} wrong\n",
                           survey->views.size(), survey->bytes, survey->first_sequence(),
                           survey->state.last_sequence(), events, compared, problems.count());
  if (const int unprinted = flush_or_fail(shell.out, shell.err, "the result"); unprinted != 0)
    return unprinted;
  return problems.count() > 0 ? kExitNotFound : code;
}

}  // namespace llmproxy
