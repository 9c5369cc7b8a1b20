"""The rig by itself, without the proxy: a backend that does not do what it is told would make
every other test worthless."""

import http.client
import ssl
import tomllib
import urllib.request

import pytest

from rig import sse
from rig.ca import Authority
from rig.client import Closed, Connection, Cut
from rig.proxy import merge, toml
from rig.wait import wait_until


def test_plain_reply(backend):
    with Connection(backend.port) as client:
        reply = client.post(seed=2)
    assert (reply.status, reply.json()["usage"]) == (200, sse.usage(9, 7))
    assert backend.requests[0].header("Authorization") == "Bearer token2"


def test_stream_without_usage_unless_asked(backend):
    with Connection(backend.port) as client:
        assert len(list(client.events(client.stream()))) == 5
        asked = list(client.events(client.stream(stream_options={"include_usage": True})))
    assert asked[-2] == sse.usage_chunk(7, 3) and asked[-1] == sse.DONE
    assert backend.connections == 1


def test_events_are_told_as_they_arrive(backend):
    gates = [backend.gate(str(n)) for n in range(3)]

    def script(exchange):
        exchange.open()
        for n, gate in enumerate(gates):
            gate.wait()
            exchange.write(sse.chunk(str(n)))
        exchange.end()

    backend.next(script)
    with Connection(backend.port) as client:
        events = client.events(client.stream())
        for n, gate in enumerate(gates):
            gate.open()
            assert next(events) == sse.chunk(str(n))
        assert list(events) == []


@pytest.mark.parametrize("how", ["close", "reset"])
def test_cut_inside_a_body_is_seen(backend, how):
    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"))
        exchange.backend.wait_requests(1)
        getattr(exchange, how)()

    backend.next(script)
    with Connection(backend.port) as client:
        with pytest.raises(Cut):
            client.read_body(client.stream())


def test_close_without_reply_is_seen(backend):
    backend.next(lambda exchange: exchange.close())
    with Connection(backend.port) as client, pytest.raises(Closed):
        client.post()


def test_backend_sees_a_client_leave(backend):
    gone = backend.gate("gone")

    def script(exchange):
        exchange.open()
        exchange.wait_gone()
        gone.open()

    backend.next(script)
    client = Connection(backend.port)
    client.stream()
    client.reset()
    gone.wait()
    wait_until(lambda: backend.open_connections == 0, "no connection left")


def test_another_client_agrees_with_ours(backend):
    backend.next(lambda exchange: exchange.stream(sse.chunk("a"), sse.DONE))
    connection = http.client.HTTPConnection("127.0.0.1", backend.port)
    connection.request("POST", "/", b"{}")
    assert connection.getresponse().read() == sse.chunk("a") + sse.DONE
    connection.close()


def test_certificates(tmp_path, make_backend):
    authority = Authority(tmp_path)
    good, expired, other_name = (
        make_backend(tls=authority.server()),
        make_backend(tls=authority.server(expired=True)),
        make_backend(tls=authority.server("DNS:elsewhere.test")),
    )
    trust = ssl.create_default_context(cafile=str(authority.cert))
    for backend, accepted in ((good, True), (expired, False), (other_name, False)):
        backend.script = lambda exchange: exchange.reply(body={})
        try:
            urllib.request.urlopen(backend.url("/"), context=trust).read()
            assert accepted
        except OSError as failure:
            assert not accepted and "CERTIFICATE_VERIFY_FAILED" in str(failure)


def test_config_text():
    config = {
        "port": 0,
        "db": {"uri": 'a"b'},
        "backends": {"a.b/c": {"url": "http://x", "verify_ssl": False}},
    }
    assert tomllib.loads(toml(config)) == config
    assert merge(config, {"db": None, "port": 1, "backends": {"a.b/c": {"url": "y"}}}) == {
        "port": 1,
        "backends": {"a.b/c": {"url": "y", "verify_ssl": False}},
    }
