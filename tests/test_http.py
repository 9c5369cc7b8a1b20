"""HTTP/1.1 towards clients: strict framing, bounds for size and time, and what a connection
survives."""

import os
import signal
import threading
from email.utils import parsedate_to_datetime

import pytest

from rig import sse
from rig.backend import Backend
from rig.client import CHAT, Connection, chat_headers
from rig.proxy import Proxy, memory
from rig.wait import stays, wait_until

BODY = b'{"model": "m"}'
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
AUTH = b"Authorization: Bearer token2\r\n"
HEAD = LINE + b"Host: a\r\n" + AUTH
GOOD = HEAD + b"Content-Length: 14\r\n\r\n" + BODY


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    """One proxy for all the odd requests: it must serve on after each."""
    backend = Backend()
    proxy = Proxy(tmp_path_factory.mktemp("http"), {"m": backend}).start()
    yield proxy, backend
    backend.close()
    proxy.finish()


def length(value, body=BODY):
    return HEAD + b"Content-Length: " + value + b"\r\n\r\n" + body


def coding(value, body=b"e\r\n" + BODY + b"\r\n0\r\n\r\n"):
    return HEAD + b"Transfer-Encoding: " + value + b"\r\n\r\n" + body


def chunks(body):
    return coding(b"chunked", body)


def header(line):
    return HEAD + line + b"\r\nContent-Length: 14\r\n\r\n" + BODY


# Refused with one of these statuses, the connection closed, nothing sent to the backend.
REFUSED = {
    "length and chunked": (
        HEAD + b"Content-Length: 14\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
        {400},
    ),
    "chunked and length": (
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 14\r\n\r\n" + BODY,
        {400},
    ),
    "two lengths": (HEAD + b"Content-Length: 14\r\nContent-Length: 15\r\n\r\n" + BODY, {400}),
    "two equal lengths": (HEAD + b"Content-Length: 14\r\ncontent-length: 14\r\n\r\n" + BODY, {400}),
    "length list": (length(b"14, 14"), {400}),
    "length signed": (length(b"+14"), {400}),
    "length negative": (length(b"-14"), {400}),
    "length hexadecimal": (length(b"0xe"), {400}),
    "length empty": (length(b""), {400}),
    "length with blanks": (length(b"1 4"), {400}),
    "length with underscore": (length(b"1_4"), {400}),
    "length with point": (length(b"14.0"), {400}),
    "length of 20 digits": (length(b"18446744073709551630"), {400, 413}),
    "length of 100 digits": (length(b"1" * 100), {400, 413}),
    "coding gzip": (coding(b"gzip"), {400, 501}),
    "coding gzip, chunked": (coding(b"gzip, chunked"), {400, 501}),
    "coding chunked, gzip": (coding(b"chunked, gzip"), {400, 501}),
    "coding chunked twice": (coding(b"chunked, chunked"), {400, 501}),
    "coding identity": (coding(b"identity"), {400, 501}),
    "coding xchunked": (coding(b"xchunked"), {400, 501}),
    "coding with parameter": (coding(b"chunked;a=b"), {400, 501}),
    "coding quoted": (coding(b'"chunked"'), {400, 501}),
    "coding empty": (coding(b""), {400, 501}),
    "coding header twice": (
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        {400, 501},
    ),
    "coding with vertical tab": (coding(b"\x0bchunked"), {400, 501}),
    "coding over HTTP/1.0": (coding(b"chunked").replace(b"HTTP/1.1", b"HTTP/1.0"), {400}),
    "folded line": (header(b"X: a\r\n b"), {400}),
    "folded first line": (LINE + b" Host: a\r\n" + GOOD[len(LINE) :], {400}),
    "bare LF in the head": (GOOD.replace(b"\r\n", b"\n"), {400}),
    "bare LF after one line": (GOOD.replace(b"Host: a\r\n", b"Host: a\n"), {400}),
    "bare CR in a value": (header(b"X: a\rb"), {400}),
    "CR CR LF": (header(b"X: a\r"), {400}),
    "NUL in a value": (header(b"X: a\0b"), {400}),
    "DEL in a value": (header(b"X: a\x7fb"), {400}),
    "blank before the colon": (header(b"X : a"), {400}),
    "tab before the colon": (header(b"X\t: a"), {400}),
    "empty name": (header(b": a"), {400}),
    "no colon": (header(b"X"), {400}),
    "bad name": (header(b"X(Y): a"), {400}),
    "name not ASCII": (header(b"X\xe9: a"), {400}),
    "no Host": (LINE + AUTH + b"Content-Length: 14\r\n\r\n" + BODY, {400}),
    "two Hosts": (header(b"Host: b"), {400}),
    "bad Host": (GOOD.replace(b"Host: a", b"Host: a b"), {400}),
    "HTTP/0.9": (b"POST /v1/chat/completions\r\n\r\n", {400}),
    "HTTP/2.0": (GOOD.replace(b"HTTP/1.1", b"HTTP/2.0"), {400, 505}),
    "HTTP/1.2": (GOOD.replace(b"HTTP/1.1", b"HTTP/1.2"), {400, 505}),
    "HTTP/1.10": (GOOD.replace(b"HTTP/1.1", b"HTTP/1.10"), {400, 505}),
    "http/1.1": (GOOD.replace(b"HTTP/1.1", b"http/1.1"), {400, 505}),
    "version missing": (GOOD.replace(b" HTTP/1.1", b" "), {400}),
    "two blanks": (GOOD.replace(b"POST ", b"POST  "), {400}),
    "tab in the request line": (GOOD.replace(b"POST ", b"POST\t"), {400}),
    "blank in the target": (GOOD.replace(b"/v1/chat", b"/v1 /chat"), {400}),
    "control character in the target": (GOOD.replace(b"/v1/chat", b"/v1\x01/chat"), {400}),
    "bad method": (GOOD.replace(b"POST", b"PO(ST"), {400}),
    "leading blank": (b" " + GOOD, {400}),
    "leading LF": (b"\n" + GOOD, {400}),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 405, 505}),
    "TLS hello": (bytes.fromhex("16030100c8010000c40303") + b"\0" * 200, {400}),
    "unknown expectation": (header(b"Expect: 200-maybe"), {417}),
    "chunk size empty": (chunks(b"\r\n"), {400}),
    "chunk size no digits": (chunks(b"zz\r\n"), {400}),
    "chunk size signed": (chunks(b"+e\r\n" + BODY + b"\r\n0\r\n\r\n"), {400}),
    "chunk size 0x": (chunks(b"0xe\r\n" + BODY + b"\r\n0\r\n\r\n"), {400}),
    "chunk size with blank before": (chunks(b" e\r\n" + BODY + b"\r\n0\r\n\r\n"), {400}),
    "chunk size of 17 digits": (
        chunks(b"1000000000000000e\r\n" + BODY + b"\r\n0\r\n\r\n"),
        {400, 413},
    ),
    "chunk bare LF": (chunks(b"e\n" + BODY + b"\n0\n\n"), {400}),
    "chunk too long": (chunks(b"e\r\n" + BODY + b"x\r\n0\r\n\r\n"), {400}),
    "chunk extension flood": (
        chunks(b"e;" + b"x" * 10_000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
        {400},
    ),
    "trailer flood": (
        chunks(b"e\r\n" + BODY + b"\r\n0\r\n" + b"A: bbbbbbbb\r\n" * 10_000 + b"\r\n"),
        {400, 431},
    ),
    "trailer folded": (chunks(b"e\r\n" + BODY + b"\r\n0\r\nA: b\r\n c\r\n\r\n"), {400}),
    "target too long": (GOOD.replace(b"completions", b"completions?" + b"x" * 9000), {414}),
    "head too long": (header(b"X: " + b"x" * 40_000), {431}),
    "too many headers": (header(b"\r\n".join([b"X: a"] * 101)), {431}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_closed(stand, name):
    proxy, backend = stand
    request, statuses = REFUSED[name]
    before = len(backend.requests)
    with proxy.connect() as client:
        client.send(request + GOOD)  # what follows must not be taken for a request
        reply = client.read()
        assert reply.status in statuses, reply
        assert reply.error["type"] == "invalid_request_error" or reply.status >= 500
        assert reply.header("Connection") == "close"
        assert proxy.wait_lines(reply.id, f"status={reply.status}")
        assert client.is_closed()
    assert len(backend.requests) == before
    assert proxy.post().status == 200


SWITCHES = {
    "CONNECT": b"CONNECT backend:80 HTTP/1.1\r\nHost: backend:80\r\n\r\n",
    "websocket": header(b"Connection: Upgrade\r\nUpgrade: websocket"),
    "h2c": header(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x"),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_protocol_is_never_switched(stand, name):
    """Refused; the connection, if it stays open, speaks HTTP/1.1 as before."""
    proxy, backend = stand
    before = len(backend.requests)
    with proxy.connect() as client:
        client.send(SWITCHES[name])
        reply = client.read()
        assert 400 <= reply.status < 500 and reply.error
        assert len(backend.requests) == before
        if reply.header("Connection") != "close":
            assert client.post().status == 200


# Good, if unusual.
SERVED = {
    "one CRLF before": b"\r\n" + GOOD,
    "names in any case": GOOD.replace(b"Host", b"hOST").replace(
        b"Content-Length", b"CONTENT-LENGTH"
    ),
    "no blank after the colon": GOOD[: -len(BODY)].replace(b": ", b":") + BODY,
    "blanks around values": GOOD.replace(b": 14", b": \t 14 \t"),
    "absolute form": GOOD.replace(b"/v1/chat", b"http://a/v1/chat"),
    "leading zeros of the length": length(b"00014"),
    "unknown headers": header(b"X-A: \xe9\xff\r\nX-B:"),
    "chunked": coding(b"chunked"),
    "Chunked": coding(b"Chunked"),
    "chunk extension": chunks(b'e;a=b;c="d"\r\n' + BODY + b"\r\n0\r\n\r\n"),
    "many chunks": chunks(b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"),
    "upper-case size and zeros": chunks(b"000E\r\n" + BODY + b"\r\n000\r\n\r\n"),
    "trailers": chunks(b"e\r\n" + BODY + b"\r\n0\r\nAuthorization: Bearer x\r\nHost: b\r\n\r\n"),
    "100 headers": HEAD + b"X: a\r\n" * 97 + b"Content-Length: 14\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("name", SERVED)
def test_served(stand, name):
    proxy, backend = stand
    with proxy.connect() as client:
        client.send(SERVED[name])
        assert client.read().status == 200
        assert backend.requests[-1].body == BODY
        assert backend.requests[-1].header("Content-Length") == "14"
        client.send(GOOD)
        assert client.read().status == 200


def test_every_split_of_a_request_is_the_same_request(stand):
    proxy, _ = stand
    request = coding(b"chunked")
    with proxy.connect() as client:
        for split in range(1, len(request)):
            client.send(request[:split])
            client.send(request[split:])
            assert client.read().status == 200


# Connections.


def test_pipelined_requests_are_served_in_order(proxy, backend):
    with proxy.connect() as client:
        client.send(
            b"".join(
                GOOD.replace(BODY, b'{"model":"m","seed":%d}' % n).replace(b"14", b"22")
                for n in range(5)
            )
        )
        assert [client.read().json()["usage"]["prompt_tokens"] for _ in range(5)] == [
            7,
            8,
            9,
            10,
            11,
        ]
    assert len(proxy.settled_events()) == 5


def test_pipelined_stream_and_plain(proxy):
    call = b'{"model":"m","stream":true}'
    with proxy.connect() as client:
        client.send(length(b"27", call) + GOOD + length(b"27", call))
        assert client.read().body.endswith(sse.DONE)
        assert client.read().json()["object"] == "chat.completion"
        assert client.read().body.endswith(sse.DONE)


@pytest.mark.parametrize("size", [200, 700, 1024])
def test_pipelined_chunked_requests_that_fill_every_buffer_are_served(make_proxy, backend, size):
    """Only its own head counts against head_bytes_max, not what follows."""
    proxy = make_proxy({"m": backend}, limits={"head_bytes_max": 1024})
    request = coding(b"chunked")
    padding = b"X: " + b"y" * (size - request.index(b"\r\n\r\n") - 4 - 5) + b"\r\n"
    request = request.replace(AUTH, AUTH + padding)
    assert request.index(b"\r\n\r\n") + 4 == size
    count = (256 << 10) // len(request)
    with proxy.connect() as client:
        sender = threading.Thread(target=client.send, args=(request * count,))
        sender.start()
        assert [client.read().status for _ in range(count)] == [200] * count
        sender.join()


def test_bad_second_request_does_not_harm_the_first_answer(proxy, backend):
    gate = backend.gate("the second request is there")

    def script(exchange):
        gate.wait()
        exchange.reply(200, sse.completion(usage=sse.usage(7, 3)))

    backend.next(script)
    with proxy.connect() as client:
        client.send(GOOD + b"NONSENSE\r\n\r\n")
        backend.wait_requests(1)
        gate.open()
        assert client.read().status == 200
        assert client.read().status == 400
        assert client.is_closed()


def test_empty_line_behind_a_request_is_none(make_proxy, backend):
    """Neither the begin of a request that is too slow, nor in the way of one that follows."""
    proxy = make_proxy({"m": backend}, limits={"timeout_head": 0.2})
    with proxy.connect() as client:
        client.send(GOOD + b"\r\n")
        assert client.read().status == 200
        stays(lambda: client.unread() == b"", "no 408", 0.5)
        client.send(b"\r\n\r\n" + GOOD)
        assert client.read().status == 200
        client.send(GOOD + b"\r\n\r")
        assert client.read().status == 200
        client.send(b"\n" + GOOD + b"\r")
        assert client.read().status == 200
        proxy.signal(signal.SIGTERM)
        assert client.is_closed()  # it waits for a request, however much of an empty line it has
    assert proxy.wait() == 0


def test_close_is_honoured(proxy):
    with proxy.connect() as client:
        client.send(header(b"Connection: close"))
        reply = client.read()
        assert reply.status == 200 and reply.header("Connection") == "close"
        assert client.is_closed()


def test_http_1_0_is_answered_and_closed(proxy):
    with proxy.connect() as client:
        client.send(GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert client.read().status == 200
        assert client.is_closed()


def test_stream_over_http_1_0_is_refused(proxy, backend):
    with proxy.connect() as client:
        client.send(length(b"27", b'{"model":"m","stream":true}').replace(b"HTTP/1.1", b"HTTP/1.0"))
        reply = client.read()
        assert 400 <= reply.status < 600 and reply.error
    assert backend.requests == []


def test_half_close_after_the_request_is_served(proxy):
    with proxy.connect() as client:
        client.send(GOOD)
        client.half_close()
        assert client.read().status == 200
        assert client.is_closed()


def test_too_many_connections_are_503(make_proxy, backend):
    proxy = make_proxy({"m": backend}, threads=1, limits={"connections_max": 4})
    clients = [proxy.connect() for _ in range(4)]
    for client in clients:
        assert client.post().status == 200
    with proxy.connect() as extra:
        extra.send(GOOD)
        reply = extra.read()
        assert reply.status == 503 and reply.error and reply.header("Retry-After")
        assert extra.is_closed()
    clients.pop().close()
    wait_until(lambda: _status(proxy) == 200, "room for another connection")
    for client in clients:
        assert client.post().status == 200
        client.close()


def test_connection_too_many_is_told_whatever_it_has_sent(make_proxy, backend):
    """It reads its 503 to the end: no reset takes it away. The log tells of many in few lines."""
    proxy = make_proxy({"m": backend}, threads=1, limits={"connections_max": 1})
    with proxy.connect() as client:
        assert client.post().status == 200
        os.kill(proxy.pid, signal.SIGSTOP)
        extras = [proxy.connect() for _ in range(20)]
        for extra in extras:
            extra.send(GOOD)
        os.kill(proxy.pid, signal.SIGCONT)
        ids = set()
        for extra in extras:
            reply = extra.read()
            assert reply.status == 503
            ids.add(reply.id)
            assert extra.socket.recv(1) == b""  # the end, and no reset
            extra.close()
        assert len(ids) == 20
        told = wait_until(
            lambda: (
                lines := proxy.lines("connections refused", "status=503"),
                sum(int(line.split("count=")[1].split()[0]) for line in lines) == 20,
            )[1]
            and lines,
            "20 refusals told",
        )
        assert len(told) <= 3 and any(id in told[-1] for id in ids)
        assert client.post().status == 200
    assert proxy.stop() == 0


def _status(proxy):
    with proxy.connect() as client:
        client.send(GOOD)
        return client.read().status


# Expect.


def test_continue_is_said_before_the_body(proxy):
    with proxy.connect() as client:
        client.start(
            "POST", CHAT, [*chat_headers(), ("Content-Length", "14"), ("Expect", "100-continue")]
        )
        assert client.read_interim().status == 100
        client.send(BODY)
        assert client.read().status == 200
        assert client.post().status == 200


def test_body_that_does_not_wait_for_continue_is_served(proxy):
    with proxy.connect() as client:
        client.send(header(b"Expect: 100-continue"))
        assert client.read().status == 200
        assert client.post().status == 200


@pytest.mark.parametrize(
    "headers, path, status",
    [
        ([("Authorization", "Bearer x"), ("Content-Length", "14")], CHAT, 401),
        ([("Authorization", "Bearer token2"), ("Content-Length", str(1 << 40))], CHAT, 413),
        ([("Authorization", "Bearer token2"), ("Content-Length", "14")], "/nothing", 404),
    ],
)
def test_refusal_comes_instead_of_continue(proxy, headers, path, status):
    with proxy.connect() as client:
        client.start("POST", path, [*headers, ("Expect", "100-continue")])
        head = b""
        while b"\r\n" not in head:
            head += client.socket.recv(1)
        assert head.startswith(b"HTTP/1.1 %d " % status)


def test_expect_is_not_forwarded(proxy, backend):
    with proxy.connect() as client:
        client.send(header(b"Expect: 100-continue"))
        client.read()
    assert backend.requests[0].values("Expect") == []


# Bounds.


@pytest.mark.parametrize(
    "limit, value, request_bytes, status",
    [
        ("head_bytes_max", 1024, header(b"X: " + b"x" * 1000), 431),
        ("headers_max", 10, header(b"\r\n".join([b"X: a"] * 10)), 431),
        ("target_bytes_max", 64, GOOD.replace(b"completions", b"completions?" + b"x" * 50), 414),
        ("body_bytes_max", 1024, length(b"1025", b" " * 1025), 413),
        ("body_bytes_max", 1024, chunks(b"401\r\n" + b" " * 1025 + b"\r\n0\r\n\r\n"), 413),
    ],
)
def test_bounds_of_size_are_settings(make_proxy, backend, limit, value, request_bytes, status):
    proxy = make_proxy({"m": backend}, limits={limit: value})
    with proxy.connect() as client:
        client.send(request_bytes)
        assert client.read().status == status
    assert proxy.post().status == 200


@pytest.mark.parametrize("kind, status", [("zeros", 503), ("picture", 200)])
def test_what_reading_a_body_takes_is_within_the_bound(make_proxy, backend, kind, status):
    """A list of zeros takes ten times its size to read, a picture does not. It is given back."""
    text = b"0," * (4 << 20) if kind == "zeros" else b'"%s",' % (b"x" * (8 << 20))
    proxy = make_proxy(
        {"m": backend}, limits={"memory_bytes_max": 80 << 20, "reply_bytes_max": 1 << 20}
    )
    body = b'{"model":"m","list":[' + text + b"0]}"
    assert proxy.post().status == 200
    before = memory(proxy.pid)
    for _ in range(3):
        assert proxy.post(body).status == status
    wait_until(lambda: memory(proxy.pid) - before < 16 << 10, "the memory given back")


def test_large_call_is_edited_like_a_small_one(proxy, backend):
    body = b'{"model":"m","stream":true,"stream_options":{"x":1},"user":"%s"}' % (b"x" * (2 << 20))
    assert proxy.post(body).body.endswith(sse.DONE)
    asked = backend.requests[0].json()
    assert asked.pop("stream_options") == {"x": 1, "include_usage": True}
    assert len(asked["user"]) == 2 << 20


def test_bound_of_all_bodies_together_is_503(make_proxy, backend):
    proxy = make_proxy(
        {"m": backend},
        limits={"memory_bytes_max": 4 << 20, "body_bytes_max": 2 << 20, "reply_bytes_max": 1 << 20},
    )
    gate = backend.gate("the third request was answered")

    def script(exchange):
        gate.wait()
        exchange.reply(200, sse.completion(usage=sse.usage(7, 3)))

    backend.next(script, script)
    body = "x" * (900 << 10)
    with proxy.connect() as first, proxy.connect() as second, proxy.connect() as third:
        first.start_post(user=body)
        second.start_post(user=body)
        backend.wait_requests(2)
        third.start_post(user=body)  # requests may have half of it: room is kept for replies
        reply = third.read()
        assert reply.status == 503 and reply.error and reply.header("Retry-After")
        gate.open()
        assert [first.read().status, second.read().status] == [200, 200]
    assert proxy.post(user=body).status == 200


@pytest.mark.parametrize(
    "limit, part",
    [
        ("timeout_head", b"POST /v1/chat"),
        ("timeout_head", HEAD),
        ("timeout_body", GOOD[:-3]),
        ("timeout_body", chunks(b"e\r\n" + BODY[:5])),
        ("timeout_body", chunks(b"e\r\n" + BODY + b"\r\n")),
    ],
)
def test_slow_request_is_408(make_proxy, backend, limit, part):
    proxy = make_proxy({"m": backend}, limits={limit: 0.3})
    with proxy.connect() as client:
        client.send(part)
        reply = client.read()
        assert reply.status == 408 and reply.error
        assert client.is_closed()
    assert backend.requests == []
    assert proxy.post().status == 200


def test_upload_that_the_proxy_cuts_is_not_the_clients_fault(make_proxy, backend):
    proxy = make_proxy({"m": backend}, shutdown_timeout=0.3)
    with proxy.connect() as client:
        client.send(GOOD[:-3])
        wait_until(lambda: _status(proxy) == 200, "the request begun")
        proxy.signal(signal.SIGTERM)
        reply = client.read()
        assert reply.status == 503 and "shutting down" in reply.error["message"]
        assert "end=shutdown" in proxy.wait_lines("request", reply.id)[-1]
    assert proxy.wait() == 0
    assert len(backend.requests) == 1


@pytest.mark.full
def test_client_that_takes_too_little_is_gone(make_proxy, backend):
    """Half a minute, as it is for bodies that come too slowly."""
    proxy = make_proxy({"m": backend}, limits={"body_rate_min": 1 << 20, "timeout_write": 3600})
    gone = backend.gate("the connection to the backend was given up")

    def script(exchange):
        exchange.reply(200, sse.completion("x" * (32 << 20), usage=sse.usage(7, 3)))
        gone.open()

    backend.next(script)
    with proxy.connect(receive_buffer=4096) as client:
        client.start_post()
        id = backend.wait_requests(1)[0].header("X-Request-Id")

        def is_given_up():
            client.socket.recv(4096)
            return proxy.lines("request", id, "end=client_stalled")

        wait_until(is_given_up, "the client given up", seconds=60)
    assert proxy.wait_event(id)["completion_n"] == 3


def test_timeout_head_is_of_the_whole_head(make_proxy, backend):
    """A byte now and then does not keep it alive."""
    proxy = make_proxy({"m": backend}, limits={"timeout_head": 0.5})
    with proxy.connect() as client:
        sent = iter(HEAD * 100)

        def is_answered():
            try:
                client.send(bytes([next(sent)]))
            except OSError:
                return True
            client.socket.setblocking(False)
            try:
                return bool(client.socket.recv(1))
            except BlockingIOError:
                return False
            except OSError:
                return True
            finally:
                client.socket.setblocking(True)

        wait_until(is_answered, "the slow head refused")


def test_idle_connection_is_closed_without_a_word(make_proxy, backend):
    proxy = make_proxy({"m": backend}, limits={"timeout_idle": 0.3})
    with proxy.connect() as fresh, proxy.connect() as used:
        assert used.post().status == 200
        assert used.is_closed()
        assert fresh.is_closed()


def test_waiting_for_the_backend_is_not_idle(make_proxy, backend):
    proxy = make_proxy(
        {"m": backend}, limits={"timeout_idle": 0.2, "timeout_head": 0.2, "timeout_body": 0.2}
    )
    idle = proxy.connect()

    def script(exchange):
        idle.is_closed()  # an idle connection was closed meanwhile
        exchange.reply(200, sse.completion(usage=sse.usage(7, 3)))

    backend.next(script)
    assert proxy.post().status == 200
    idle.close()


def test_early_refusal_is_read_by_a_client_that_still_sends(proxy):
    """The connection is not reset under the reply."""
    with proxy.connect() as client:
        client.start("POST", CHAT, [*chat_headers("x"), ("Content-Length", str(8 << 20))])
        try:
            for _ in range(128):
                client.send(b" " * (64 << 10))
        except ConnectionError:
            pass
        assert client.read().status == 401


def test_stop_does_not_reset_a_reply_under_a_client_that_still_sends(proxy):
    with proxy.connect() as client:
        assert client.post().status == 200
        client.start("POST", CHAT, [*chat_headers(), ("Content-Length", str(1 << 30))])
        client.send(b" " * 1000)
        assert client.read().status == 413
        proxy.signal(signal.SIGTERM)
        proxy.wait_lines("stopping")
        stays(lambda: client.send(b" ") is None, "no reset", 0.5)
    assert proxy.wait() == 0


def test_connection_survives_every_refusal_that_http_allows(stand):
    proxy, _ = stand
    with proxy.connect() as client:
        for call, status in (
            (b"{", 400),
            (b'{"model":1}', 400),
            (b'{"model":"x"}', 404),
            (BODY, 200),
        ):
            assert client.request("POST", CHAT, chat_headers(), call).status == status
            assert client.request("POST", "/nothing", chat_headers(), call).status == 404
            assert client.request("GET", CHAT, chat_headers()).status == 405
            assert client.request("POST", CHAT, chat_headers("x"), call).status == 401


def test_date_is_sent(proxy):
    assert parsedate_to_datetime(proxy.post().header("Date"))


def test_200_connections_at_once(proxy):
    clients = [Connection(proxy.port) for _ in range(200)]
    for client in clients:
        client.start_post(stream=True)
    for client in clients:
        assert client.read().body.endswith(sse.DONE)
        client.close()
    assert len(proxy.settled_events()) == 200
