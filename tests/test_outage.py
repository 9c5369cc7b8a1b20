"""The database goes away: who has a key is served, and every event arrives afterwards, once."""

import threading
import time

import bson
import pytest

from rig import sse
from rig.database import counts
from rig.wait import wait_until


class Load:
    """Customers that ask without a pause until stopped; collects the ids of their answers."""

    def __init__(self, proxy, customers=8, token="token2", **call):
        self.ids = []
        self.failures = []
        self._proxy = proxy
        self._call = call
        self._token = token
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(customers)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number):
        try:
            with self._proxy.connect() as client:
                while not self._stopping:
                    reply = client.post(token=self._token, stream=number % 2 == 0, **self._call)
                    assert reply.status == 200, reply
                    assert number % 2 or reply.body.endswith(sse.DONE), reply
                    self.ids.append(reply.id)
        except BaseException as failure:  # noqa: BLE001 - told by stop()
            self.failures.append(failure)

    def wait_more(self, count):
        """Waits until `count` more requests are answered."""
        goal = len(self.ids) + count
        wait_until(lambda: self.failures or len(self.ids) >= goal, f"{count} more answers")
        assert not self.failures, self.failures[0]

    def stop(self):
        self._stopping = True
        for thread in self._threads:
            thread.join()
        assert not self.failures, self.failures[0]
        return self.ids


def outage(make_proxy, backend, database, seconds):
    # A commit of one request takes a block: 20 s of them would fill the rig's small ledger.
    proxy = make_proxy(
        {"m": backend}, database, auth={"key_ttl": 0.2}, ledger={"max_bytes": 1 << 30}
    )
    assert proxy.post(token="token3").status == 200
    load = Load(proxy)
    load.wait_more(50)
    database.stop()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        load.wait_more(10)
    database.resume()
    load.wait_more(50)
    ids = load.stop()
    wait_until(lambda: database.count() >= len(ids) + 1, "the events that waited")
    events = proxy.settled_events()
    assert len(events) == len(ids) + 1
    assert {event["id"] for event in events} >= set(ids)
    assert counts(events) == sorted([("user2", "m", 7, 3)] * len(ids) + [("user3", "m", 7, 3)])


def test_database_lost_under_load(make_proxy, backend, database):
    outage(make_proxy, backend, database, 3)


@pytest.mark.full
def test_database_lost_for_20_s_under_load(make_proxy, backend, database):
    outage(make_proxy, backend, database, 20)


def test_writes_whose_replies_were_lost_are_not_repeated(make_proxy, backend, mongo):
    proxy = make_proxy({"m": backend}, mongo)
    load = Load(proxy)
    load.wait_more(20)
    mongo.wire.set("lose")
    wait_until(lambda: mongo.wire.lost > 0, "a lost reply")
    load.wait_more(20)
    mongo.wire.set("pass")
    load.wait_more(20)
    ids = load.stop()
    wait_until(lambda: mongo.count() >= len(ids), "the events that waited")
    assert sorted(event["id"] for event in proxy.settled_events()) == sorted(ids)
    assert not proxy.lines("refused by the database")


def test_connections_cut_again_and_again_under_load(make_proxy, backend, mongo):
    proxy = make_proxy({"m": backend}, mongo, auth={"key_ttl": 0.1})
    load = Load(proxy)
    for _ in range(15):
        load.wait_more(20)
        mongo.wire.set("pass")
    ids = load.stop()
    wait_until(lambda: mongo.count() >= len(ids), "the events that waited")
    assert sorted(event["id"] for event in proxy.settled_events()) == sorted(ids)


def test_another_document_under_the_id_is_told_and_harms_no_other_event(make_proxy, backend, mongo):
    proxy = make_proxy({"m": backend}, mongo)
    gate = backend.gate("the other document is there")

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"))
        gate.wait()
        exchange.write(sse.chunk(finish="stop"), sse.usage_chunk(7, 3), sse.DONE)
        exchange.end()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream()
        mongo.documents.insert_one({"_id": bson.ObjectId(reply.id), "model": "stands"})
        gate.open()
        client.read_body(reply)
    others = [proxy.post().id for _ in range(5)]
    assert proxy.wait_lines("ERROR", reply.id)
    for id in others:
        proxy.wait_event(id)
    assert mongo.documents.find_one({"_id": bson.ObjectId(reply.id)}) == {
        "_id": bson.ObjectId(reply.id),
        "model": "stands",
    }


def test_full_ledger_refuses_new_work_and_recovers(make_proxy, backend, database):
    """The smallest ledger that can be had, filled with the longest events."""
    proxy = make_proxy({"m": backend}, database, log_level="WARNING", ledger={"max_bytes": 16 << 20})
    database.add_key("long", "u" * (1990 if database.kind == "sqlite" else 980))
    assert proxy.post(token="long").status == 200
    proxy.wait_events(1)
    database.stop()
    refused = []

    def fill():
        with proxy.connect() as client:
            in_a_row = 0  # a segment that is being made is waited for
            while in_a_row < 50:
                reply = client.post(token="long")
                in_a_row = in_a_row + 1 if reply.status == 503 else 0
            refused.append(reply)

    threads = [threading.Thread(target=fill) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.status for reply in refused] == [503] * 8
    assert refused[0].error and int(refused[0].header("Retry-After")) > 0
    size = sum(file.stat().st_size for file in (proxy.directory / "data/ledger").iterdir())
    assert 13 << 20 < size < 16 << 20
    served = len(backend.requests)
    assert proxy.post(token="long", stream=True).status == 503
    assert len(backend.requests) == served, "a call went out that could not be billed"
    proxy.reload(log_level="INFO")
    assert proxy.post(token="long").status == 503
    assert proxy.wait_lines("status=503", "the ledger is full: events wait for the database")
    database.resume()
    wait_until(lambda: proxy.post(token="long").status == 200, "room again")
    assert len(proxy.settled_events()) == len(backend.requests)


def test_exit_waits_for_a_database_that_comes_back(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database)
    assert proxy.post().status == 200
    database.stop()
    assert [proxy.post().status for _ in range(3)] == [200] * 3
    proxy.signal(15)
    wait_until(lambda: _is_refused(proxy), "the listener closed")
    database.resume()
    assert proxy.wait() == 0
    assert len(proxy.events()) == 4


def _is_refused(proxy):
    try:
        proxy.connect().close()
        return False
    except OSError:
        return True


def test_keys_and_events_outlive_the_process(make_proxy, backend, database):
    first = make_proxy({"m": backend}, database)
    id = first.post().id
    assert first.stop() == 0
    first.launch()
    first.wait_ready()
    assert first.post().status == 200
    assert id in [event["id"] for event in first.settled_events()]
    assert database.count() == 2
