"""A scripted LLM server over raw sockets: it can answer, stream at will, stall, lie, cut and reset.

Every request is recorded as it came, byte for byte. A script is a function of one Exchange; without
one the backend answers like an honest server (`honest`). A script that raises fails the test at its
end.
"""

import collections
import json
import socket
import struct
import threading

from . import sse
from .wait import DEADLINE, Gate, Late, wait_until


class Received:
    """One request, as it came over the wire."""

    def __init__(self, connection, head, body):
        self.connection = connection  # which connection of this backend, from 0
        self.head = head  # up to and with the empty line
        self.body = body
        lines = head[:-4].split(b"\r\n")
        self.method, self.target, self.version = lines[0].decode("latin-1").split(" ")
        self.headers = []
        for line in lines[1:]:
            name, value = line.decode("latin-1").split(":", 1)
            self.headers.append((name, value.strip()))

    def values(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def header(self, name):
        values = self.values(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def json(self):
        return json.loads(self.body)


class Gone(Exception):
    """The proxy closed the connection, or the test is over."""


class Exchange:
    """What a script sees of one request, and how it answers."""

    def __init__(self, backend, connection, received):
        self.backend = backend
        self.request = received
        self.is_open = True  # the connection serves further requests after the script
        self._socket = connection
        self._chunked = True

    def send(self, *parts):
        try:
            self._socket.sendall(b"".join(parts))
        except OSError as failure:
            raise Gone(str(failure)) from None

    def head(self, status=200, headers=(), reason="Whatever"):
        lines = [f"HTTP/1.1 {status} {reason}"] + [f"{name}: {value}" for name, value in headers]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"

    def reply(self, status=200, body=b"", headers=(), content_type="application/json", close=False):
        """A whole reply with its length."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        fields = [("Content-Type", content_type)] if content_type else []
        fields += [("Content-Length", len(body)), *headers]
        if close:
            fields.append(("Connection", "close"))
        self.send(self.head(status, fields), body)
        if close:
            self.close()

    def open(
        self, status=200, headers=(), content_type="text/event-stream; charset=utf-8", chunked=True
    ):
        """The head of a reply whose body follows by `write`."""
        fields = [("Content-Type", content_type)] if content_type else []
        fields += [("Transfer-Encoding", "chunked")] if chunked else [("Connection", "close")]
        self._chunked = chunked
        self.send(self.head(status, [*fields, *headers]))

    def write(self, *parts):
        """A piece of the body: one chunk, or the bare bytes of a body that ends with the
        connection."""
        payload = b"".join(parts)
        self.send(b"%x\r\n%s\r\n" % (len(payload), payload) if self._chunked else payload)

    def end(self):
        if self._chunked:
            self.send(b"0\r\n\r\n")
        else:
            self.close()

    def stream(self, *events, **head):
        """A whole stream, one chunk an event."""
        self.open(**head)
        for event in events:
            self.write(event)
        self.end()

    def close(self):
        """An orderly end of the connection."""
        self.is_open = False
        _close(self._socket)

    def reset(self):
        """RST: what is on its way may be lost."""
        self.is_open = False
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def wait_gone(self):
        """Until the proxy has closed the connection; bytes that come before are thrown away."""
        try:
            while self._socket.recv(65536):
                pass
        except TimeoutError:
            raise Late("the proxy did not close its connection to the backend") from None
        except OSError:
            pass
        self.close()


def honest(exchange):
    """Answers as a faithful server does: usage in streams only when asked; `seed` chooses the
    counts."""
    call = exchange.request.json()
    seed = call.get("seed", 0)
    usage = sse.usage(7 + seed, 3 + seed * 2)
    if not call.get("stream"):
        exchange.reply(body=sse.completion(usage=usage, model=call["model"]))
        return
    asked = sse.asks_usage(call)
    exchange.open()
    null = {"usage": None} if asked else {}
    for word in ("Hello", " wor", "ld"):
        exchange.write(sse.chunk(word, **null))
    exchange.write(sse.chunk(finish="stop", **null))
    if asked:
        exchange.write(sse.chunk(choices=[], usage=usage))
    exchange.write(sse.DONE)
    exchange.end()


class Backend:
    """Listens on a free loopback port until close()."""

    def __init__(self, host="127.0.0.1", tls=None):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, 0))
        self._listener.listen(1024)
        self.host = host
        self.port = self._listener.getsockname()[1]
        self._tls = tls
        self.script = honest  # for requests without one of their own
        self.requests = []
        self.failures = []  # exceptions of scripts
        self.connections = 0  # accepted so far
        self.closing = False
        self._queue = collections.deque()
        self._by_model = {}
        self._lock = threading.Lock()
        self._open = set()
        self._threads = []
        self._gates = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def url(self, path=""):
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{path}"

    def next(self, *scripts):
        """The next requests, whatever their model, are answered by these, in order."""
        self._queue.extend(scripts)

    def on(self, model, script):
        self._by_model[model] = script

    def gate(self, name="gate"):
        gate = Gate(name)
        self._gates.append(gate)
        return gate

    def wait_requests(self, count):
        wait_until(lambda: len(self.requests) >= count, f"{count} requests at the backend")
        return self.requests

    @property
    def open_connections(self):
        with self._lock:
            return len(self._open)

    def close(self):
        self.closing = True
        for gate in self._gates:
            gate.open()
        _close(self._listener)
        with self._lock:
            for connection in list(self._open):
                _shutdown(connection)
        self._acceptor.join(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)

    def refuse(self):
        """Stops listening, so that connecting is refused; open connections are closed."""
        self.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                number = self.connections
                self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection, number), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection, number):
        connection.settimeout(DEADLINE * 4)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with self._lock:
                self._open.add(connection)
            buffer = b""
            while not self.closing:
                received, buffer = _read_request(connection, buffer, number)
                if received is None:
                    break
                if not self._answer(connection, received):
                    break
        except OSError:
            pass  # the proxy left, or refused our certificate
        except Exception as failure:  # noqa: BLE001 - shown by the fixture
            self.failures.append(failure)
        finally:
            with self._lock:
                self._open.discard(connection)
            _close(connection)

    def _answer(self, connection, received):
        with self._lock:
            self.requests.append(received)
            script = self._queue.popleft() if self._queue else None
        if script is None:
            script = self.script
            if self._by_model:
                script = self._by_model.get(received.json().get("model"), script)
        exchange = Exchange(self, connection, received)
        try:
            script(exchange)
        except Gone:
            return False
        return exchange.is_open


def _read_request(connection, buffer, number):
    """One request and what came behind it; (None, b"") at an end between requests."""
    while b"\r\n\r\n" not in buffer:
        piece = connection.recv(65536)
        if not piece:
            return None, b""
        buffer += piece
    head, _, buffer = buffer.partition(b"\r\n\r\n")
    received = Received(number, head + b"\r\n\r\n", b"")
    assert not received.values("Transfer-Encoding"), "the proxy frames its calls by length"
    length = int(received.header("Content-Length") or 0)
    while len(buffer) < length:
        piece = connection.recv(1 << 20)
        if not piece:
            return None, b""
        buffer += piece
    received.body = buffer[:length]
    return received, buffer[length:]


def _shutdown(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _close(connection):
    _shutdown(connection)
    connection.close()
