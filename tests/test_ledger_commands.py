"""The `ledger` subcommand over the real program: beside a running proxy, after its end, after its death."""

import csv
import io
import json
import shutil
import signal
import stat

import bson
import pytest

from rig import sse
from rig.database import Sqlite
from rig.proxy import run
from rig.wait import wait_until
from test_outage import Load

NO_USAGE = b'{"choices":[]}'


def call(proxy, *arguments, status=0):
    """Runs `ledger ...` on the proxy's configuration; what it printed."""
    done = run("ledger", *arguments, "-c", proxy.path, cwd=proxy.directory)
    assert done.returncode == status, done
    call.errors = done.stderr
    return done.stdout


def status(proxy):
    return json.loads(call(proxy, "status", "--json"))


def make_unresolved(proxy, backend):
    """The id of a request whose cost nobody knows."""
    backend.next(lambda exchange: exchange.reply(body=NO_USAGE))
    reply = proxy.post()
    proxy.wait_unresolved(reply.id)
    return reply.id


def kill(proxy):
    proxy.signal(signal.SIGKILL)
    proxy.wait()


@pytest.fixture
def waiting(make_proxy, backend, database):
    """A proxy with one event that its database does not take."""
    proxy = make_proxy({"m": backend}, database, flush_timeout=0)
    assert proxy.post().status == 200
    proxy.wait_events(1)
    database.stop()
    reply = proxy.post()
    assert reply.status == 200
    proxy.id = reply.id
    return proxy


def test_status_beside_a_running_proxy(proxy, backend):
    assert proxy.post().status == 200
    proxy.wait_events(1)
    id = make_unresolved(proxy, backend)
    found = status(proxy)
    assert (found["open"], found["unresolved"], found["dead"]) == (0, 1, 0)
    assert found["recorded"]["billed"] == 1
    life = found["this_life"]
    assert life["accepted"] == 2 and life["adds_up"] is True, life
    assert [one["_id"] for one in json.loads(call(proxy, "unresolved", "--json"))] == [id]
    text = call(proxy, "status")
    assert "accepted 2 = billed 1 + free 0 + unresolved 1 + in flight 0: it adds up" in text


def test_status_after_the_end(proxy):
    assert proxy.post().status == 200
    assert proxy.stop() == 0
    found = status(proxy)
    assert (found["waiting"], found["this_life"]) == (0, None)
    assert found["database"] == proxy.database.uri


def test_control_socket_is_its_owners_alone(proxy):
    path = proxy.directory / "data/control.sock"
    assert stat.S_ISSOCK(path.stat().st_mode) and path.stat().st_mode & 0o777 == 0o600
    kill(proxy)
    assert path.exists(), "left behind"
    proxy.launch()
    proxy.wait_ready()
    assert status(proxy)["this_life"]["adds_up"] is True
    assert proxy.stop() == 0
    assert not path.exists()


def test_too_long_a_path_for_the_socket_is_told_and_harms_nobody(make_proxy, backend, tmp_path):
    proxy = make_proxy({"m": backend}, data_dir=str(tmp_path / ("d" * 120)))
    assert proxy.wait_lines("WARNING", "control.sock", "at most 107 bytes")
    assert proxy.post().status == 200


@pytest.mark.parametrize("is_live", [True, False], ids=["live", "stopped"])
def test_resolved_request_is_billed_once(make_proxy, backend, database, is_live):
    proxy = make_proxy({"m": backend}, database)
    id, free = make_unresolved(proxy, backend), make_unresolved(proxy, backend)
    if not is_live:
        assert proxy.stop() == 0
    for _ in range(2):
        call(proxy, "resolve", id, "--prompt", "30", "--completion", "4")
        call(proxy, "resolve", free, "--free")
    call(proxy, "resolve", id, "--prompt", "30", "--completion", "5", status=1)
    assert '"completion_n":4' in call.errors
    call(proxy, "resolve", "0" * 24, "--free", status=1)
    if not is_live:
        proxy.launch()
        proxy.wait_ready()
    event = proxy.wait_event(id)
    assert (event["prompt_n"], event["completion_n"], event["model"]) == (30, 4, "m")
    assert [one["id"] for one in proxy.settled_events()] == [id]
    assert status(proxy)["unresolved"] == 0
    call(proxy, "verify")


def test_what_was_said_survives_the_death_of_the_proxy(waiting, backend):
    """The answer comes when it is durable, and the database has none of it yet."""
    id, free = make_unresolved(waiting, backend), make_unresolved(waiting, backend)
    call(waiting, "resolve", id, "--prompt", "30", "--completion", "4")
    call(waiting, "resolve", free, "--free")
    kill(waiting)
    waiting.database.resume()
    waiting.launch()
    waiting.wait_ready()
    assert waiting.wait_event(id)["prompt_n"] == 30
    found = status(waiting)
    assert (found["unresolved"], found["dead"]) == (0, 0)
    assert free not in [one["id"] for one in waiting.events()]


def test_export_while_the_database_is_away(waiting):
    lines = [json.loads(line) for line in call(waiting, "export", "--since", "1h").splitlines()]
    last = lines[-1]
    assert (last["_id"], last["state"], last["prompt_n"], last["completion_n"]) == (
        waiting.id, "waiting", 7, 3,
    )  # fmt: skip
    done = run("ledger", "export", "--since", "1h", "--format", "csv", "-c", waiting.path, text=False)
    assert done.returncode == 0
    text = done.stdout.decode()
    assert text.count("\r\n") == text.count("\n") == len(lines) + 1
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["_id"] for row in rows] == [line["_id"] for line in lines]
    assert rows[-1]["user_id"] == "user2"
    assert call(waiting, "export", "--since", "now") == ""
    assert status(waiting)["waiting"] >= 1
    waiting.database.resume()


def test_verify_finds_what_the_database_lost(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database)
    ids = [proxy.post().id for _ in range(3)]
    proxy.wait_events(3)
    assert proxy.stop() == 0
    assert "3 delivered ones compared with the database; 0 wrong" in call(proxy, "verify")
    if database.kind == "sqlite":
        database.query("DELETE FROM events_completion WHERE id = ?", ids[0])
        database.query("UPDATE events_completion SET completion_n = 4 WHERE id = ?", ids[1])
    else:
        database.documents.delete_one({"_id": bson.ObjectId(ids[0])})
        database.documents.update_one({"_id": bson.ObjectId(ids[1])}, {"$set": {"completion_n": 4}})
    text = call(proxy, "verify", status=1)
    assert f"event {ids[0]} was delivered and is not in the database" in text
    assert f"event {ids[1]} is another one in the database" in text
    assert "2 wrong" in text
    assert "0 wrong" in call(proxy, "verify", "--files")


def test_ship_the_ledger_of_a_proxy_that_died(waiting, tmp_path):
    """Killed in an outage; its directory goes to the database from elsewhere."""
    kill(waiting)
    waiting.database.resume()
    theirs = tmp_path / "theirs"
    shutil.copytree(waiting.directory / "data/ledger", theirs)
    call(waiting, "ship", theirs)
    assert not theirs.exists()
    assert [one["id"] for one in waiting.events()].count(waiting.id) == 1
    # The directory that it was copied from starts again, and nothing is billed twice.
    waiting.launch()
    waiting.wait_ready()
    assert [one["id"] for one in waiting.settled_events()].count(waiting.id) == 1
    assert len(waiting.events()) == 2


def test_ship_settles_open_streams_only_where_their_owner_is_dead(proxy, backend, tmp_path):
    gate = backend.gate()

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"))
        gate.wait()
        exchange.reset()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream()
        wait_until(lambda: status(proxy)["open"] == 1, "the intent")
        call(proxy, "ship", proxy.directory / "data/ledger", status=75)
        kill(proxy)
    gate.open()
    ledger = proxy.directory / "data/ledger"
    call(proxy, "ship", ledger, status=1)
    assert "--owner-is-dead" in call.errors
    call(proxy, "ship", ledger, "--owner-is-dead", status=1)
    call(proxy, "resolve", reply.id, "--dir", ledger, "--prompt", "7", "--completion", "1")
    call(proxy, "ship", ledger)
    assert not ledger.exists()
    assert [one["id"] for one in proxy.events()] == [reply.id]
    proxy.launch()
    proxy.wait_ready()
    assert proxy.post().status == 200


def test_retarget(waiting, tmp_path):
    """The database moved while events waited."""
    kill(waiting)
    waiting.database.resume()
    other = f"sqlite://{tmp_path}/other.db"
    waiting.write_config(db={"uri": other})
    waiting.launch()
    assert waiting.wait() == 78
    assert "ledger retarget" in waiting.log
    call(waiting, "retarget")
    waiting.launch()
    waiting.wait_ready()
    moved = Sqlite(tmp_path / "other.db")
    wait_until(lambda: waiting.id in [one["id"] for one in moved.events()], "the event that waited")
    assert waiting.id not in [one["id"] for one in waiting.events()]


def test_ship_all_leaves_nothing_to_an_older_version(waiting):
    kill(waiting)
    waiting.database.resume()
    call(waiting, "ship", "--all")
    assert not (waiting.directory / "data/ledger").exists()
    assert waiting.id in [one["id"] for one in waiting.events()]


def test_dead_event_is_billed_under_another_id(make_proxy, backend, mongo):
    """Somebody wrote another document under the id."""
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
        mongo.documents.insert_one({"_id": bson.ObjectId(reply.id), "model": "other"})
        gate.open()
        client.read_body(reply)
    wait_until(lambda: status(proxy)["dead"] == 1, "the dead event")
    [dead] = json.loads(call(proxy, "dead", "--json"))
    assert (dead["_id"], dead["kind"], dead["prompt_n"]) == (reply.id, "refused", 7)
    call(proxy, "dead", "--rebill", reply.id)
    call(proxy, "dead", "--rebill", reply.id)
    wait_until(lambda: mongo.count() == 2, "the event under another id")
    [event] = [one for one in mongo.events() if one["id"] != reply.id]
    assert (event["user_id"], event["prompt_n"], event["completion_n"]) == ("user2", 7, 3)
    assert proxy.stop() == 0
    assert json.loads(call(proxy, "dead", "--json")) == []
    call(proxy, "verify")
    states = {one["_id"]: one["state"] for one in map(json.loads, call(proxy, "export", "--since", "1h").splitlines())}
    assert states == {reply.id: "replaced", event["id"]: "delivered"}


def test_verify_and_status_beside_a_proxy_at_work(make_proxy, backend):
    """Segments of the least size, so that they roll and go under the reader."""
    proxy = make_proxy({"m": backend}, ledger={"max_bytes": 16 << 20, "ship_interval": 0.02})
    load = Load(proxy)
    try:
        for _ in range(10):
            load.wait_more(50)
            assert "0 wrong" in call(proxy, "verify")
            assert status(proxy)["this_life"]["adds_up"] is True
    finally:
        load.stop()


def test_usage(proxy):
    for arguments in (
        ["resolve", "0" * 24],
        ["resolve", "0" * 24, "--prompt", "1"],
        ["resolve", "0" * 24, "--prompt", "-1", "--completion", "1"],
        ["resolve", "12", "--free"],
        ["export"],
        ["export", "--since", "yesterday"],
        ["dead", "--requeue", "all", "--rebill", "0" * 24],
        ["ship"],
        [],
    ):
        call(proxy, *arguments, status=64)
