"""A database outage under load, and how fast the backlog drains.

build/venv/bin/python bench/outage.py [SECONDS [RATE]], with the release build and what `tests/setup` installs.
For each database: RATE requests a second for SECONDS while it is away. No request may fail, every event must arrive
once, whatever the time it takes; otherwise the exit status is 1. Printed: what memory grew by, how fast the backlog
went into the database, and beside it a bare loop of insertMany of the same events into the same MongoDB-wire server.
"""

import datetime
import os
import pathlib
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from rig.backend import Backend  # noqa: E402 (found by the line above)
from rig.database import Mongo, MongoServer, Sqlite  # noqa: E402
from rig.proxy import Proxy, memory  # noqa: E402

CUSTOMERS = 8
BATCH = 1000  # as Database::kBatchMax
WARM_SECONDS = 3
WARM_BATCHES = 200
# Of the MongoDB-wire server: enough that its garbage collector stops neither of the two that are compared.
JAVA_OPTIONS = "-Xms4g -Xmn3g -XX:+AlwaysPreTouch"
DRAIN_SECONDS_MAX = 600
BETWEEN_LOOKS = 0.1  # looking costs the server time
LEDGER = {"max_bytes": 4 << 30, "ship_interval": 1}  # the program's own defaults, not the tests'


class Direct:
    """As rig.wire.Wire, but nothing stands between: the server itself goes and comes."""

    def __init__(self, server):
        self.port = server.port
        self._server = server

    def set(self, mode):
        self._server.stop() if mode == "refuse" else self._server.resume()

    def close(self):
        pass


class Load:
    """RATE requests a second over kept connections, until stopped; a request that is late is not left out."""

    def __init__(self, proxy, rate):
        self.answered = 0
        self.failures = []
        self._proxy, self._pause = proxy, CUSTOMERS / rate
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CUSTOMERS)]
        for thread in self._threads:
            thread.start()

    def _run(self, number):
        due = time.monotonic() + self._pause * number / CUSTOMERS
        try:
            with self._proxy.connect() as client:
                while not self._stopping.wait(max(0, due - time.monotonic())):
                    due += self._pause
                    reply = client.post()
                    assert reply.status == 200, reply
                    with self._lock:
                        self.answered += 1
        except BaseException as failure:  # noqa: BLE001 (told by stop)
            self.failures.append(failure)

    def stop(self):
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self.failures:
            sys.exit(f"a request failed: {self.failures[0]!r}")
        return self.answered


def count(database):
    """Without reading each event: that would cost the database more than the proxy does."""
    if database.kind == "mongo":
        return database.documents.estimated_document_count()
    return database.query("SELECT coalesce(max(rowid), 0) AS n FROM events_completion")[0]["n"]


def drain(database, wanted):
    """Events a second, from the first look that saw some arrive to the last that saw some missing."""
    begin = there = count(database)
    first = last = None
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while there < wanted:
        if time.monotonic() > deadline:
            sys.exit(f"{wanted} events were to arrive; {there} are there")
        time.sleep(BETWEEN_LOOKS)
        there = count(database)
        if begin < there < wanted:
            last = (time.monotonic(), there)
            first = first or last
    if first is last:
        sys.exit(f"{wanted - begin} events are too few to time their drain")
    return (last[1] - first[1]) / (last[0] - first[0])


def bare_loop(documents):
    """The same documents by insertMany and nothing else."""
    found = list(documents.find())
    copy = documents.database.bare
    begin = time.monotonic()
    for i in range(0, len(found), BATCH):
        copy.insert_many(found[i : i + BATCH], ordered=False)
    return len(found) / (time.monotonic() - begin)


def warm_up(mongo):
    """So that neither of the two that are compared pays for the server's first steps (it compiles itself)."""
    event = {"date_created": datetime.datetime.now(), "user_id": "u", "api_key_id": "0" * 24, "model": "m"}
    for _ in range(WARM_BATCHES):
        mongo.documents.insert_many(
            [{**event, "prompt_n": n, "completion_n": n} for n in range(BATCH)], ordered=False
        )
    mongo.documents.drop()


def outage(kind, database, seconds, rate):
    with tempfile.TemporaryDirectory(prefix="outage-") as place:
        backend = Backend()
        database = database or Sqlite(pathlib.Path(place) / "test.db")
        proxy = Proxy(place, {"m": backend}, database, ledger=LEDGER)
        proxy.start()
        load = Load(proxy, rate)
        time.sleep(WARM_SECONDS)
        before = memory(proxy.pid)
        database.stop()
        time.sleep(seconds)
        grown = memory(proxy.pid) - before
        answered = load.stop()
        database.resume()
        speed = drain(database, answered)
        bare = bare_loop(database.documents) if kind == "mongo" else None
        events = proxy.settled_events()
        ids = {event["id"] for event in events}
        backend.close()
    if not len(events) == len(ids) == answered:
        sys.exit(f"{answered} requests were answered, {len(events)} events are there, {len(ids)} ids")
    print(f"{kind:7} outage {seconds} s at {rate}/s: {answered} answered, {len(events)} events, each once", flush=True)
    print(f"        resident memory grew by {grown} KiB; drained at {speed:.0f} events/s", flush=True)
    if bare:
        print(f"        a bare loop of insertMany: {bare:.0f} documents/s; ratio {speed / bare:.2f}", flush=True)


def main():
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    rate = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    outage("sqlite", None, seconds, rate)
    os.environ["JAVA_TOOL_OPTIONS"] = JAVA_OPTIONS
    with tempfile.TemporaryDirectory() as place:
        server = MongoServer(pathlib.Path(place))
        mongo = Mongo(server, Direct(server))
        warm_up(mongo)
        outage("mongo", mongo, seconds, rate)
        mongo.close()
        server.close()


if __name__ == "__main__":
    main()
