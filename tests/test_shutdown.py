"""SIGTERM and SIGINT: what is in flight ends well, everything is billed, and the end has its
bound."""

import json
import re
import signal
import subprocess

import pytest

from rig import sse
from rig.client import Cut
from rig.database import ROOT
from rig.wait import wait_until

END = [sse.chunk(finish="stop"), sse.usage_chunk(7, 3), sse.DONE]


def open_streams(proxy, backend, count, gate):
    """`count` streams whose first event has arrived and whose rest waits for `gate`."""

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"))
        gate.wait()
        exchange.write(*END)
        exchange.end()

    backend.script = script
    streams = []
    for _ in range(count):
        client = proxy.connect()
        reply = client.stream()
        events = client.events(reply)
        assert next(events) == sse.chunk("a")
        streams.append((client, reply, events))
    return streams


def is_refused(proxy):
    try:
        proxy.connect().close()
        return False
    except OSError:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_50_open_streams_finish_and_are_billed(billing_proxy, backend, number):
    gate = backend.gate("the listener is closed")
    streams = open_streams(billing_proxy, backend, 50, gate)
    billing_proxy.signal(number)
    wait_until(lambda: is_refused(billing_proxy), "the listener closed")
    assert billing_proxy.process.poll() is None
    gate.open()
    for client, _, events in streams:
        assert list(events)[-1] == sse.DONE
        client.close()
    assert billing_proxy.wait() == 0
    assert sorted(e["id"] for e in billing_proxy.events()) == sorted(
        reply.id for _, reply, _ in streams
    )


def test_plain_request_in_flight_finishes(proxy, backend):
    gate = backend.gate("the listener is closed")

    def script(exchange):
        gate.wait()
        exchange.reply(200, sse.completion(usage=sse.usage(7, 3)))

    backend.next(script)
    with proxy.connect() as client:
        client.start_post()
        backend.wait_requests(1)
        proxy.signal(signal.SIGTERM)
        wait_until(lambda: is_refused(proxy), "the listener closed")
        gate.open()
        reply = client.read()
        assert reply.status == 200 and reply.header("Connection") == "close"
        assert client.is_closed()
    assert proxy.wait() == 0
    assert len(proxy.events()) == 1


def test_reload_while_stopping_is_told_and_changes_nothing(proxy, backend):
    gate = backend.gate("the signal was told of")
    ((client, _, _),) = open_streams(proxy, backend, 1, gate)
    proxy.signal(signal.SIGTERM)
    wait_until(lambda: is_refused(proxy), "the listener closed")
    proxy.signal(signal.SIGHUP)
    proxy.wait_lines("SIGHUP while stopping")
    gate.open()
    assert proxy.wait() == 0
    assert len(proxy.events()) == 1
    client.close()


def test_client_that_left_is_waited_for(proxy, backend):
    gate = backend.gate("the listener is closed")
    ((client, reply, _),) = open_streams(proxy, backend, 1, gate)
    client.reset()
    proxy.signal(signal.SIGTERM)
    wait_until(lambda: is_refused(proxy), "the listener closed")
    gate.open()
    assert proxy.wait() == 0
    assert [event["id"] for event in proxy.events()] == [reply.id]


def test_idle_connections_are_closed(proxy):
    with proxy.connect() as used:
        used.post()
        proxy.signal(signal.SIGTERM)
        assert used.is_closed()
    assert proxy.wait() == 0


def assert_cut(streams):
    for client, _, events in streams:
        error = json.loads(next(events).removeprefix(b"data: "))["error"]
        assert error["message"]
        with pytest.raises(Cut):
            list(events)
        client.close()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_cuts_and_settles(proxy, backend, second):
    gate = backend.gate("never before the end")
    streams = open_streams(proxy, backend, 5, gate)
    proxy.signal(signal.SIGTERM)
    wait_until(lambda: is_refused(proxy), "the listener closed")
    proxy.signal(second)
    assert_cut(streams)
    proxy.wait()
    for _, reply, _ in streams:
        assert proxy.lines("ERROR", "unresolved", reply.id)
    assert proxy.events() == []


def test_limit_cuts_and_settles(make_proxy, backend):
    proxy = make_proxy({"m": backend}, shutdown_timeout=0.3)
    gate = backend.gate("never before the end")
    streams = open_streams(proxy, backend, 5, gate)
    proxy.signal(signal.SIGTERM)
    assert_cut(streams)
    proxy.wait()
    for _, reply, _ in streams:
        assert proxy.lines("ERROR", "unresolved", reply.id)


def test_cut_streams_with_a_figure_are_billed(make_proxy, backend):
    proxy = make_proxy({"m": {"url": backend.url(), "usage": "continuous"}}, shutdown_timeout=0.3)
    gate = backend.gate("never before the end")

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a", usage=sse.usage(7, 1)))
        gate.wait()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream()
        events = client.events(reply)
        assert next(events) == sse.chunk("a")
        proxy.signal(signal.SIGTERM)
        proxy.wait()
    (event,) = proxy.events()
    assert (event["id"], event["prompt_n"], event["completion_n"]) == (reply.id, 7, 1)


def test_plain_call_at_the_limit_is_free_and_told(make_proxy, backend):
    proxy = make_proxy({"m": backend}, shutdown_timeout=0.3)
    backend.next(lambda exchange: exchange.wait_gone())
    with proxy.connect() as client:
        client.start_post()
        backend.wait_requests(1)
        proxy.signal(signal.SIGTERM)
        proxy.wait()
    assert proxy.events() == []
    assert not proxy.lines("ERROR", "unresolved")


def test_slow_client_does_not_hold_the_exit(make_proxy, backend):
    proxy = make_proxy({"m": backend}, shutdown_timeout=0.3)

    def script(exchange):
        exchange.open()
        for _ in range(1000):
            exchange.write(sse.chunk("z" * 60_000))

    backend.next(script)
    with proxy.connect(receive_buffer=8192) as client:
        client.stream()
        proxy.signal(signal.SIGTERM)
        proxy.wait()


def test_exit_does_not_wait_for_a_dead_database(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database, flush_timeout=0.3)
    assert proxy.post().status == 200
    database.stop()
    proxy.post()
    proxy.stop()


def test_exit_does_not_wait_for_a_lookup(make_proxy, backend, mongo):
    uri = mongo.uri + "&socketTimeoutMS=500"
    proxy = make_proxy(
        {"m": backend}, mongo, shutdown_timeout=0.3, flush_timeout=0.3, db={"uri": uri}
    )
    mongo.wire.set("hold")
    with proxy.connect() as client:
        client.start_post()
        wait_until(lambda: mongo.wire.held, "a look-up on its way")
        proxy.stop()


def test_stop_before_anything_was_asked(proxy):
    assert proxy.stop() == 0


def test_neither_start_nor_exit_waits_for_the_first_answer_of_the_database(make_proxy, backend, mongo):
    uri = mongo.uri.replace("serverSelectionTimeoutMS=1000", "serverSelectionTimeoutMS=3600000")
    mongo.wire.set("hold")
    proxy = make_proxy({"m": backend}, mongo, seed=False, db={"uri": uri})
    assert proxy.request("GET", "/v1/models").status == 401
    wait_until(lambda: mongo.wire.held, "the first check on its way")
    assert proxy.stop() == 0


def test_database_that_does_not_answer_is_told_later(make_proxy, backend, mongo):
    mongo.wire.set("refuse")
    proxy = make_proxy({"m": backend}, mongo, seed=False)
    (line,) = proxy.wait_lines("WARNING", "serving all the same")
    assert "MongoDB" in line
    mongo.resume()
    mongo.seed()
    wait_until(lambda: proxy.post().status == 200, "service")


def test_hup_command_of_the_manual(proxy):
    """The name is longer than the 15 letters that pkill without -f compares. The manual's pattern
    must match the process; the signal itself goes by a narrower one, so that no other program gets
    it."""
    manual = (ROOT / "README.md").read_text()
    match = re.search(r"^pkill (.*-HUP.*)$", manual, re.MULTILINE)
    assert match, "README.md has no pkill command"
    words = match[1].replace("'", "").replace('"', "").split()
    pattern = words[-1]
    assert "-f" in words and "-HUP" in words and pattern[0] != "-"
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True).stdout.split()
    assert str(proxy.pid) in found
    before = proxy.log.count("Config reloaded")
    subprocess.run(["pkill", "-f", "-HUP", f"{pattern}.*{re.escape(str(proxy.path))}"], check=True)
    wait_until(lambda: proxy.log.count("Config reloaded") > before, "the line `Config reloaded`")
