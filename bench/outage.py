"""A database outage under load, and how fast the backlog drains.

build/venv/bin/python bench/outage.py [SECONDS [RATE]], with the release build and what `tests/setup` installs.
For each database: RATE requests a second for SECONDS while it is away. No request may fail, every event must arrive
once, whatever the time it takes; otherwise the exit status is 1. Printed: what memory grew by, how fast the backlog
went into the database, and beside it a bare loop of insertMany of the same events into the same MongoDB-wire server.
"""

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
DRAIN_SECONDS_MAX = 600
BETWEEN_LOOKS = 0.02
LEDGER = {"max_bytes": 4 << 30, "ship_interval": 1}  # the program's own defaults, not the tests'


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


def drain(database, wanted):
    """Events a second from the first that arrives to the last."""
    begin = database.count()
    started = None
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while (count := database.count()) < wanted:
        if time.monotonic() > deadline:
            sys.exit(f"{wanted} events were to arrive; {count} are there")
        if started is None and count > begin:
            started, begin = time.monotonic(), count
        time.sleep(BETWEEN_LOOKS)
    return (wanted - begin) / max(time.monotonic() - (started or time.monotonic()), BETWEEN_LOOKS)


def bare_loop(documents):
    """The same documents by insertMany and nothing else."""
    found = list(documents.find())
    copy = documents.database.bare
    begin = time.monotonic()
    for i in range(0, len(found), BATCH):
        copy.insert_many(found[i : i + BATCH], ordered=False)
    return len(found) / (time.monotonic() - begin)


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
    with tempfile.TemporaryDirectory() as place:
        server = MongoServer(pathlib.Path(place))
        mongo = Mongo(server)
        outage("mongo", mongo, seconds, rate)
        mongo.close()
        server.close()


if __name__ == "__main__":
    main()
