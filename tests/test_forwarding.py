"""What reaches the backend, what comes back, and over which connections."""

import json
import signal
import socket

import pytest

from rig import sse
from rig.ca import Authority
from rig.client import CHAT
from rig.wait import DEADLINE, stays, wait_until

# Headers to the backend.


def test_call_is_framed_anew(proxy, backend):
    proxy.post()
    call = backend.requests[0]
    assert (call.method, call.target, call.version) == ("POST", CHAT, "HTTP/1.1")
    assert call.header("Host") == f"127.0.0.1:{backend.port}"
    assert call.header("Authorization") == "Bearer backend-token-of-m"
    assert call.header("Content-Type") == "application/json"
    assert call.header("Content-Length") == str(len(call.body))
    assert call.header("Accept-Encoding") == "identity"


@pytest.mark.parametrize(
    "name, value",
    [
        ("Accept", "text/event-stream, */*;q=0.1"),
        ("User-Agent", "OpenAI/Python 3.54.0"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=b"),
        ("baggage", "k=v"),
        ("OpenAI-Beta", "assistants=v2"),
    ],
)
def test_harmless_header_passes(proxy, backend, name, value):
    assert proxy.post(headers=[(name, value)]).status == 200
    assert backend.requests[0].header(name) == value


DROPPED = [
    ("X-Api-Key", "secret"),
    ("Api-Key", "secret"),
    ("X-Goog-Api-Key", "secret"),
    ("Cookie", "session=secret"),
    ("Proxy-Authorization", "Basic c2VjcmV0"),
    ("Connection", "keep-alive, X-Named"),
    ("X-Named", "by Connection"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Connection", "keep-alive"),
    ("TE", "trailers"),
    ("Trailer", "Expires"),
    ("Accept-Encoding", "gzip, br, zstd"),
    ("Origin", "https://site.test"),
    ("Referer", "https://site.test/page"),
    ("Sec-Fetch-Mode", "cors"),
    ("X-Conversation-Id", "1"),
    ("X-data-parallel-rank", "1"),
    ("endpoint-load-metrics-format", "TEXT"),
    ("OpenAI-Organization", "org-1"),
    ("X-Stainless-Lang", "python"),
    ("X-Forwarded-For", "10.0.0.1"),
    ("X-Forwarded-Proto", "https"),
    ("Forwarded", "for=10.0.0.1"),
    ("X-Real-IP", "10.0.0.1"),
    ("X-Unknown", "1"),
    ("X-Request-Id", "chosen-by-the-client"),
]


def test_everything_else_is_dropped(proxy, backend):
    reply = proxy.post(headers=DROPPED)
    assert reply.status == 200
    call = backend.requests[0]
    kept = [name for name, value in DROPPED if value in call.values(name)]
    assert kept == []
    assert call.header("X-Request-Id") == reply.id
    assert b"token2" not in call.head


def test_backend_without_token_gets_no_authorization(make_proxy, backend):
    proxy = make_proxy({"m": {"url": backend.url(), "token": ""}})
    proxy.post()
    assert backend.requests[0].values("Authorization") == []


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_json_is_accepted_under_any_content_type_and_goes_out_as_json(proxy, backend, content_type):
    body = json.dumps({"model": "m", "messages": []}).encode()
    headers = [("Authorization", "Bearer token2")] + (
        [("Content-Type", content_type)] if content_type else []
    )
    assert proxy.request("POST", CHAT, headers, body).status == 200
    assert backend.requests[0].header("Content-Type") == "application/json"
    assert backend.requests[0].body == body


@pytest.mark.parametrize(
    "path, target", [("", CHAT), ("/", CHAT), ("/base", "/base" + CHAT), ("/a/b/", "/a/b" + CHAT)]
)
def test_path_is_kept_under_the_url(make_proxy, backend, path, target):
    proxy = make_proxy({"m": backend.url(path)})
    assert proxy.post().status == 200
    assert backend.requests[0].target == target


def test_model_selects_the_backend(make_proxy, make_backend):
    one, two = make_backend(), make_backend()
    proxy = make_proxy({"one": one, "two/2:b": two})
    for model in ("one", "two/2:b", "one"):
        assert proxy.post(model=model).status == 200
    assert [c.json()["model"] for c in one.requests] == ["one", "one"]
    assert [c.header("Authorization") for c in two.requests] == ["Bearer backend-token-of-two/2:b"]


def test_escaped_model_name_selects_its_backend(proxy, backend):
    body = b'{"model": "\\u006d", "messages": []}'
    assert proxy.post(body).status == 200
    assert backend.requests[0].body == body


# Headers to the client.


def test_useful_headers_of_the_reply_pass(proxy, backend):
    useful = [
        ("Retry-After", "7"),
        ("x-ratelimit-remaining-requests", "9"),
        ("openai-processing-ms", "12"),
        ("x-should-retry", "false"),
        ("Cache-Control", "no-store"),
    ]
    backend.next(lambda exchange: exchange.reply(429, {"error": {}}, useful))
    reply = proxy.post()
    assert [(name, reply.header(name)) for name, _ in useful] == useful


def test_other_headers_of_the_reply_are_dropped(proxy, backend):
    dropped = [
        ("Server", "uvicorn"),
        ("Set-Cookie", "a=b"),
        ("Alt-Svc", "h3=:443"),
        ("Strict-Transport-Security", "max-age=1"),
        ("Access-Control-Allow-Origin", ""),
        ("Keep-Alive", "timeout=5, max=100"),
        ("X-Request-Id", "of-the-backend"),
        ("Authorization", "Bearer backend-token-of-m"),
        ("X-Anything", "1"),
        ("Connection", "X-Anything"),
    ]
    backend.next(
        lambda exchange: exchange.reply(200, sse.completion(usage=sse.usage(1, 1)), dropped)
    )
    reply = proxy.post()
    assert reply.status == 200
    assert [name for name, value in dropped if value in reply.values(name)] == []
    assert reply.id == backend.requests[0].header("X-Request-Id")


def test_backend_cookies_are_not_replayed(proxy, backend):
    backend.next(lambda exchange: exchange.reply(200, {}, [("Set-Cookie", "who=user2; Path=/")]))
    with proxy.connect() as client:
        client.post()
        client.post(token="token3")
    assert backend.requests[1].values("Cookie") == []


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "text/plain", 'Application/JSON;x="a,b"']
)
def test_content_type_passes_verbatim(proxy, backend, content_type):
    backend.next(lambda exchange: exchange.reply(200, b"{}", content_type=content_type))
    assert proxy.post().header("Content-Type") == content_type


@pytest.mark.parametrize("status", [201, 400, 401, 403, 404, 422, 429, 500, 503, 529])
def test_status_and_body_of_the_backend_pass(proxy, backend, status):
    body = b'{"error" : {"code":%d, "message":"as the backend said"}}' % status
    backend.next(lambda exchange: exchange.reply(status, body))
    reply = proxy.post()
    assert (reply.status, reply.body) == (status, body)


def test_plain_text_error_of_the_backend_passes(proxy, backend):
    backend.next(
        lambda exchange: exchange.reply(500, b"Internal Server Error", content_type="text/plain")
    )
    reply = proxy.post()
    assert (reply.status, reply.body, reply.header("Content-Type")) == (
        500,
        b"Internal Server Error",
        "text/plain",
    )


def test_request_id_is_the_same_everywhere(proxy, backend):
    reply = proxy.post()
    assert backend.requests[0].header("X-Request-Id") == reply.id
    assert proxy.wait_events(1)[0]["id"] == reply.id
    assert proxy.wait_lines(reply.id)


@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_plain_reply_of_every_framing_goes_out_with_its_length(proxy, backend, framing):
    body = json.dumps(sse.completion("x" * 100_000, usage=sse.usage(7, 3))).encode()

    def script(exchange):
        if framing == "length":
            exchange.reply(200, body)
            return
        exchange.open(content_type="application/json", chunked=framing == "chunked")
        for begin in range(0, len(body), 3000):
            exchange.write(body[begin : begin + 3000])
        exchange.end()

    backend.next(script)
    reply = proxy.post()
    assert reply.body == body and reply.header("Content-Length") == str(len(body))
    assert proxy.wait_event(reply.id)["prompt_n"] == 7


def test_body_of_ten_megabytes_passes_both_ways(proxy, backend):
    text = "m" * 10_000_000
    backend.next(lambda exchange: exchange.reply(200, sse.completion(text, usage=sse.usage(7, 3))))
    reply = proxy.post(messages=[{"role": "user", "content": text}])
    assert reply.json()["choices"][0]["message"]["content"] == text
    assert backend.requests[0].json()["messages"][0]["content"] == text


def test_trailers_and_extensions_of_the_reply_are_dropped(proxy, backend):
    body = json.dumps(sse.completion(usage=sse.usage(7, 3))).encode()

    def script(exchange):
        exchange.open(content_type="application/json")
        exchange.send(b"%x;name=value\r\n%s\r\n0\r\nAuthorization: x\r\n\r\n" % (len(body), body))

    backend.next(script)
    reply = proxy.post()
    assert reply.body == body and reply.values("Authorization") == []


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]
)
def test_interim_replies_are_swallowed(proxy, backend, interim):
    def script(exchange):
        exchange.send(interim, interim)
        exchange.reply(200, sse.completion(usage=sse.usage(7, 3)))

    backend.next(script)
    with proxy.connect() as client:
        client.start_post()
        assert client.read().status == 200


BAD_REPLIES = {
    "garbage": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "HTTP/0.9": b"{}",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    "folded": b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n{}",
    "NUL": b"HTTP/1.1 200 OK\r\nA: \0\r\nContent-Length: 2\r\n\r\n{}",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"A: bbbbbbbb\r\n" * 100_000,
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "endless interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
    "gzip coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_reply_that_is_no_http_is_502(proxy, backend, name):
    def script(exchange):
        exchange.send(BAD_REPLIES[name])
        exchange.close() if name == "HTTP/0.9" else exchange.wait_gone()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.post()
        assert reply.status == 502 and reply.error["type"] == "server_error"
        assert client.post().status == 200


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
def test_reply_without_body_is_no_stream(proxy, backend, content_type):
    backend.next(
        lambda exchange: exchange.send(exchange.head(204, [("Content-Type", content_type)]))
    )
    with proxy.connect() as client:
        client.start_post(stream=True)
        client.start_post()
        none = client.read()
        assert (none.status, none.body, none.values("Transfer-Encoding")) == (204, b"", [])
        assert client.read().status == 200  # and not what a body would have left


class RawBackend:
    """A backend of one connection whose every byte the test sends and takes."""

    def __init__(self):
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()
        if hasattr(self, "connection"):
            self.connection.close()

    def accept(self):
        self._listener.settimeout(DEADLINE)
        self.connection, _ = self._listener.accept()
        self.connection.settimeout(DEADLINE)

    def take(self, until):
        """What comes, up to the first `until`."""
        taken = b""
        while until not in taken:
            piece = self.connection.recv(65536)
            assert piece, "the proxy has closed"
            taken += piece
        return taken


LONG_BODY = json.dumps({"model": "m", "user": "x" * 20_000_000, "end": "here"}).encode()


def test_early_reply_of_a_backend_that_takes_no_more_is_heard(make_proxy):
    with RawBackend() as backend:
        proxy = make_proxy({"m": backend.url})
        with proxy.connect() as client:
            client.start_post(LONG_BODY)
            backend.accept()
            backend.take(b"\r\n\r\n")
            body = b'{"error":{"message":"too much"}}'
            backend.connection.sendall(
                b"HTTP/1.1 413 Whatever\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            reply = client.read()
            assert (reply.status, reply.body) == (413, body)
            while backend.connection.recv(65536):  # closed, and not kept with half a call on it
                pass


def test_interim_reply_does_not_end_the_call(make_proxy):
    with RawBackend() as backend:
        proxy = make_proxy({"m": backend.url})
        with proxy.connect() as client:
            client.start_post(LONG_BODY)
            backend.accept()
            taken = backend.take(b"\r\n\r\n")
            backend.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            taken += backend.take(b'"here"}')
            assert taken.endswith(LONG_BODY)
            body = json.dumps(sse.completion(usage=sse.usage(7, 3))).encode()
            backend.connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            reply = client.read()
            assert reply.body == body
            assert proxy.wait_event(reply.id)["prompt_n"] == 7


def test_bytes_behind_a_reply_are_not_the_next_reply(proxy, backend):
    def script(exchange):
        exchange.send(
            exchange.head(200, [("Content-Type", "application/json"), ("Content-Length", "2")]),
            b"{}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[666]",
        )

    backend.next(script)
    with proxy.connect() as client:
        assert client.post().body == b"{}"
        assert client.post().json()["usage"]
    assert backend.connections == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(proxy, backend, make_backend, status):
    elsewhere = make_backend()
    backend.next(lambda exchange: exchange.reply(status, b"", [("Location", elsewhere.url(CHAT))]))
    reply = proxy.post()
    assert reply.status == 502 and reply.error and reply.values("Location") == []
    assert elsewhere.connections == 0


# Connections to the backend.


def test_backend_connection_is_reused(proxy, backend):
    with proxy.connect() as client:
        for number in range(10):
            assert client.post(stream=number % 2 == 0).status == 200
    assert (len(backend.requests), backend.connections) == (10, 1)


def test_backend_that_says_close_is_not_reused(proxy, backend):
    backend.next(lambda exchange: exchange.reply(200, {}, close=True))
    with proxy.connect() as client:
        assert [client.post().status for _ in range(2)] == [200, 200]
    assert backend.connections == 2


def test_backend_that_closes_unsaid_loses_no_request(proxy, backend):
    """As llama.cpp does after each stream: keep-alive announced, connection closed."""

    def script(exchange):
        exchange.reply(
            200, sse.completion(usage=sse.usage(7, 3)), [("Keep-Alive", "timeout=5, max=100")]
        )
        exchange.close()

    backend.script = script
    with proxy.connect() as client:
        assert [client.post().status for _ in range(50)] == [200] * 50
    assert len(proxy.settled_events()) == 50


def test_call_on_a_stale_connection_is_sent_once_more(proxy, backend):
    with proxy.connect() as client:
        client.post()
        backend.next(lambda exchange: exchange.close())
        reply = client.post(stream=True)
        assert reply.status == 200 and reply.body.endswith(sse.DONE)
    first, lost, again = backend.requests
    assert lost.connection == first.connection != again.connection
    assert (
        lost.header("X-Request-Id") == reply.id and again.header("X-Request-Id") == reply.id + "-2"
    )
    assert lost.body == again.body
    assert [e["id"] for e in proxy.settled_events()].count(reply.id) == 1


def test_call_is_sent_twice_at_most(proxy, backend):
    with proxy.connect() as client:
        client.post()
        backend.script = lambda exchange: exchange.close()
        assert client.post().status == 502
    assert len(backend.requests) == 3


def test_call_that_was_worked_for_is_not_sent_again(proxy, backend):
    """A backend that closes a kept connection does so at once; one that dies later had the call."""

    def script(exchange):
        stays(lambda: True, "at work", 1.5)
        exchange.close()

    with proxy.connect() as client:
        client.post()
        backend.next(script)
        reply = client.post()
        assert reply.status == 502 and reply.header("x-should-retry") == "false"
    assert len(backend.requests) == 2


def test_call_on_a_fresh_connection_is_never_resent(proxy, backend):
    backend.next(lambda exchange: exchange.close())
    assert proxy.post().status == 502
    assert len(backend.requests) == 1


def test_call_with_a_byte_of_reply_is_never_resent(proxy, backend):
    def script(exchange):
        exchange.send(b"H")
        exchange.close()

    with proxy.connect() as client:
        client.post()
        backend.next(script)
        assert client.post().status == 502
    assert len(backend.requests) == 2


def test_502_after_the_backend_may_have_worked_stops_retries(proxy, backend):
    backend.next(lambda exchange: exchange.close())
    assert proxy.post().header("x-should-retry") == "false"


def test_connection_with_an_unread_rest_is_not_reused(make_proxy, backend):
    proxy = make_proxy({"m": backend}, timeout_read=0.3)
    backend.next(lambda exchange: exchange.wait_gone())
    with proxy.connect() as client:
        assert client.post().status == 504
        assert client.post().status == 200
    assert backend.connections == 2


def test_more_than_100_calls_at_once(proxy, backend):
    gate = backend.gate("all are here")

    def script(exchange):
        gate.wait()
        exchange.reply(200, sse.completion(usage=sse.usage(7, 3)))

    backend.script = script
    clients = [proxy.connect() for _ in range(150)]
    for client in clients:
        client.start_post()
    backend.wait_requests(150)
    gate.open()
    assert [client.read().status for client in clients] == [200] * 150
    for client in clients:
        client.close()


# Addresses.


def test_backend_by_name(make_proxy, backend):
    proxy = make_proxy({"m": f"http://localhost:{backend.port}"})
    assert proxy.post().status == 200
    assert backend.requests[0].header("Host") == f"localhost:{backend.port}"


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_backend_and_listener_on_ipv6(make_proxy, make_backend):
    backend = make_backend(host="::1")
    proxy = make_proxy({"m": backend}, host="::1")
    assert proxy.host == "::1"
    assert proxy.post().status == 200
    assert backend.requests[0].header("Host") == f"[::1]:{backend.port}"


def test_unknown_name_is_502(make_proxy):
    proxy = make_proxy({"m": "http://nobody.invalid:1"})
    reply = proxy.post()
    assert reply.status == 502 and reply.error
    assert "nobody.invalid" not in reply.body.decode()


def test_refused_connection_is_502(make_proxy, make_backend):
    gone = make_backend()
    gone.close()
    proxy = make_proxy({"m": gone})
    with proxy.connect() as client:
        reply = client.post()
        assert reply.status == 502 and reply.error["type"] == "server_error"
        assert str(gone.port) not in reply.body.decode()
        assert client.post().status == 502


def test_no_connection_within_timeout_connect_is_504(make_proxy):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):  # a full backlog drops further SYNs
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        proxy = make_proxy(
            {"m": f"http://127.0.0.1:{listener.getsockname()[1]}"}, timeout_connect=0.3
        )
        reply = proxy.post()
        assert reply.status == 504 and reply.error
        for filler in fillers:
            filler.close()


def test_connecting_does_not_hold_the_exit(make_proxy):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):  # a full backlog drops further SYNs
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        proxy = make_proxy(
            {"m": f"http://127.0.0.1:{listener.getsockname()[1]}"},
            timeout_connect=60,
            shutdown_timeout=0.3,
        )
        with proxy.connect() as client:
            client.start_post()
            proxy.signal(signal.SIGTERM)
            assert client.read().status == 503
        assert proxy.wait() == 0
        for filler in fillers:
            filler.close()


def test_silence_of_timeout_read_is_504(make_proxy, backend):
    proxy = make_proxy({"m": backend}, timeout_read=0.3)
    gone = backend.gate("our connection was closed")

    def script(exchange):
        exchange.wait_gone()
        gone.open()

    backend.next(script)
    reply = proxy.post()
    assert reply.status == 504 and reply.error
    gone.wait()


# https.


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def https_proxy(make_proxy, backend, host="127.0.0.1", **table):
    return make_proxy({"m": {"url": f"https://{host}:{backend.port}", **table}})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_https_backend_with_its_ca(make_proxy, make_backend, authority, host):
    backend = make_backend(tls=authority.server())
    proxy = https_proxy(make_proxy, backend, host, ca_file=str(authority.cert))
    with proxy.connect() as client:
        for number in range(4):
            assert client.post(stream=number % 2 == 0).status == 200
    assert backend.connections == 1
    assert len(proxy.settled_events()) == 4


@pytest.mark.parametrize("flaw", ["unknown root", "other name", "expired"])
def test_bad_certificate_is_refused_before_anything_is_sent(
    make_proxy, make_backend, authority, tmp_path, flaw
):
    server = {
        "unknown root": lambda: Authority(tmp_path, "other").server(),
        "other name": lambda: authority.server("DNS:elsewhere.test,IP:127.0.0.9"),
        "expired": lambda: authority.server(expired=True),
    }[flaw]()
    backend = make_backend(tls=server)
    proxy = https_proxy(make_proxy, backend, ca_file=str(authority.cert))
    reply = proxy.post()
    assert reply.status == 502 and reply.error
    assert backend.requests == []
    assert proxy.settled_events() == []


def test_system_roots_do_not_know_the_test_root(make_proxy, make_backend, authority):
    backend = make_backend(tls=authority.server())
    assert https_proxy(make_proxy, backend).post().status == 502


def test_verify_ssl_false_takes_any_certificate(make_proxy, make_backend, authority):
    backend = make_backend(tls=authority.server("DNS:elsewhere.test", expired=True))
    assert https_proxy(make_proxy, backend, verify_ssl=False).post().status == 200


def test_verify_ssl_is_of_one_backend(make_proxy, make_backend, authority):
    backend = make_backend(tls=authority.server("DNS:elsewhere.test"))
    proxy = make_proxy(
        {
            "lax": {"url": backend.url(), "verify_ssl": False},
            "strict": {"url": backend.url(), "ca_file": str(authority.cert)},
        }
    )
    with proxy.connect() as client:
        assert client.post(model="lax").status == 200
        assert client.post(model="strict").status == 502


def test_plain_server_behind_https_is_502(make_proxy):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        proxy = make_proxy({"m": f"https://127.0.0.1:{listener.getsockname()[1]}"})
        with proxy.connect() as client:
            client.start_post()
            peer, _ = listener.accept()
            peer.recv(1)
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            peer.close()
            assert client.read().status == 502


def test_handshake_has_the_bound_of_timeout_connect(make_proxy):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        proxy = make_proxy(
            {"m": f"https://127.0.0.1:{listener.getsockname()[1]}"}, timeout_connect=0.3
        )
        assert proxy.post().status == 504


def test_tls_stream_cut_without_close_notify_is_no_clean_end(make_proxy, make_backend, authority):
    backend = make_backend(tls=authority.server())
    proxy = https_proxy(make_proxy, backend, ca_file=str(authority.cert))

    def script(exchange):
        exchange.send(
            exchange.head(200, [("Content-Type", "application/json"), ("Connection", "close")])
        )
        exchange.send(json.dumps(sse.completion()).encode())
        exchange.close()

    backend.next(script)
    reply = proxy.post()
    assert reply.status == 502


# Nothing is left behind.


def test_connections_are_given_back(proxy, backend):
    with proxy.connect() as client:
        client.post()
    for _ in range(20):
        with proxy.connect() as client:
            client.start_post()
    backend.wait_requests(21)
    wait_until(lambda: len(proxy.events()) == 21, "21 events")
    assert proxy.stop() == 0
    wait_until(lambda: backend.open_connections == 0, "no connection left at the backend")
