// What a person decides of a request that is unresolved, or of a dead event. The program never does
// any of it by itself. The bookkeeping is LedgerCore's; waiting for the disk is Ledger's.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/digest.h"
#include "billing/ledger.h"
#include "billing/ledger_core.h"
#include "billing/ledger_words.h"

namespace llmproxy {

using ByHand = LedgerCore::ByHand;

bool LedgerCore::is_unresolved(const ObjectId& id) const {
  return ledger_.state().unresolved().contains(id) && !closing_.contains(id);
}

std::vector<ObjectId> LedgerCore::dead_ids() const {
  std::vector<ObjectId> ids;
  for (const auto& [id, one] : ledger_.state().dead()) {
    if (!closing_.contains(id)) ids.push_back(id);
  }
  return ids;
}

// The last of `records` closes `id`. They go into one group unless it is full.
ByHand LedgerCore::append_by_hand(const ObjectId& id, std::vector<Record> records, Waiter* waiter) {
  if (closing_.contains(id)) return ByHand::kUnderWay;
  size_t room = 0;
  std::string payload;
  for (const Record& record : records) {
    payload.clear();
    append_record(payload, record);
    room += GroupBuilder::framed_size(payload.size());
  }
  if (!ledger_.is_ready() || !ledger_.reserve(room)) return ByHand::kRefused;
  std::vector<LedgerLog::Append> appends;
  try {
    for (Record& record : records)
      appends.push_back({.record = std::move(record), .gives_up = true});
    appends.back().waiter = waiter;
    appends.back().is_awaited = waiter != nullptr;
    closing_.emplace(id, room);
    ledger_.append(appends);
  } catch (...) {
    closing_.erase(id);
    ledger_.give_back(room);
    throw;
  }
  if (waiter != nullptr) ++waiting_;
  return ByHand::kAppended;
}

void LedgerCore::note_closed(const Record& record, bool is_durable) {
  const bool closes = std::holds_alternative<EventRecord>(record) ||
                      std::holds_alternative<FreeRecord>(record) ||
                      std::holds_alternative<ClosedRecord>(record);
  const auto found = closes ? closing_.find(*record_id(record)) : closing_.end();
  if (found == closing_.end()) return;
  ledger_.give_back(found->second);
  closing_.erase(found);
  const bool is_a_persons = is_by_hand(record) || std::holds_alternative<ClosedRecord>(record);
  if (is_durable && is_a_persons) ++counts_.by_hand;
}

ByHand LedgerCore::resolve(const ObjectId& id, const std::optional<Figure>& figure,
                           Waiter* waiter) {
  const auto found = ledger_.state().unresolved().find(id);
  if (found == ledger_.state().unresolved().end()) return ByHand::kUnknown;
  const Intent& intent = found->second.record.intent;
  if (!figure) return append_by_hand(id, {FreeRecord{id, "by hand", Origin::kByHand}}, waiter);
  Event event{.id = id,
              .date_created = intent.time,  // when it ended is not what its user asked for
              .user_id = intent.user_id,
              .api_key_id = intent.api_key_id,
              .model = intent.model,
              .prompt_n = figure->prompt_n,
              .completion_n = figure->completion_n};
  return append_by_hand(id, {EventRecord{std::move(event), Origin::kByHand}}, waiter);
}

ByHand LedgerCore::requeue(const ObjectId& id, Waiter* waiter) {
  const auto found = ledger_.state().dead().find(id);
  if (found == ledger_.state().dead().end()) return ByHand::kUnknown;
  return append_by_hand(id, {EventRecord{found->second.record.event, Origin::kByHand}}, waiter);
}

ByHand LedgerCore::rebill(const ObjectId& id, const ObjectId& new_id, Waiter* waiter) {
  const auto found = ledger_.state().dead().find(id);
  if (found == ledger_.state().dead().end()) return ByHand::kUnknown;
  Event event = found->second.record.event;
  event.id = new_id;
  return append_by_hand(id, {EventRecord{std::move(event), Origin::kByHand}, ClosedRecord{id}},
                        waiter);
}

// The whole: find it, append, wait, and say how it went.

namespace {

constexpr int kStatusUnknown = 404;
constexpr int kStatusConflict = 409;
constexpr int kStatusUnavailable = 503;

Error failed(int status, std::string message) {
  return {.status = status, .message = std::move(message)};
}

// Of a change that was not recorded; `none`: what there is none of.
Error explain(ByHand answer, const ObjectId& id, std::string_view none) {
  if (answer == ByHand::kUnknown)
    return failed(kStatusUnknown, fmt::format("no {} has the id {}", none, id.hex()));
  if (answer == ByHand::kUnderWay)
    return failed(kStatusUnavailable,
                  fmt::format("{}: its outcome is being recorded; look again", id.hex()));
  return failed(kStatusUnavailable, "the ledger is full or cannot write; nothing was changed");
}

}  // namespace

ObjectId rebilled_id(const ObjectId& id) {
  const Sha256 digest = sha256("rebilled " + id.hex());
  ObjectId other = id;  // its seconds stay
  std::copy_n(digest.begin(), other.bytes.size() - 4, other.bytes.begin() + 4);
  return other;
}

Result<std::optional<Record>> Ledger::find_outcome(const ObjectId& id) const {
  return llmproxy::find_outcome(durable_records(), id);
}

Result<std::set<ObjectId>> Ledger::find_by_hand() const {
  std::set<ObjectId> ids;
  const auto error = read_records(durable_records(), 0, [&](uint64_t, const Record& record) {
    if (std::holds_alternative<EventRecord>(record) && is_by_hand(record))
      ids.insert(*record_id(record));
    return true;
  });
  if (error) return *error;
  return ids;
}

std::optional<Error> Ledger::resolve(const ObjectId& id, const std::optional<Figure>& figure) {
  const auto answer =
      change([&](LedgerCore& core, Waiter* waiter) { return core.resolve(id, figure, waiter); });
  if (!answer) return answer.error();
  if (*answer == ByHand::kAppended) return std::nullopt;
  if (*answer != ByHand::kUnknown) return explain(*answer, id, "");
  // Told twice, perhaps: by a script that did not get the first answer.
  const Result<std::optional<Record>> outcome = find_outcome(id);
  if (!outcome) return outcome.error();
  if (!*outcome) return explain(*answer, id, "unresolved request");
  if (const auto* event = std::get_if<EventRecord>(&**outcome)) {
    const Figure before{event->event.prompt_n, event->event.completion_n};
    if (figure == before) return std::nullopt;
    return failed(kStatusConflict, fmt::format("it is billed already: {}", describe(event->event)));
  }
  if (!figure) return std::nullopt;
  return failed(kStatusConflict, fmt::format("{} is free already ({})", id.hex(),
                                             std::get<FreeRecord>(**outcome).reason));
}

// An event that was billed anew can be dead again: after a crash, with a mark that had not passed
// it, it is shipped and refused once more. Sending it under its own id too would be a second bill.
std::optional<Error> Ledger::requeue(const ObjectId& id) {
  const ObjectId other = rebilled_id(id);
  const Result<std::optional<Record>> anew = find_outcome(other);
  if (!anew) return anew.error();
  if (*anew) {
    return failed(kStatusConflict,
                  fmt::format("{} is billed already, as {}; `--rebill` it again to close it",
                              id.hex(), other.hex()));
  }
  const auto answer =
      change([&](LedgerCore& core, Waiter* waiter) { return core.requeue(id, waiter); });
  if (!answer) return answer.error();
  if (*answer == ByHand::kAppended) return std::nullopt;
  return explain(*answer, id, "dead event");
}

Result<size_t> Ledger::requeue_all() {
  const Result<std::set<ObjectId>> by_hand = find_by_hand();
  if (!by_hand) return by_hand.error();
  size_t count = 0;
  const auto answer = change([&](LedgerCore& core, Waiter* waiter) {
    std::vector<ObjectId> ids = core.dead_ids();
    std::erase_if(ids, [&](const ObjectId& id) { return by_hand->contains(rebilled_id(id)); });
    if (ids.empty()) return ByHand::kUnknown;
    // In order, and the last one tells of all.
    for (const ObjectId& id : ids) {
      const ByHand one = core.requeue(id, &id == &ids.back() ? waiter : nullptr);
      if (one != ByHand::kAppended) return one;
      ++count;
    }
    return ByHand::kAppended;
  });
  if (!answer) return answer.error();
  if (*answer == ByHand::kRefused) {
    return failed(
        kStatusUnavailable,
        fmt::format("the ledger is full or cannot write; {} of them were changed", count));
  }
  return count;
}

Result<ObjectId> Ledger::rebill(const ObjectId& id) {
  const ObjectId new_id = rebilled_id(id);
  const auto answer =
      change([&](LedgerCore& core, Waiter* waiter) { return core.rebill(id, new_id, waiter); });
  if (!answer) return answer.error();
  if (*answer == ByHand::kAppended) return new_id;
  if (*answer != ByHand::kUnknown) return explain(*answer, id, "");
  const Result<std::optional<Record>> outcome = find_outcome(new_id);
  if (!outcome) return outcome.error();
  if (*outcome) return new_id;  // told twice
  return explain(*answer, id, "dead event");
}

}  // namespace llmproxy
