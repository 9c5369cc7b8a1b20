"""The ledger on the proxy's disk: the process dies, the database is away, the disk is full, and every answer is
billed once all the same."""

import json
import os
import signal
import struct
import subprocess
import threading

import pytest

from rig import sse
from rig.client import Closed, Cut
from rig.database import Sqlite, counts
from rig.proxy import run
from rig.wait import wait_until

CONTINUOUS = {"usage": "continuous"}


def kill(proxy):
    proxy.process.kill()
    assert proxy.wait() == -signal.SIGKILL


def start_again(proxy):
    proxy.launch()
    proxy.wait_ready()


def ledger_of(proxy):
    return proxy.directory / "data/ledger"


def is_recorded(proxy, id, prompt_n, completion_n):
    """Whether the ledger's files hold this progress of the stream (src/billing/record.h)."""
    record = bytes.fromhex(id) + struct.pack("<qq", prompt_n, completion_n)
    return any(record in file.read_bytes() for file in ledger_of(proxy).glob("*.segment"))


def begin_stream(proxy, backend, *events):
    """A stream that has sent `events` and then says no more; its connection and reply."""

    def script(exchange):
        exchange.open()
        exchange.write(*events)
        exchange.wait_gone()

    backend.next(script)
    client = proxy.connect()
    reply = client.stream()
    assert next(client.events(reply))
    return client, reply


def answer_without_database(proxy, database):
    """Ids of completions that are billed while the database is away, plain ones and streams."""
    assert proxy.post().status == 200
    proxy.wait_events(1)
    database.stop()
    replies = [proxy.post(seed=n, stream=n % 2 == 0) for n in range(6)]
    assert [reply.status for reply in replies] == [200] * 6
    return sorted(reply.id for reply in replies)


def check_arrived(proxy, database, ids):
    """All have arrived once, with their figures."""
    events = proxy.wait_events(1 + len(ids))
    assert set(ids) < {event["id"] for event in events}
    assert counts(events) == sorted(
        [("user2", "m", 7, 3)] + [("user2", "m", 7 + n, 3 + 2 * n) for n in range(6)]
    )


def test_events_that_wait_outlive_a_kill(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database)
    ids = answer_without_database(proxy, database)
    kill(proxy)
    start_again(proxy)
    assert proxy.lines("INFO", "6 events wait for the database")
    assert proxy.request("GET", "/v1/models").status == 401
    database.resume()
    check_arrived(proxy, database, ids)
    assert len(proxy.settled_events()) == 7


def test_events_that_wait_outlive_a_stop(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database, flush_timeout=0.5)
    ids = answer_without_database(proxy, database)
    assert proxy.stop() == 0
    assert proxy.lines("WARNING", "6 events are not in the database yet")
    assert proxy.lines("stopped: billed=7 free=0 unresolved=0 delivered=1 waiting=6")
    database.resume()
    start_again(proxy)
    check_arrived(proxy, database, ids)
    assert len(proxy.settled_events()) == 7


def delivered(proxy):
    """So many events of this life the database is known to have."""
    status = run("ledger", "status", "--json", "-c", proxy.path, cwd=proxy.directory)
    return json.loads(status.stdout)["this_life"]["delivered"]


def test_batch_whose_reply_was_lost_is_billed_once_after_a_kill(make_proxy, backend, mongo):
    proxy = make_proxy({"m": backend}, mongo)
    assert proxy.post().status == 200
    wait_until(lambda: delivered(proxy) == 1, "a reply of the database that has come through")
    mongo.wire.set("lose")
    reply = proxy.post()
    wait_until(lambda: mongo.count() == 2 and mongo.wire.lost, "an event that nobody knows is stored")
    kill(proxy)
    mongo.wire.set("pass")
    start_again(proxy)
    wait_until(lambda: proxy.post().status == 200, "service")
    events = proxy.settled_events()
    assert len([event for event in events if event["id"] == reply.id]) == 1
    assert len({event["id"] for event in events}) == len(events)
    assert not proxy.lines("ERROR", reply.id)


def test_killed_again_and_again_under_load(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database)
    answered = []

    def ask(stream):
        try:
            with proxy.connect() as client:
                while True:
                    reply = client.post(stream=stream)
                    if reply.status == 200 and (not stream or reply.body.endswith(sse.DONE)):
                        answered.append(reply.id)
        except (OSError, Cut, Closed):
            pass  # killed

    for _ in range(4):
        goal = len(answered) + 100
        customers = [threading.Thread(target=ask, args=(n % 2 == 0,)) for n in range(8)]
        for customer in customers:
            customer.start()
        wait_until(lambda goal=goal: len(answered) >= goal, "100 answers")
        kill(proxy)
        for customer in customers:
            customer.join()
        start_again(proxy)
    wait_until(lambda: database.count() >= len(answered), "the events that waited")
    ids = [event["id"] for event in proxy.settled_events()]
    assert len(set(ids)) == len(ids)
    assert set(answered) <= set(ids) and len(answered) == len(set(answered))


def test_open_stream_is_unresolved_after_a_kill(billing_proxy, backend):
    client, reply = begin_stream(billing_proxy, backend, sse.chunk("a", usage=sse.usage(7, 1)))
    kill(billing_proxy)
    client.close()
    start_again(billing_proxy)
    (line,) = billing_proxy.lines("ERROR", "unresolved", reply.id)
    assert all(word in line for word in ["user2", '"model":"m"', '"backend":"m"', "reason"])
    assert billing_proxy.lines("1 streams were open", "0 billed, 1 unresolved")
    start_again_quietly(billing_proxy, reply.id)
    assert billing_proxy.settled_events() == []


def start_again_quietly(proxy, id):
    """What one start has told, and recorded, the next one does not tell again."""
    kill(proxy)
    start_again(proxy)
    assert not proxy.lines("streams were open") and not proxy.lines("ERROR", id)


def test_plain_call_that_was_under_way_at_a_kill_is_free(billing_proxy, backend):
    backend.next(lambda exchange: exchange.wait_gone())
    with billing_proxy.connect() as client:
        client.start_post()
        backend.wait_requests(1)
        kill(billing_proxy)
    start_again(billing_proxy)
    assert not billing_proxy.lines("streams were open")
    assert billing_proxy.settled_events() == []


@pytest.mark.parametrize("last", [1, 9], ids=["one figure", "the last of several"])
def test_open_continuous_stream_is_billed_from_its_progress(make_proxy, backend, database, last):
    """The last figure waits its turn behind the first one, and no other event comes."""
    proxy = make_proxy({"m": {"url": backend.url(), **CONTINUOUS}}, database)
    events = [sse.chunk("a", usage=sse.usage(7, n)) for n in range(1, last + 1)]
    client, reply = begin_stream(proxy, backend, *events)
    wait_until(lambda: is_recorded(proxy, reply.id, 7, last), "durable progress")
    kill(proxy)
    client.close()
    start_again(proxy)
    assert proxy.lines("1 streams were open", "1 billed, 0 unresolved")
    (event,) = proxy.wait_events(1)
    assert (event["id"], event["prompt_n"], event["completion_n"]) == (reply.id, 7, last)
    start_again_quietly(proxy, reply.id)
    assert len(proxy.settled_events()) == 1


def test_several_choices_are_not_billed_from_progress(make_proxy, backend):
    proxy = make_proxy({"m": {"url": backend.url(), **CONTINUOUS}})

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a", usage=sse.usage(7, 1)))
        exchange.wait_gone()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream(n=2)
        assert next(client.events(reply))
        kill(proxy)
    start_again(proxy)
    assert proxy.lines("ERROR", "unresolved", reply.id)
    assert proxy.settled_events() == []


def test_events_of_another_database_end_the_start(make_proxy, backend, database, tmp_path):
    proxy = make_proxy({"m": backend}, database, flush_timeout=0.3)
    ids = answer_without_database(proxy, database)
    assert proxy.stop() == 0
    database.resume()
    uri = proxy.config["db"]["uri"]
    proxy.write_config(db={"uri": f"sqlite://{tmp_path}/other.db"})
    proxy.launch()
    assert proxy.wait() == 78
    (line,) = proxy.lines("ERROR", "ledger: ")
    assert "other.db" in line and ("test.db" in line or "billing.events_completion" in line)
    proxy.write_config(db={"uri": uri})
    start_again(proxy)
    check_arrived(proxy, database, ids)


def test_another_database_is_taken_when_no_event_waits(make_proxy, backend, tmp_path):
    proxy = make_proxy({"m": backend})
    assert proxy.post().status == 200
    assert len(proxy.settled_events()) == 1
    other = Sqlite(tmp_path / "other.db")
    proxy.write_config(db={"uri": other.uri})
    start_again(proxy)
    other.seed()
    assert proxy.post().status == 200
    assert proxy.stop() == 0
    assert len(other.events()) == 1 and len(proxy.events()) == 1


def test_second_proxy_on_the_same_data_dir_is_told(make_proxy, backend):
    first = make_proxy({"m": backend})
    second = make_proxy({"m": backend}, start=False, data_dir=str(first.directory / "data"))
    second.start(wait=False)
    assert second.wait() == 75
    (line,) = second.lines("ERROR")
    assert str(ledger_of(first)) in line and "another process has it" in line and "data_dir" in line
    assert first.post().status == 200


def test_data_dir_that_cannot_be_used_is_told(make_proxy, backend, tmp_path):
    (tmp_path / "file").write_text("")
    proxy = make_proxy({"m": backend}, start=False, data_dir=str(tmp_path / "file"))
    proxy.start(wait=False)
    assert proxy.wait() == 69
    (line,) = proxy.lines("ERROR")
    assert f"{tmp_path}/file/ledger: " in line and "Not a directory" in line


def test_damaged_ledger_starts_and_is_told(make_proxy, backend):
    proxy = make_proxy({"m": backend})
    database = proxy.database
    assert proxy.post().status == 200
    proxy.wait_events(1)
    database.stop()
    ids = [proxy.post().id for _ in range(3)]
    kill(proxy)
    database.resume()
    file = max(ledger_of(proxy).glob("*.segment"), key=lambda file: bytes.fromhex(ids[1]) in file.read_bytes())
    content = bytearray(file.read_bytes())
    content[content.find(bytes.fromhex(ids[1])) + 12] ^= 1
    file.write_bytes(content)
    start_again(proxy)
    assert proxy.lines("ERROR", "ledger: ")
    assert proxy.wait_event(ids[0]) and proxy.wait_event(ids[2])
    assert ids[1] not in [event["id"] for event in proxy.settled_events()]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "small", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def test_full_disk_refuses_new_work_and_loses_nothing(make_proxy, backend, database, small_disk):
    proxy = make_proxy({"m": backend}, database, data_dir=str(small_disk))
    user = "u" * 900
    database.add_key("long", user)
    assert proxy.post(token="long").status == 200
    proxy.wait_events(1)
    database.stop()
    ids = []
    with proxy.connect() as client:
        while (reply := client.post(token="long", stream=len(ids) % 2 == 0)).status == 200:
            ids.append(reply.id)
    assert reply.status == 503 and reply.error and int(reply.header("Retry-After")) > 0
    assert len(ids) > 100
    wait_until(lambda: proxy.post(token="long").status == 503, "503 for new work")
    assert proxy.wait_lines("status=503", "the ledger has no room on its disk: No space left on device")
    served = len(backend.requests)
    assert proxy.post(token="long", stream=True).status == 503
    assert len(backend.requests) == served, "a call went out that could not be billed"
    kill(proxy)
    start_again(proxy)
    database.resume()
    wait_until(lambda: proxy.post(token="long").status == 200, "room again")
    events = proxy.settled_events()
    assert set(ids) <= {event["id"] for event in events}
    assert len(events) == len(backend.requests)
