"""A MongoDB that misbehaves: whatever its replies say, or do not say, each completion is billed once with its
figures, or told as refused. The server is rig.mongo_double, which does what a test's script says."""

import datetime
import signal
import struct

import bson
import pytest

from rig.database import KEYS, digest
from rig.mongo_double import (
    MongoDouble, acknowledges_too_early, after, concern_fails, counts_nothing, cut_before, duplicates_elsewhere,
    fails, fails_with, honest, miscounts, names_wrong_documents, never, not_primary, refuses, reply_cut, reply_lost,
    stored_but_never_answered, stores_only,
)  # fmt: skip
from rig.wait import SCALE, stays, wait_until

FIELDS = ["_id", "date_created", "user_id", "api_key_id", "model", "prompt_n", "completion_n"]
OUTAGE, RECOVERY = "database takes no events", "database takes events again"
REFUSED = "never sent again (refused by the database"
UNHEARD_OF = 4711  # a code that MongoDB does not have
stored_unproven = miscounts(-1)  # what makes the proxy send again, without a pause for a new connection
SERVERS = pytest.mark.parametrize("members", [0, 1], ids=["standalone", "replica set"])


class Case:
    """A proxy on a double, and what its customers were told: each completion has figures of its own."""

    def __init__(self, double, proxy):
        self.double = double
        self.proxy = proxy
        self.expected = {}  # id: user and figures
        self._client = proxy.connect()

    def post(self, token="token2", **members):
        """A completion, the n-th of this case from 0; its id."""
        seed = len(self.expected)
        reply = self._client.post(token=token, seed=seed, **members)
        assert reply.status == 200, reply
        self.expected[reply.id] = (KEYS[token][1], KEYS[token][0], "m", 7 + seed, 3 + 2 * seed)
        return reply.id

    def post_batch(self, count, *answers):
        """`count` completions, which go to the database in one insert, after one of its own for another completion;
        `answers` are for that insert and those that follow. Their ids."""
        gate = self.double.gate("the batch is complete")
        before = len(self.double.of("insert"))
        self.double.next("insert", after(gate), *answers)
        self.post()
        self.double.wait("insert", before + 1)  # it is not answered yet, so the others gather
        ids = [self.post() for _ in range(count)]
        gate.open()
        return ids

    def wait_delivered(self, *refused):
        wanted = set(self.expected) - set(refused)
        wait_until(lambda: wanted <= {event["id"] for event in self.double.events()}, "the events")

    def wait_refused(self, *ids):
        """Until the log tells of each, with all that it takes to write the document by hand."""
        for id in ids:
            user, key, model, prompt_n, completion_n = self.expected[id]
            values = f'"user_id":"{user}","api_key_id":"{key}","model":"{model}"'
            figures = f'"prompt_n":{prompt_n},"completion_n":{completion_n}'
            self.proxy.wait_lines("ERROR", REFUSED, f'"_id":"{id}"', values, figures)

    def inserts_of(self, id):
        """How many documents each insert had that had this one."""
        return [len(command.ids) for command in self.double.of("insert") if id in command.ids]

    def check(self, *refused, others=()):
        """Every completion that was not refused is stored once, with its figures, and nothing else is but
        `others`; the log tells of every refused one and of no other; every command was as it must be."""
        self.wait_delivered(*refused)
        self.wait_refused(*refused)
        assert self.proxy.stop() == 0, self.proxy.log[-4000:]
        events = [event for event in self.double.events() if event not in others]
        wanted = {id: value for id, value in self.expected.items() if id not in refused}
        assert {event["id"]: tuple(event.values())[2:] for event in events} == wanted
        assert len(events) == len(wanted) and not self.double.pending()
        assert all(is_now(event["date_created"]) for event in events)
        assert len(self.proxy.lines(REFUSED)) == len(refused)
        self.check_commands()

    def check_commands(self):
        inserts = self.double.of("insert")
        assert inserts
        for command in inserts:
            assert command["ordered"] is False
            assert (command["writeConcern"]["w"], command["writeConcern"]["j"]) == ("majority", True)
            assert [list(document) for document in command["documents"]] == [FIELDS] * len(command.ids)
        for command in self.double.of("read"):
            assert command["readConcern"] == {"level": "majority"}
            assert command.get("$readPreference") in (None, {"mode": "primary"})

    def close(self):
        self._client.close()


def seeds(*numbers):
    """Tells the documents of these completions of a case."""
    return lambda document: document["prompt_n"] - 7 in numbers


def document(**members):
    """An event from elsewhere."""
    values = (bson.ObjectId(), datetime.datetime(2026, 1, 1), "user3", KEYS["token3"][0], "m", 1, 1)
    return {**dict(zip(FIELDS, values, strict=True)), **members}


def is_now(date):
    assert isinstance(date, datetime.datetime)
    return abs(date - datetime.datetime.now(datetime.UTC).replace(tzinfo=None)) < datetime.timedelta(seconds=60)


def milliseconds(seconds):
    return int(seconds * SCALE * 1000)


@pytest.fixture
def make_double():
    made = []

    def make(**options):
        made.append(MongoDouble(**options))
        return made[-1]

    yield make
    for double in made:
        double.close()
    for double in made:
        assert not double.failures, double.failures


@pytest.fixture
def start(make_double, make_proxy, backend):
    """Starts a Case: settings of the proxy, options of the double."""
    made = []

    def make(settings=None, **options):
        double = make_double(**options)
        settings = {"ledger": {"ship_interval": 0.01}, **(settings or {})}
        made.append(Case(double, make_proxy({"m": backend}, double, **settings)))
        return made[-1]

    yield make
    for case in made:
        case.close()


# What is asked.


def test_key_query_is_the_original_s_byte_for_byte(start):
    case = start()
    case.post()
    (command,) = case.double.of("key")
    since = command["filter"]["$or"][1]["date_expiry"]["$gt"]
    wanted = {
        "access_level": "COMPLETION",
        "secret": digest("token2"),
        "$or": [{"date_expiry": None}, {"date_expiry": {"$gt": since}}],
    }
    assert command.raw["filter"].raw == bson.encode(wanted)
    assert is_now(since)


def test_every_insert_is_unordered_and_acknowledged_by_the_majority_s_journals(start):
    """Whole batches, the driver's pieces, what is sent again, halves and lone documents, whatever the URI says."""
    case = start(options="w=0&journal=false", write_batch_max=5)
    case.post_batch(7, reply_lost)
    case.wait_delivered()
    case.double.always("insert", fails_with(seeds(10), UNHEARD_OF))
    ids = case.post_batch(4)
    case.wait_refused(ids[1])
    inserts = case.double.of("insert")
    assert {len(command.ids) for command in inserts} >= {5, 4, 2, 1}
    for command in inserts:
        assert command["ordered"] is False
        concern = dict(command["writeConcern"])
        assert concern.pop("wtimeout") > 0
        assert concern == {"w": "majority", "j": True}


def test_read_back_is_at_majority_and_from_the_primary_whatever_the_uri_says(start):
    case = start(members=2, options="readPreference=secondary&readConcernLevel=local&retryWrites=false")
    ids = case.post_batch(3, stored_unproven)
    (command,) = case.double.wait("read", 1)
    assert command.member == 0
    assert command["readConcern"] == {"level": "majority"}
    assert command.get("$readPreference") in (None, {"mode": "primary"})
    assert [str(id) for id in command["filter"]["_id"]["$in"]] == ids
    assert [command.member for command in case.double.of("key")] == [1], "the URI's wish holds for all else"
    case.check()


# Connections that end.


@SERVERS
def test_reply_lost_after_the_commit_bills_once(start, members):
    case = start(members=members)
    case.post_batch(5, reply_lost)
    case.check()


@SERVERS
def test_replies_lost_again_and_again_bill_once(start, members):
    case = start(members=members)
    case.post_batch(5, reply_lost, reply_lost, reply_lost)
    case.double.wait("insert", 1 + 3 + 1)
    case.check()


@SERVERS
def test_connection_cut_before_the_commit_bills_once(start, members):
    case = start(members=members)
    case.post_batch(5, cut_before)
    case.check()


def test_reply_cut_in_its_middle_bills_once(start):
    case = start()
    case.post_batch(5, reply_cut)
    case.check()


def test_replica_set_knows_a_lost_reply_s_write_by_its_number(start):
    """The driver asks again by itself; nobody needs to read back."""
    case = start(members=1)
    ids = case.post_batch(5, reply_lost)
    case.check()
    first, second = [command for command in case.double.of("insert") if ids[0] in command.ids]
    assert (first["lsid"], first["txnNumber"]) == (second["lsid"], second["txnNumber"])
    assert not case.double.of("read") and not case.proxy.lines(OUTAGE)


@pytest.mark.parametrize("fault", [cut_before, reply_lost])
def test_one_lost_piece_of_a_batch_makes_the_whole_unproven(start, fault):
    """The driver sends 8 as 3, 3 and 2, and after the second's failure not the third."""
    case = start(write_batch_max=3)
    ids = case.post_batch(8, honest, fault)
    case.check()
    assert case.inserts_of(ids[0]) == [3, 3] and case.inserts_of(ids[7]) == [2]


# Time.


def test_slow_reply_is_waited_for(start):
    case = start()
    gate = case.double.gate("the reply's time")
    case.double.next("insert", after(gate))
    id = case.post()
    case.double.wait("insert", 1)
    stays(lambda: len(case.double.of("insert")) == 1, "it is sent once", 0.3)  # several times the first back-off
    gate.open()
    case.check()
    assert case.inserts_of(id) == [1] and not case.proxy.lines(OUTAGE)


@pytest.mark.parametrize("fault", [never, stored_but_never_answered])
@SERVERS
def test_insert_without_an_answer_bills_once(start, members, fault):
    case = start(members=members, options=f"socketTimeoutMS={milliseconds(0.3)}")
    case.double.next("insert", fault)
    case.post()
    case.wait_delivered()
    case.check()


def test_hanging_insert_delays_neither_customers_nor_look_ups_of_keys(start):
    case = start()
    gate = case.double.gate("the customers were served")
    case.double.next("insert", after(gate))
    case.post()
    case.double.wait("insert", 1)
    for number in range(10):
        case.post("token2" if number % 2 else "token3", stream=number % 4 < 2)
    assert len(case.double.of("key")) == 2 and len(case.double.of("insert")) == 1
    gate.open()
    case.check()


def test_exit_from_a_hanging_insert_leaves_its_events_to_the_next_start(start):
    """The driver would wait for 10 s."""
    case = start({"flush_timeout": 0.3})
    case.double.next("insert", never)
    case.post()
    case.double.wait("insert", 1)
    case.post(), case.post()
    case.proxy.signal(signal.SIGTERM)
    assert case.proxy.wait(5 * SCALE) == 0
    assert case.proxy.lines("WARNING", "the database did not answer in time")
    assert case.proxy.lines("WARNING", "3 events are not in the database yet")
    case.proxy.launch()
    case.proxy.wait_ready()
    case.check()


# Changes of the primary.


@SERVERS
def test_no_primary_for_a_moment_bills_once(start, members):
    case = start(members=members)
    ids = case.post_batch(5, not_primary)
    case.check()
    assert case.inserts_of(ids[0]) == [5, 5]


def test_no_primary_for_longer_than_the_driver_tries_bills_once(start):
    case = start(members=1)
    ids = case.post_batch(5, *[not_primary] * 3)
    case.check()
    assert case.inserts_of(ids[0]) == [5] * 4
    assert case.proxy.lines("ERROR", OUTAGE, "10107") and case.proxy.lines(RECOVERY)


@pytest.mark.parametrize("retry", ["true", "false"], ids=["driver retries", "driver does not"])
@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "rolled back"])
def test_primary_that_changes_inside_an_insert_bills_once(start, is_kept, retry):
    case = start(members=2, options=f"retryWrites={retry}")

    def changes(exchange):
        exchange.store()
        if is_kept:
            case.double.replicate()
        case.double.elect(1)
        exchange.cut()

    ids = case.post_batch(5, changes)
    case.check()
    members = [command.member for command in case.double.of("insert") if ids[0] in command.ids]
    assert members[0] == 0 and members[-1] == 1


def test_error_with_the_label_retryable_is_never_the_document_s_fault(start):
    case = start()
    case.double.next("insert", *[fails(UNHEARD_OF, "SomethingUnheardOf", ["RetryableWriteError"])] * 2)
    id = case.post()
    case.check()
    assert case.inserts_of(id) == [1] * 3


# Write concern.


@pytest.mark.parametrize("code", [64, 91, 100, UNHEARD_OF])
def test_write_concern_error_proves_nothing(start, code):
    """All is stored, so what comes again is called a duplicate."""
    case = start()
    ids = case.post_batch(5, concern_fails(code), concern_fails(code))
    case.check()
    assert case.inserts_of(ids[0]) == [5, 5, 5] and len(case.double.of("read")) == 1
    assert case.proxy.lines("ERROR", OUTAGE, str(code))


def test_events_rolled_back_after_a_write_concern_error_are_stored_anew(start):
    case = start()

    def rolled_back(exchange):
        case.double.roll_back()
        exchange.honest()

    case.post_batch(5, concern_fails(), rolled_back)
    case.check()


def test_write_concern_error_beside_a_refusal_refuses_nobody_yet(start):
    case = start()

    def both(exchange):
        error = {"index": 2, "code": 121, "errmsg": "scripted DocumentValidationFailure"}
        exchange.store([d for i, d in enumerate(exchange.documents) if i != 2])
        concern = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "scripted"}
        exchange.acknowledge([error], writeConcernError=concern)

    case.post_batch(5, both)
    case.check()


# Duplicates.


@pytest.mark.parametrize("code", [11000, 11001, 12582])
def test_duplicate_that_is_equal_counts_as_delivered(start, code):
    case = start()

    def says_duplicate(exchange):
        errors = [{**error, "code": code} for error in exchange.store()]
        exchange.acknowledge(errors)

    ids = case.post_batch(5, stored_unproven, says_duplicate)
    case.check()
    assert case.inserts_of(ids[0]) == [5, 5]


def test_duplicate_with_more_fields_than_the_contract_s_is_equal(start):
    case = start()

    def annotated(exchange):
        for document in exchange.documents:
            document["note"] = "seen"
        stored_unproven(exchange)

    ids = case.post_batch(5, annotated)
    case.wait_delivered()
    assert case.proxy.stop() == 0
    assert not case.proxy.lines(REFUSED)
    assert case.inserts_of(ids[0]) == [5, 5] and case.double.count() == 6


DIFFERENCES = {
    "date_created": datetime.datetime(2026, 1, 1),
    "user_id": "user3",
    "user_id's type": bson.ObjectId(),
    "api_key_id": KEYS["token3"][0],
    "model": "another",
    "prompt_n": 99,
    "completion_n": 6,
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_duplicate_that_differs_is_refused_and_told_and_stands(start, name):
    case = start()
    stored = []

    def differs(exchange):
        """One of the documents is there already, but for one field."""
        other = {**exchange.documents[1], name.partition("'")[0]: DIFFERENCES[name]}
        case.double.put(other)
        stored.append({"id": str(other["_id"]), **{k: v for k, v in other.items() if k != "_id"}})
        exchange.honest()

    ids = case.post_batch(3, differs)
    case.check(ids[1], others=stored)
    assert [event for event in case.double.events() if event["id"] == ids[1]] == stored
    assert case.proxy.lines(REFUSED, ids[1], "another event is stored under its _id")
    assert case.inserts_of(ids[1]) == [3]


@pytest.mark.parametrize("end", ["roll_back", "replicate"])
def test_duplicate_that_no_majority_has_is_sent_again(start, end):
    """What only a primary has may still be rolled back, whatever it says."""
    case = start()

    def ends(exchange):
        getattr(case.double, end)()
        exchange.honest()

    case.post_batch(5, concern_fails(), acknowledges_too_early, acknowledges_too_early, ends)
    case.check()
    assert len(case.double.of("read")) >= 2


def test_duplicate_on_another_unique_index_is_refused_and_told(start):
    case = start(unique="prompt_n")
    case.double.put(document(prompt_n=7 + 3))
    ids = case.post_batch(5)
    case.check(ids[2], others=case.double.events()[:1])
    assert case.inserts_of(ids[2]) == [5]
    assert case.proxy.lines(REFUSED, ids[2], "a unique index refused it")


def test_stored_event_is_delivered_whichever_index_its_duplicate_names(start):
    case = start()
    ids = case.post_batch(5, stored_unproven, duplicates_elsewhere)
    case.check()
    assert case.inserts_of(ids[0]) == [5, 5]


# Reading back.


@pytest.mark.parametrize("code, name", [(13, "Unauthorized"), (8000, "AtlasError")])
def test_role_that_may_not_read_has_its_duplicates_delivered(start, code, name):
    case = start()
    case.double.always("read", fails(code, name))
    ids = case.post_batch(5, stored_unproven)
    case.check()
    assert case.inserts_of(ids[0]) == [5, 5]


def test_role_that_may_not_read_has_refusals_of_other_indexes_told(start):
    case = start({"flush_timeout": 0.1}, unique="prompt_n")
    case.double.always("read", fails(13, "Unauthorized"))
    case.double.put(document(prompt_n=7 + 2))
    ids = case.post_batch(3)
    wait_until(lambda: case.proxy.lines("ERROR", REFUSED, ids[1]), "the refusal", 2)
    case.check(ids[1], others=case.double.events()[:1])


READ_FAULTS = {
    "interrupted": fails(11600, "InterruptedAtShutdown"),
    "no primary": fails(13435, "NotPrimaryNoSecondaryOk"),
    "unheard of": fails(UNHEARD_OF, "SomethingUnheardOf"),
    "cut": cut_before,
    "never answered": never,
}


@pytest.mark.parametrize("name", READ_FAULTS)
def test_read_back_that_fails_is_tried_again(start, name):
    case = start(options=f"socketTimeoutMS={milliseconds(0.3)}&retryReads=false")
    case.double.next("read", READ_FAULTS[name])
    case.post_batch(5, stored_unproven)
    case.double.wait("read", 2)
    case.check()


def test_read_back_goes_on_to_the_end_of_the_cursor(start):
    case = start(first_batch=2)
    ids = case.post_batch(7, stored_unproven)
    case.check()
    assert len(case.double.of("more")) == 3
    assert case.inserts_of(ids[6]) == [7, 7]


@pytest.mark.parametrize("fault", [cut_before, fails(43, "CursorNotFound")], ids=["cut", "lost cursor"])
def test_cursor_that_ends_early_proves_only_what_it_gave(start, fault):
    case = start(first_batch=2)
    case.double.next("more", honest, fault)
    ids = case.post_batch(7, stored_unproven)
    case.check()
    assert [case.inserts_of(ids[i]) for i in (0, 3, 4, 6)] == [[7, 7], [7, 7], [7, 7, 3], [7, 7, 3]]


# Documents that are refused.


def test_document_that_fails_validation_is_refused_alone_and_told(start):
    case = start()
    case.double.always("insert", refuses(seeds(3), 121, "DocumentValidationFailure"))
    ids = case.post_batch(5)
    case.check(ids[2])
    assert case.proxy.lines(REFUSED, ids[2], "DocumentValidationFailure", "121")
    assert [case.inserts_of(id) for id in ids] == [[5]] * 5


def test_refusal_in_a_later_piece_of_a_batch_is_of_the_right_document(start):
    case = start(write_batch_max=3)
    case.double.always("insert", refuses(seeds(2, 5, 8), 121, "DocumentValidationFailure"))
    ids = case.post_batch(8)
    case.check(ids[1], ids[4], ids[7])


POISONED = {"first": [1], "last": [8], "inside": [4], "two": [2, 7], "all": list(range(1, 9))}


@pytest.mark.parametrize("name", POISONED)
def test_unheard_of_error_is_isolated_by_halving(start, name):
    case = start()
    case.double.always("insert", fails_with(seeds(*POISONED[name]), UNHEARD_OF))
    ids = case.post_batch(8)
    refused = [ids[seed - 1] for seed in POISONED[name]]
    case.check(*refused)
    for id in refused:
        assert case.inserts_of(id) == [8, 4, 2, 1], "halved, and never sent again"


@pytest.mark.parametrize("code", [2, 121, 10334])
def test_error_of_a_document_told_of_the_whole_insert_is_isolated_too(start, code):
    case = start()
    case.double.always("insert", fails_with(seeds(2), code))
    ids = case.post_batch(4)
    case.check(ids[1])
    assert case.proxy.lines(REFUSED, ids[1], f"code {code}") and case.inserts_of(ids[1]) == [4, 2, 1]


def test_halving_that_is_interrupted_begins_anew_and_loses_nothing(start):
    case = start()
    fault = fails_with(seeds(2), UNHEARD_OF)
    case.double.always("insert", fault)
    ids = case.post_batch(8, fault, fault, reply_lost)
    case.check(ids[1])
    assert case.inserts_of(ids[1]) == [8, 4, 8, 4, 2, 1]


def test_unheard_of_error_of_one_piece_of_a_batch_is_isolated(start):
    """The driver sends 3 one by one; only the first fails."""
    case = start({"flush_timeout": 0.1}, write_batch_max=1)
    case.double.always("insert", fails_with(seeds(1), UNHEARD_OF))
    ids = case.post_batch(3)
    wait_until(lambda: case.proxy.lines("ERROR", REFUSED, ids[0]), "the refusal", 2)
    case.check(ids[0])


def test_error_that_passes_is_waited_out_by_its_document_alone(start):
    case = start()
    ids = case.post_batch(5, *[refuses(seeds(2), 112, "WriteConflict")] * 2)
    case.check()
    assert case.inserts_of(ids[1]) == [5, 1, 1]
    assert [case.inserts_of(id) for id in ids[2:]] == [[5]] * 3


def test_each_document_of_one_reply_is_judged_by_its_own_error(start):
    """Of five, one is good, one stored before, one invalid, one in conflict, and one has an unheard-of error."""
    case = start()

    def mixed(exchange):
        exchange.store(exchange.documents[1:2])
        errors = exchange.store(exchange.documents[:2])[:1]
        case.double.replicate()
        assert errors[0]["index"] == 1
        codes = {2: 121, 3: 112, 4: UNHEARD_OF}
        errors += [{"index": i, "code": code, "errmsg": "scripted"} for i, code in codes.items()]
        exchange.acknowledge(errors)

    ids = case.post_batch(5, mixed)
    case.check(ids[2])
    assert [case.inserts_of(id)[0] for id in ids] == [5] * 5
    assert [len(case.inserts_of(id)) for id in ids] == [1, 1, 1, 2, 2]


# Counts that are wrong.

MISCOUNTS = {"too few": miscounts(-1), "too many": miscounts(1), "none": counts_nothing}


@pytest.mark.parametrize("name", MISCOUNTS)
def test_wrong_count_proves_nothing(start, name):
    case = start()
    ids = case.post_batch(5, MISCOUNTS[name])
    case.check()
    assert case.inserts_of(ids[0]) == [5, 5]


def test_documents_that_were_not_stored_after_all_come_again(start):
    case = start()
    case.post_batch(5, stores_only(2))
    case.check()


def test_reply_about_some_of_the_documents_proves_nothing(start):
    """One is stored, one refused; of the others there is no word, and they are not there."""
    case = start()

    def partial(exchange):
        exchange.store(exchange.documents[:1])
        case.double.replicate()
        exchange.reply(n=1, writeErrors=[{"index": 1, "code": 121, "errmsg": "scripted"}])

    case.post_batch(5, partial)
    case.check()


def test_errors_of_documents_that_were_not_sent_prove_nothing(start):
    case = start()
    case.post_batch(5, names_wrong_documents)
    case.check()


NONSENSE = {
    "no size": lambda exchange: exchange.send(struct.pack("<iiii", -5, 1, 1, 2013)),
    "a query": lambda exchange: exchange.send(struct.pack("<iiiii", 20, 1, 1, 2004, 0)),
    "an empty document": lambda exchange: exchange.reply_raw({}),
    "a failure without a word": lambda exchange: exchange.reply_raw({"ok": 0.0}),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_for_a_reply_proves_nothing(start, name):
    case = start()
    case.post_batch(5, NONSENSE[name])
    case.check()


# Rights.


def test_insert_without_the_right_is_tried_until_it_is_given(start):
    case = start()
    case.double.always("insert", fails(13, "Unauthorized"))
    ids = case.post_batch(3)
    case.double.wait("insert", 1 + 3)
    assert case.double.count() == 1
    case.double.always("insert", honest)
    case.check()
    assert len(case.inserts_of(ids[0])) >= 4 and set(case.inserts_of(ids[0])) == {3}, "whole each time"
    (line,) = case.proxy.lines("ERROR", OUTAGE)
    assert "code 13" in line and case.proxy.lines(RECOVERY)


@pytest.mark.parametrize("fault", [fails(13, "Unauthorized"), cut_before], ids=["unauthorized", "cut"])
def test_key_that_cannot_be_looked_up_is_no_wrong_key(start, fault):
    case = start(options="retryReads=false")
    case.double.next("key", fault)
    reply = case.proxy.post()
    assert reply.status == 503 and int(reply.header("Retry-After")) > 0
    wait_until(lambda: case.proxy.post(seed=0).status == 200, "the key works")
