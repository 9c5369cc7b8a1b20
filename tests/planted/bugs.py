"""Wrong versions of what keeps the bill true, each with the test that must see it. tools/planted runs them.

`right` stands once in `file` and is replaced by `wrong`. `test` is a program of C++ tests and a filter, or pytest, a
file and options. A bug of the product that slipped through once belongs here as well.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    name: str
    file: str
    right: str
    wrong: str
    test: str


SIMULATION = "billing_test LedgerSimulation.*"
LOG = "src/billing/ledger_log.cc"
CORE = "src/billing/ledger_core.cc"
RECOVERY = "src/billing/recovery.cc"
STATE = "src/billing/ledger_state.cc"

BUGS = [
    # When a record is durable, and who is told.
    Bug(
        "no sync",
        "src/base/file.cc",
        "flags | O_DIRECT | O_DSYNC)",
        "flags | O_DIRECT)",
        "base_test File.GoesToTheDeviceAndIsSynchronous",
    ),
    Bug(
        "acknowledge first",
        CORE,
        "  const bool is_free = entry.waiter == nullptr;\n",
        "  const bool is_free = true;\n  entry.waiter = nullptr;\n",
        SIMULATION,
    ),
    Bug(
        "given up is told durable",
        LOG,
        "told.push_back({std::move(append), false});",
        "told.push_back({std::move(append), true});",
        SIMULATION,
    ),
    Bug(
        "skip the intent",
        "src/proxy/stream_relay.cc",
        "    if (has_sent_nothing() && !co_await await_intent(request_)) co_return false;  // I1\n",
        "",
        "proxy_test SessionTest.NothingOfAStreamIsSentBeforeItsIntentIsRecorded",
    ),
    Bug(
        "a written intent is withdrawn",
        CORE,
        "  if (found == opening_.end()) return false;\n",
        "  if (found == opening_.end()) return true;\n",
        "billing_test LedgerCoreTest.*:LedgerSimulation.*",
    ),
    Bug(
        "an event that may tell is recognised unread",
        "src/api/event_pattern.cc",
        "opens_text(event.substr(0, open + 1)) && closes_text(event.substr(close));",
        "(opens_text(event) || true) && closes_text(event.substr(close));",
        "api_test EventPattern.*:ChatStream.*",
    ),
    Bug(
        "end before the outcome",
        "src/proxy/stream_relay.cc",
        "    is_holding_ |= piece.kind == Piece::Kind::kTerminal;\n",
        "",
        "pytest tests/test_stream.py",
    ),
    # The log.
    Bug(
        "drop on full",
        LOG,
        "if (is_failing_ || reserved_ + room > bytes_available()) return false;",
        "if (is_failing_) return false;",
        "billing_test LedgerLogTest.FullRefusesAndRoomComesBackWhenSegmentsGo",
    ),
    Bug(
        "retry the failed segment",
        LOG,
        "    last_error_ = error;\n    close_current();\n",
        "    last_error_ = error;\n",
        SIMULATION,
    ),
    Bug(
        "delete segment first",
        STATE,
        "  return is_settled && is_proven ? &oldest : nullptr;",
        "  return is_settled || is_proven ? &oldest : nullptr;",
        SIMULATION,
    ),
    Bug(
        "rewrite a settled intent",
        LOG,
        "  if (group_.empty() && has_settled_work())\n"
        "    add_copies(pending_.empty() ? most : most / kCopiesPart);\n"
        "  while (!pending_.empty() && builder_.size() < most) take_pending();\n",
        "  while (!pending_.empty() && builder_.size() < most) take_pending();\n"
        "  if (has_settled_work()) add_copies(most);\n",
        "billing_test LedgerLogTest.WhatEndsInTheSameGroupStaysEnded",
    ),
    Bug(
        "forget the unresolved",
        LOG,
        "  if (!settled->has_side_records) return Chore{.kind = Kind::kRemove, .number = settled->number};\n",
        "  return Chore{.kind = Kind::kRemove, .number = settled->number};\n",
        "billing_test LedgerLogTest.TheSideFile*",
    ),
    Bug(
        "believe any checksum",
        "src/billing/segment.cc",
        "length - kGroupCountAt)) != number_at(bytes, kGroupCrcAt))",
        "length - kGroupCountAt)) == 0)",
        "billing_test SegmentGroup.*",
    ),
    # A start.
    Bug(
        "ship from the tail unsynced",
        RECOVERY,
        "    result_.first = std::move(held_->records);\n",
        "    for (const Record& record : held_->records) apply(record, result_.start.state.last_sequence() + 1);\n"
        "    entered_->view.end_bytes = held_->end_bytes;\n",
        SIMULATION,
    ),
    Bug(
        "a header counts alone",
        RECOVERY,
        "    if (cursor.next() == GroupRead::State::kOk) return std::nullopt;\n    // Groups behind it",
        "    if (cursor.next() != GroupRead::State::kMore) return std::nullopt;\n    // Groups behind it",
        SIMULATION,
    ),
    Bug(
        "the open ones are free",
        RECOVERY,
        "      result_.first.emplace_back(UnresolvedRecord{intent, intent.time, reason});\n",
        "      result_.first.emplace_back(FreeRecord{id, reason, Origin::kRecovered});\n",
        SIMULATION,
    ),
    Bug(
        "bill a running figure",
        "src/billing/outcome.cc",
        "if (facts.running_figure && is_continuous && is_one_choice) {",
        "if (facts.running_figure && (is_continuous || is_one_choice)) {",
        "billing_test Outcome.*",
    ),
    Bug(
        "bill progress after a crash",
        RECOVERY,
        "one->progress && (one->progress->is_final || one->record.may_bill_running);",
        "one->progress.has_value();",
        "billing_test RecoveryTest.*",
    ),
    # Shipping.
    Bug(
        "mark before acknowledgement",
        CORE,
        "  const uint64_t mark = oldest - 1;\n",
        "  const uint64_t mark = oldest > 0 ? reader_.last_sequence() : 0;\n",
        SIMULATION,
    ),
    Bug(
        "no answer is success",
        "src/billing/shipper.cc",
        "if (delivery == Delivery::kDelivered) answer.delivered",
        "if (delivery != Delivery::kRefused) answer.delivered",
        "billing_test ShipperTest.*",
    ),
    Bug(
        "any duplicate is success",
        "src/db/sqlite.cc",
        "    const bool is_equal = is_new || code == SQLITE_ROW;\n",
        "    const bool is_equal = true;\n",
        "db_test Sqlite/DatabaseTest.*",
    ),
    Bug(
        "acknowledged by one server",
        "src/db/mongo.cc",
        "  mongoc_write_concern_set_wmajority(concern.get(), kWriteConcernTimeoutMs);\n",
        "  mongoc_write_concern_set_w(concern.get(), 1);\n",
        "pytest tests/test_mongo_faults.py -k majority",
    ),
    Bug(
        "write-concern error is success",
        "src/db/mongo_reply.cc",
        "  if (!concern.empty()) return all(Verdict::kRetry, concern);\n",
        "",
        "pytest tests/test_mongo_faults.py -k concern",
    ),
    Bug(
        "ship what may be archived",
        CORE,
        "  if (is_old && record->origin != Origin::kByHand) {",
        "  if (is_old && record->origin == Origin::kByHand) {",
        "billing_test LedgerTest.AnEventThatIsTooOldIsWithheld",
    ),
    # The ledger's own files.
    Bug(
        "a torn first segment is another ledger's",
        RECOVERY,
        "  if (instance_) {",
        "  if (instance_ && !found_.empty()) {",
        "billing_test RecoveryTest.ATornFirstWriteOfAllIsOfNoOtherLedger",
    ),
    Bug(
        "no spare segment ahead",
        LOG,
        "spares_.size() < kSparesMin + kSparesAhead ||",
        "spares_.size() < kSparesMin ||",
        "billing_test LedgerLogTest.ASpareThatIsLateKeepsNobodyWaiting",
    ),
    # Ids.
    Bug(
        "id from the client",
        "src/proxy/request.cc",
        "      id(server.parts().ids.mint(time)),\n",
        "      id([&] {\n"
        "        for (const auto& header : its_head.headers) {\n"
        "          if (const auto given = ObjectId::from_hex(header.value)) return *given;\n"
        "        }\n"
        "        return server.parts().ids.mint(time);\n"
        "      }()),\n",
        "pytest tests/test_billing.py -k id_of_the_client",
    ),
    Bug(
        "ids go back with the clock",
        "src/billing/object_id.cc",
        "    if (next >> kCounterBits < seconds) next =",
        "    next =",
        "billing_test ObjectIdMint.*",
    ),
]
