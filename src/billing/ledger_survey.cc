// Recovery reads and judges; here its result is held against a second reading, and the records are
// read again for who wants to see each of them.
#include "billing/ledger_survey.h"

#include <algorithm>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/text.h"
#include "billing/ledger_reader.h"
#include "billing/recovery.h"

namespace llmproxy {
namespace {

constexpr size_t kItemsAtOnce = 1'000;
constexpr std::string_view kQuarantine = "quarantine-";

// Sizes of what is there now; a file that went meanwhile counts nothing.
void count_files(Directory& directory, Survey& survey) {
  std::vector<std::string> names;
  if (directory.list(names) != 0) return;
  for (const std::string& name : names) {
    std::unique_ptr<File> file;
    uint64_t size = 0;
    if (directory.open(name, file) == 0 && file->size(size) == 0) survey.bytes += size;
    if (name.starts_with(kQuarantine)) ++survey.quarantined;
  }
}

Survey make_survey(Recovered&& recovered) {
  LedgerLog::Start& start = recovered.start;
  Survey survey;
  survey.state = std::move(start.state);
  survey.views = std::move(start.views);
  survey.proven = survey.state.last_sequence() - recovered.first.size();
  survey.tail = std::move(recovered.first);
  survey.backlog = recovered.backlog;
  survey.database = std::move(start.header.database);
  survey.notes = std::move(recovered.notes);
  survey.alarms = std::move(recovered.alarms);
  return survey;
}

}  // namespace

Result<Survey> survey_ledger(Directory& directory) {
  std::string seen;  // what the reading before found wrong
  for (int tries = 1;; ++tries) {
    const RecoveryOptions options{.database = "", .may_retarget = false, .is_survey = true};
    Result<Recovered> recovered = recover_ledger(directory, options);
    std::string wrong;
    if (!recovered) {
      wrong = recovered.error().message;
    } else {
      for (const std::string& note : recovered->notes) wrong += note + "\n";
      for (const std::string& alarm : recovered->alarms) wrong += alarm + "\n";
    }
    if (wrong.empty() || wrong == seen || tries == kSurveyTriesMax) {
      if (!recovered) return recovered.error();
      Survey survey = make_survey(std::move(*recovered));
      count_files(directory, survey);
      return survey;
    }
    seen = std::move(wrong);
    std::this_thread::sleep_for(kSurveyPause);
  }
}

std::optional<Error> read_records(const Survey& survey, uint64_t after, const SeeRecord& see) {
  LedgerReader reader(after);
  for (bool is_more = after < survey.proven; is_more;) {
    std::vector<LedgerReader::Item> items;
    is_more = reader.read(survey.views, survey.proven, kItemsAtOnce, items);
    if (reader.error() != 0) {
      return Error{.message = fmt::format("ledger: its records cannot be read: {}",
                                          errno_text(reader.error()))};
    }
    for (const LedgerReader::Item& item : items) {
      if (!see(item.sequence, item.record)) return std::nullopt;
    }
  }
  uint64_t sequence = survey.proven;
  for (const Record& record : survey.tail) {
    if (++sequence > after && !see(sequence, record)) return std::nullopt;
  }
  return std::nullopt;
}

Result<std::optional<Record>> find_outcome(const Survey& survey, const ObjectId& id) {
  std::optional<Record> found;
  const auto error = read_records(survey, 0, [&](uint64_t, const Record& record) {
    const bool is_outcome =
        std::holds_alternative<EventRecord>(record) || std::holds_alternative<FreeRecord>(record);
    if (is_outcome && record_id(record) == id) found = record;
    return true;
  });
  if (error) return *error;
  return found;
}

std::string_view state_name(Bill::State state) {
  switch (state) {
    case Bill::State::kWaiting:
      return "waiting";
    case Bill::State::kDelivered:
      return "delivered";
    case Bill::State::kDead:
      return "dead";
    case Bill::State::kReplaced:
      break;
  }
  return "replaced";
}

std::optional<Error> read_bills(const Survey& survey, const std::function<void(const Bill&)>& see) {
  // What people did: events that were sent again, and those that were replaced. Few.
  std::map<ObjectId, uint64_t> again, replaced;
  auto error = read_records(survey, 0, [&](uint64_t sequence, const Record& record) {
    const auto* const event = std::get_if<EventRecord>(&record);
    if (event != nullptr && event->origin == Origin::kByHand) again[event->event.id] = sequence;
    if (const auto* closed = std::get_if<ClosedRecord>(&record)) replaced[closed->id] = sequence;
    return true;
  });
  if (error) return error;
  const auto comes_later = [](const std::map<ObjectId, uint64_t>& those, const ObjectId& id,
                              uint64_t sequence) {
    const auto found = those.find(id);
    return found != those.end() && found->second > sequence;
  };
  std::set<ObjectId> dead;
  error = read_records(survey, 0, [&](uint64_t sequence, const Record& record) {
    const auto* const event = std::get_if<EventRecord>(&record);
    if (event == nullptr || comes_later(again, event->event.id, sequence)) return true;
    const ObjectId& id = event->event.id;
    Bill bill{.event = event->event, .origin = event->origin};
    if (survey.state.dead().contains(id)) {
      bill.state = Bill::State::kDead;
      dead.insert(id);
    } else if (comes_later(replaced, id, sequence)) {
      bill.state = Bill::State::kReplaced;
    } else if (sequence <= survey.state.mark()) {
      bill.state = Bill::State::kDelivered;
    }
    see(bill);
    return true;
  });
  if (error) return error;
  for (const auto& [id, one] : survey.state.dead()) {
    if (!dead.contains(id)) see({.event = one.record.event, .state = Bill::State::kDead});
  }
  return std::nullopt;
}

Result<std::optional<Event>> find_oldest_waiting(const Survey& survey) {
  std::optional<Event> oldest;
  const auto error = read_records(survey, survey.state.mark(), [&](uint64_t, const Record& record) {
    const auto* const event = std::get_if<EventRecord>(&record);
    if (event != nullptr && !survey.state.dead().contains(event->event.id)) oldest = event->event;
    return !oldest.has_value();
  });
  if (error) return *error;
  return oldest;
}

}  // namespace llmproxy
