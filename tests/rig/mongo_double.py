"""A MongoDB of the tests' own, for what a real one does not do when asked: it loses replies, cuts connections,
changes its primary, miscounts and refuses, all on a script.

It speaks OP_MSG, and OP_QUERY for the old handshake; it keeps cgc.api_keys and billing.events_completion in
memory, and knows only the commands that the proxy's driver sends. Without a script it answers as a faithful
server would. A script is a function of one Exchange; one that raises fails the test at its end:

    double.next("insert", reply_lost)                   answers the next insert of events
    double.next("insert", not_primary, honest)          the next two
    double.always("read", fails(13, "Unauthorized"))    all without a script of their own

The kinds of commands: `insert` and `read` (of events), `more` (getMore), `key` (look-ups of keys), and the names
of all others. What is stored is durable once a majority has it (`replicate`) and is lost by `roll_back` before;
`events` shows what is durable, reads at read concern majority see no more than that.
"""

import collections
import datetime
import itertools
import socket
import struct
import threading

import bson
from bson.raw_bson import RawBSONDocument

from .database import KEYS, digest
from .wait import DEADLINE, Gate, Late, wait_until

_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_CHECKSUM_PRESENT, _MORE_TO_COME = 1, 2
_SET = "rs"
_KEYS, _EVENTS = ("cgc", "api_keys"), ("billing", "events_completion")


class Gone(Exception):
    """The connection is closed: by the script, or by the proxy."""


class Command:
    """One command, as it came."""

    def __init__(self, member, raw, lists):
        self.member = member  # which of the double's servers it went to
        self.raw = RawBSONDocument(raw)  # for its bytes: raw["filter"].raw
        self.document = {**bson.decode(raw), **lists}
        self.name = next(iter(self.document))
        self.collection = (str(self.document.get("$db")), str(self.document[self.name]))

    def __getitem__(self, name):
        return self.document[name]

    def get(self, name):
        return self.document.get(name)

    @property
    def kind(self):
        kinds = {("insert", _EVENTS): "insert", ("find", _EVENTS): "read", ("find", _KEYS): "key"}
        return "more" if self.name == "getMore" else kinds.get((self.name, self.collection), self.name)

    @property
    def ids(self):
        """Of an insert's documents, in hex."""
        return [str(document["_id"]) for document in self["documents"]]

    def __repr__(self):
        return f"<Command to {self.member}: {self.document}>"


class Exchange:
    """What a script sees of one command, and how it answers."""

    def __init__(self, double, connection, command, encode):
        self.double = double
        self.command = command
        self._connection = connection
        self._encode = encode

    @property
    def documents(self):
        return self.command["documents"]

    def honest(self):
        """Answers as a faithful server does."""
        self.double.answer(self)

    def store(self, documents=None):
        """Stores an insert's documents; returns the write errors. Not durable yet: see `replicate`."""
        return self.double.store(self.command, self.documents if documents is None else documents)

    def acknowledge(self, errors=(), **members):
        """An insert's answer, with its count and write errors."""
        errors = sorted(errors, key=lambda error: error["index"])
        answer = {"n": len(self.documents) - len(errors), **({"writeErrors": errors} if errors else {})}
        self.reply(**{**answer, **members})

    def reply(self, **members):
        self.reply_raw({"ok": 1.0, **members})

    def reply_raw(self, document):
        """A well-formed reply of this document, which need not make sense."""
        self.send(self._encode(document))

    def fail(self, code, name, labels=(), **members):
        """The command as a whole has failed."""
        error = {"ok": 0.0, "errmsg": f"scripted {name}", "code": code, "codeName": name, **members}
        self.reply_raw({**error, **({"errorLabels": list(labels)} if labels else {})})

    def cut(self):
        """Ends the connection."""
        _shutdown(self._connection)
        raise Gone

    def cut_inside(self, **members):
        """Ends the connection in the middle of the reply."""
        message = self._encode({"ok": 1.0, **members})
        self.send(message[: len(message) // 2])
        self.cut()

    def send(self, data):
        """These bytes, whatever they are."""
        try:
            self._connection.sendall(data)
        except OSError as failure:
            raise Gone(str(failure)) from None

    def wait_gone(self):
        """Never answers: waits until the proxy has closed the connection."""
        try:
            while self._connection.recv(65536):
                pass
        except TimeoutError:
            raise Late("the proxy did not give up its connection to the database") from None
        except OSError:
            pass
        raise Gone


# Scripts.


def honest(exchange):
    exchange.honest()


def after(gate):
    """Answers honestly, but only once `gate` is open."""

    def script(exchange):
        gate.wait()
        exchange.honest()

    return script


def never(exchange):
    """Takes the command, and neither carries it out nor answers."""
    exchange.wait_gone()


def stored_but_never_answered(exchange):
    exchange.store()
    exchange.double.replicate()
    exchange.wait_gone()


def cut_before(exchange):
    """The connection ends before anything is stored."""
    exchange.cut()


def reply_lost(exchange):
    """The connection ends when all is stored, before the reply."""
    exchange.store()
    exchange.double.replicate()
    exchange.cut()


def reply_cut(exchange):
    """The same, in the middle of the reply."""
    exchange.store()
    exchange.double.replicate()
    exchange.cut_inside(n=len(exchange.documents))


def fails(code, name, labels=()):
    """The command fails as a whole; nothing is stored."""
    return lambda exchange: exchange.fail(code, name, labels)


not_primary = fails(10107, "NotWritablePrimary", ["RetryableWriteError"])


def fails_with(is_poison, code, name="SomethingUnheardOf"):
    """Inserts fail as a whole, and do not say why, while a document is in them that `is_poison`."""

    def script(exchange):
        if any(map(is_poison, exchange.documents)):
            exchange.fail(code, name)
        else:
            exchange.honest()

    return script


def refuses(is_bad, code, name):
    """The documents that `is_bad` get a write error; the others are stored."""

    def script(exchange):
        bad = [i for i, document in enumerate(exchange.documents) if is_bad(document)]
        good = [i for i in range(len(exchange.documents)) if i not in bad]
        errors = exchange.store([exchange.documents[i] for i in good])
        errors = [{**error, "index": good[error["index"]]} for error in errors]
        errors += [{"index": i, "code": code, "errmsg": f"scripted {name}"} for i in bad]
        exchange.double.replicate()
        exchange.acknowledge(errors)

    return script


def concern_fails(code=64, name="WriteConcernFailed"):
    """All is stored, but the majority did not confirm it in time."""

    def script(exchange):
        concern = {"code": code, "codeName": name, "errmsg": f"scripted {name}", "errInfo": {}}
        exchange.acknowledge(exchange.store(), writeConcernError=concern)

    return script


def acknowledges_too_early(exchange):
    """Answers as if a majority had it."""
    exchange.acknowledge(exchange.store())


def miscounts(difference):
    """All is stored, and the count is wrong."""

    def script(exchange):
        errors = exchange.store()
        exchange.double.replicate()
        exchange.acknowledge(errors, n=len(exchange.documents) + difference)

    return script


def counts_nothing(exchange):
    """All is stored, and the reply holds no count."""
    exchange.store()
    exchange.double.replicate()
    exchange.reply()


def names_wrong_documents(exchange):
    """Stores nothing, counts all, and blames a document that was not in the insert."""
    count = len(exchange.documents)
    exchange.reply(n=count, writeErrors=[{"index": count, "code": 121, "errmsg": "scripted"}])


def duplicates_elsewhere(exchange):
    """Stores nothing, and says that a unique index other than that on _id refused each document."""
    error = {"code": 11000, "errmsg": "E11000 duplicate key error", "keyPattern": {"trace": 1}}
    exchange.acknowledge([{"index": i, **error} for i in range(len(exchange.documents))])


def stores_only(count):
    """Stores the first `count` documents and says only how many."""

    def script(exchange):
        exchange.store(exchange.documents[:count])
        exchange.double.replicate()
        exchange.reply(n=count)

    return script


# The server.


class _Stored:
    def __init__(self, document, statement):
        self.document = document
        self.statement = statement  # which part of which retryable write, or None
        self.is_durable = False


class MongoDouble:
    """One server, or with `members` a replica set of so many over the same data; the first is its primary.
    `write_batch_max`: the driver cuts larger inserts in pieces. `first_batch`: what a find returns at once."""

    kind = "mongo"

    def __init__(self, members=0, options="", unique=None, write_batch_max=100_000, first_batch=101):
        self.is_set = members > 0
        self._unique = unique
        self.commands = []  # all that came, in order
        self.failures = []  # exceptions of scripts
        self.closing = False
        self._write_batch_max = write_batch_max
        self._first_batch = first_batch
        self._primary = 0
        self._elections = 1
        self._keys = []
        self._stored = []
        self._statements = {}  # of retryable writes: what is stored by each
        self._cursors = {}
        self._numbers = itertools.count(1)
        self._queues = collections.defaultdict(collections.deque)
        self._always = {}
        self._gates = []
        self._lock = threading.RLock()
        self._connections = set()
        self._threads = []
        self._listeners = [_listen() for _ in range(max(members, 1))]
        self.hosts = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in self._listeners]
        parts = ["serverSelectionTimeoutMS=2000"] + [f"replicaSet={_SET}"] * self.is_set + [options] * bool(options)
        self.uri = f"mongodb://{','.join(self.hosts)}/?{'&'.join(parts)}"
        for member, listener in enumerate(self._listeners):
            self._run(self._accept, member, listener)

    # For tests.

    def next(self, kind, *scripts):
        """The next commands of this kind are answered by these, in order."""
        with self._lock:
            self._queues[kind].extend(scripts)

    def always(self, kind, script):
        """All commands of this kind that have no script of their own."""
        with self._lock:
            self._always[kind] = script

    def of(self, kind):
        """The commands of this kind so far."""
        return [command for command in list(self.commands) if command.kind == kind]

    def wait(self, kind, count):
        wait_until(lambda: len(self.of(kind)) >= count, f"{count} commands `{kind}` at the double")
        return self.of(kind)

    def gate(self, name="gate"):
        gate = Gate(name)
        self._gates.append(gate)
        return gate

    def elect(self, member):
        """Another server becomes the primary; it knows what is durable and nothing else."""
        with self._lock:
            self.roll_back()
            self._primary = member
            self._elections += 1

    def replicate(self):
        """A majority has all that is stored."""
        with self._lock:
            for stored in self._stored:
                stored.is_durable = True

    def roll_back(self):
        """What is stored and not durable never was."""
        with self._lock:
            self._stored = [stored for stored in self._stored if stored.is_durable]
            kept = [stored.statement for stored in self._stored]
            self._statements = {s: stored for s, stored in self._statements.items() if s in kept}

    def put(self, document):
        """An event from elsewhere."""
        with self._lock:
            self._stored.append(_Stored(document, None))
            self.replicate()

    def close(self):
        self.closing = True
        for gate in self._gates:
            gate.open()
        for listener in self._listeners:
            _shutdown(listener)
            listener.close()
        with self._lock:
            for connection in list(self._connections):
                _shutdown(connection)
        for thread in self._threads:
            thread.join(DEADLINE)

    # As rig.database.Mongo.

    def prepare(self):
        pass

    def seed(self):
        for token, (key_id, user, expires) in KEYS.items():
            self.add_key(token, user, key_id, expires)

    def add_key(self, token, user, id, expires=None):
        key = {"_id": bson.ObjectId(id), "access_level": "COMPLETION", "secret": digest(token)}
        with self._lock:
            self._keys.append({**key, "user_id": user, "date_expiry": expires})

    def events(self):
        with self._lock:
            found = [dict(stored.document) for stored in self._stored if stored.is_durable]
        return [{"id": str(event.pop("_id")), **event} for event in found]

    def count(self):
        return len(self.events())

    def pending(self):
        """How many events are stored and not durable."""
        with self._lock:
            return sum(not stored.is_durable for stored in self._stored)

    # What is stored.

    def store(self, command, documents):
        errors = []
        with self._lock:
            for index, document in enumerate(documents):
                statement = None
                if "txnNumber" in command.document:
                    statement = (bytes(command["lsid"]["id"]), command["txnNumber"], document["_id"])
                if statement in self._statements:
                    continue  # done already: the driver asks again
                if taken := self._taken(document):
                    errors.append({"index": index, **taken})
                    continue
                self._stored.append(_Stored(document, statement))
                if statement:
                    self._statements[statement] = self._stored[-1]
        return errors

    def _taken(self, document):
        for field, index in (("_id", "_id_"), (self._unique, f"{self._unique}_1")):
            if field and any(s.document.get(field) == document.get(field) for s in self._stored):
                return {
                    "code": 11000,
                    "errmsg": f"E11000 duplicate key error collection: {'.'.join(_EVENTS)} index: {index} dup key:"
                    f" {{ {field}: {document[field]!r} }}",
                    "keyPattern": {field: 1},
                    "keyValue": {field: document[field]},
                }
        return None

    def _found(self, command):
        level = (command.get("readConcern") or {}).get("level")
        with self._lock:
            if command.kind == "key":
                candidates = self._keys
            else:
                candidates = [s.document for s in self._stored if s.is_durable or level != "majority"]
            return [document for document in candidates if _matches(document, command["filter"])]

    # How commands are answered.

    def answer(self, exchange):
        """As a faithful server does."""
        name = exchange.command.name.lower()
        answers = {
            "hello": self._hello,
            "ismaster": self._hello,
            "insert": self._insert,
            "find": self._find,
            "getmore": self._get_more,
            "killcursors": self._kill_cursors,
            "ping": Exchange.reply,
            "endsessions": Exchange.reply,
        }
        if name in answers:
            answers[name](exchange)
        else:
            exchange.fail(59, "CommandNotFound")

    def _hello(self, exchange):
        member = exchange.command.member
        with self._lock:
            is_primary = not self.is_set or member == self._primary
            reply = {
                "helloOk": True,
                "ismaster": is_primary,
                "isWritablePrimary": is_primary,
                "maxBsonObjectSize": 16 * 1024 * 1024,
                "maxMessageSizeBytes": 48_000_000,
                "maxWriteBatchSize": self._write_batch_max,
                "localTime": datetime.datetime.now(datetime.UTC),
                "logicalSessionTimeoutMinutes": 30,
                "minWireVersion": 0,
                "maxWireVersion": 17,
                "readOnly": False,
            }
            if self.is_set:
                election = bson.ObjectId(f"7fffffff{self._elections:016x}")
                reply |= {"setName": _SET, "setVersion": 1, "secondary": not is_primary, "hosts": self.hosts}
                reply |= {"primary": self.hosts[self._primary], "me": self.hosts[member]}
                reply |= {"electionId": election} if is_primary else {}
        exchange.reply(**reply)

    def _insert(self, exchange):
        errors = exchange.store()
        self.replicate()
        exchange.acknowledge(errors)

    def _find(self, exchange):
        command = exchange.command
        found = self._found(command)
        first = command.get("limit") or self._first_batch
        number = 0
        if found[first:] and not command.get("singleBatch"):
            with self._lock:
                number = next(self._numbers)
                self._cursors[number] = (".".join(command.collection), found[first:])
        cursor = {"firstBatch": found[:first], "id": bson.Int64(number), "ns": ".".join(command.collection)}
        exchange.reply(cursor=cursor)

    def _get_more(self, exchange):
        number = exchange.command["getMore"]
        with self._lock:
            if number not in self._cursors:
                exchange.fail(43, "CursorNotFound")
                return
            name, left = self._cursors.pop(number)
            if left[self._first_batch :]:
                self._cursors[number] = (name, left[self._first_batch :])
            number = number if number in self._cursors else 0
        exchange.reply(cursor={"nextBatch": left[: self._first_batch], "id": bson.Int64(number), "ns": name})

    def _kill_cursors(self, exchange):
        with self._lock:
            for number in exchange.command["cursors"]:
                self._cursors.pop(number, None)
        exchange.reply(cursorsKilled=exchange.command["cursors"])

    def _refuse(self, exchange):
        """True if this server must not take the command at all, and has said so."""
        command = exchange.command
        if "txnNumber" in command.document and not self.is_set:
            exchange.fail(20, "IllegalOperation")
            return True
        if not self.is_set or command.member == self._primary:
            return False
        mode = (command.get("$readPreference") or {}).get("mode", "primary")
        if command.name == "insert":
            not_primary(exchange)
        elif command.name == "find" and mode == "primary":
            exchange.fail(13435, "NotPrimaryNoSecondaryOk")
        else:
            return False
        return True

    # Connections.

    def _run(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, member, listener):
        while not self.closing:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
            self._run(self._serve, member, connection)

    def _serve(self, member, connection):
        connection.settimeout(DEADLINE * 4)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while not self.closing:
                exchange = self._read(member, connection)
                if not self._refuse(exchange):
                    self._script(exchange)(exchange)
        except (Gone, OSError):
            pass
        except Exception as failure:  # noqa: BLE001 - shown by the fixture
            self.failures.append(failure)
        finally:
            with self._lock:
                self._connections.discard(connection)
            _shutdown(connection)
            connection.close()

    def _script(self, exchange):
        kind = exchange.command.kind
        with self._lock:
            return self._queues[kind].popleft() if self._queues[kind] else self._always.get(kind, honest)

    def _read(self, member, connection):
        """The next command, as an Exchange."""
        length, request, _, operation = struct.unpack("<iiii", _receive(connection, 16))
        body = _receive(connection, length - 16)
        assert operation in (_OP_MSG, _OP_QUERY), f"opcode {operation}"
        raw, lists, encode = (_parse_message if operation == _OP_MSG else _parse_query)(body)
        command = Command(member, raw, lists)
        self.commands.append(command)
        number = next(self._numbers)

        def message(document):
            operation, payload = encode(document)
            return struct.pack("<iiii", 16 + len(payload), number, request, operation) + payload

        return Exchange(self, connection, command, message)


def _parse_message(body):
    """OP_MSG: the command's bytes, the documents beside it by name, and how a reply is written."""
    (flags,) = struct.unpack_from("<I", body)
    assert not flags & _MORE_TO_COME, "the proxy waits for the reply of every command"
    rest = body[4 : -4 if flags & _CHECKSUM_PRESENT else None]
    raw, lists = None, {}
    while rest:
        kind, size = struct.unpack_from("<Bi", rest)
        section, rest = rest[1 : 1 + size], rest[1 + size :]
        if kind == 0:
            raw = section
        else:
            name, _, documents = section[4:].partition(b"\0")
            lists[name.decode()] = bson.decode_all(documents)
    return raw, lists, lambda document: (_OP_MSG, struct.pack("<IB", 0, 0) + bson.encode(document))


def _parse_query(body):
    """OP_QUERY: the same."""
    raw = body[body.index(0, 4) + 1 + 8 :]
    return raw, {}, lambda document: (_OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(document))


def _matches(document, condition):
    for name, wanted in condition.items():
        value = document.get(name)
        if name == "$or":
            is_met = any(_matches(document, branch) for branch in wanted)
        elif isinstance(wanted, dict):
            ((operator, operand),) = wanted.items()
            is_met = {"$in": lambda: value in operand, "$gt": lambda: value is not None and value > operand}[operator]()
        else:
            is_met = value == wanted
        if not is_met:
            return False
    return True


def _listen():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


def _receive(connection, size):
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            raise Gone
        received += piece
    return received


def _shutdown(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
