"""An HTTP/1.1 client over raw sockets, for requests that no library would send. It is strict about
what it reads: a reply that is not framed as RFC 9112 says fails the test."""

import json
import re
import socket
import struct

from .wait import DEADLINE

CHAT = "/v1/chat/completions"


class Cut(Exception):
    """The connection ended inside a reply."""


class Closed(Exception):
    """The connection ended where a reply should begin."""


class Reply:
    def __init__(self, head):
        self.raw_head = head
        lines = head[:-4].split(b"\r\n")
        match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) ([\t -~]*)", lines[0])
        assert match, f"bad status line {lines[0]!r}"
        self.status = int(match[1])
        self.headers = []
        for line in lines[1:]:
            match = re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", line)
            assert match and b"\r" not in line and b"\n" not in line, f"bad header line {line!r}"
            self.headers.append((match[1].decode(), match[2].decode("latin-1")))
        self.body = None

    def values(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def header(self, name):
        values = self.values(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def id(self):
        """The request's id, which is its event's _id."""
        value = self.header("X-Request-Id")
        assert value and re.fullmatch("[0-9a-f]{24}", value), f"X-Request-Id is {value!r}"
        return value

    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The members of an error in the OpenAI shape, which this asserts."""
        assert self.header("Content-Type") == "application/json", self.headers
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert isinstance(error["message"], str) and error["message"]
        assert isinstance(error["type"], str) and error["type"]
        for name in ("param", "code"):
            assert error[name] is None or isinstance(error[name], str), error
        return error

    def __repr__(self):
        return f"<Reply {self.status} {self.headers} {self.body!r}>"


class Connection:
    """One connection to the proxy."""

    def __init__(self, port, host="127.0.0.1", receive_buffer=None, deadline=DEADLINE):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._deadline = deadline
        self.socket.settimeout(deadline)
        self.socket.connect((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        """Leaves with a RST, as a killed client does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    def send(self, data):
        self.socket.sendall(data)

    def request(self, method, path, headers=(), body=b""):
        """Sends a request and reads its reply whole."""
        self.start(method, path, headers, body)
        return self.read()

    def start(self, method, path, headers=(), body=b""):
        self.send(request_bytes(method, path, headers, body))

    def post(self, call=None, token="token2", path=CHAT, headers=(), **members):
        """Posts a chat completion and reads its reply whole."""
        self.start_post(call, token, path, headers, **members)
        return self.read()

    def start_post(self, call=None, token="token2", path=CHAT, headers=(), **members):
        self.start("POST", path, chat_headers(token, headers), chat_body(call, **members))

    def stream(self, call=None, **arguments):
        """Posts a streamed chat completion and reads its head; then use events()."""
        self.start_post(call, stream=True, **arguments)
        return self.read_head()

    def read(self):
        reply = self.read_head()
        self.read_body(reply)
        return reply

    def read_head(self):
        """The next head that is no 1xx."""
        while True:
            while b"\r\n\r\n" not in self._buffer:
                if not self._fill():
                    raise Cut("inside a head") if self._buffer else Closed()
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            reply = Reply(head + b"\r\n\r\n")
            if reply.status >= 200:
                return reply

    def read_interim(self):
        """The next head, which must be a 1xx."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill():
                raise Cut("before an interim reply")
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        reply = Reply(head + b"\r\n\r\n")
        assert 100 <= reply.status < 200, reply
        return reply

    def read_body(self, reply):
        reply.body = b"".join(self.payload(reply))
        return reply.body

    def payload(self, reply):
        """The payload's pieces as they arrive; raises Cut when the body ends early."""
        if reply.header("Transfer-Encoding") is not None:
            assert reply.header("Transfer-Encoding") == "chunked"
            assert reply.header("Content-Length") is None
            yield from self._chunks()
        elif reply.header("Content-Length") is not None:
            left = int(reply.header("Content-Length"))
            while left:
                if not self._buffer and not self._fill():
                    raise Cut(f"{left} bytes early")
                piece, self._buffer = self._buffer[:left], self._buffer[left:]
                left -= len(piece)
                yield piece
        else:
            assert reply.status in (204, 304), "a body without framing"

    def _chunks(self):
        while True:
            line = self._line()
            assert re.fullmatch(rb"[0-9a-fA-F]{1,16}", line), f"bad chunk head {line!r}"
            left = int(line, 16)
            if not left:
                assert self._line() == b"", "a trailer"
                return
            while left:
                if not self._buffer and not self._fill():
                    raise Cut("inside a chunk")
                piece, self._buffer = self._buffer[:left], self._buffer[left:]
                left -= len(piece)
                yield piece
            assert self._line() == b"", "no CRLF after a chunk"

    def events(self, reply):
        """The SSE events as they arrive, each with its empty line (LF endings)."""
        rest = b""
        for piece in self.payload(reply):
            rest += piece
            while b"\n\n" in rest:
                event, _, rest = rest.partition(b"\n\n")
                yield event + b"\n\n"
        if rest:
            yield rest

    def read_to_end(self):
        """All bytes until the proxy closes."""
        while self._fill():
            pass
        rest, self._buffer = self._buffer, b""
        return rest

    def unread(self):
        """What has arrived and was not read yet; does not wait."""
        self.socket.setblocking(False)
        try:
            while self._fill():
                pass
        except BlockingIOError:
            pass
        finally:
            self.socket.settimeout(self._deadline)
        return self._buffer

    def is_closed(self):
        """True once the proxy has closed; raises when it does not in time, or sends more."""
        assert not self._buffer, f"unread: {self._buffer!r}"
        assert not self._fill(), f"more came: {self._buffer!r}"
        return True

    def _line(self):
        while b"\r\n" not in self._buffer:
            if not self._fill():
                raise Cut("inside the framing")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _fill(self):
        try:
            piece = self.socket.recv(65536)
        except ConnectionError:
            return False
        self._buffer += piece
        return bool(piece)


def request_bytes(method, path, headers=(), body=b"", host="proxy.test"):
    lines = [f"{method} {path} HTTP/1.1"]
    names = [name.lower() for name, _ in headers]
    if "host" not in names:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in headers]
    if body and "content-length" not in names and "transfer-encoding" not in names:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chat_headers(token="token2", headers=()):
    authorization = [("Authorization", f"Bearer {token}")] if token else []
    names = [name.lower() for name, _ in headers]
    json_type = [] if "content-type" in names else [("Content-Type", "application/json")]
    return [*authorization, *json_type, *headers]


def chat_body(call=None, **members):
    """A chat completion's body: `call` as it is if bytes, else a small one for model `m` with
    `members`."""
    if isinstance(call, bytes):
        return call
    value = {
        "model": "m",
        "messages": [{"role": "user", "content": "Say hello."}],
        **(call or {}),
        **members,
    }
    return json.dumps(value).encode()
