"""A TCP relay that stands between the proxy and its database, so that a test can take the network
away: refuse new connections, cut open ones, hold bytes back, or lose replies that were already
made."""

import socket
import struct
import threading

import bson

from .wait import DEADLINE

_OP_MSG = 2013


class Wire:
    def __init__(self, port):
        self._target = ("127.0.0.1", port)
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self.port = self._listener.getsockname()[1]
        self.mode = "pass"
        self.held = 0  # pieces that wait in mode `hold`
        self.lost = 0  # bytes of replies that vanished in mode `lose`
        self._asked = []  # of each connection, all that went towards the database
        self._changed = threading.Condition()
        self._pairs = set()
        self._closing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode):
        """`pass` and `flow`: all moves; `hold`: nothing does; `lose`: replies vanish; `refuse`:
        connections end at once. `pass` and `refuse` also cut what is open, as a network that comes
        and goes does."""
        with self._changed:
            self.mode = mode
            self._changed.notify_all()
            if mode in ("pass", "refuse"):
                for pair in list(self._pairs):
                    _cut(pair)

    def count(self, word):
        """How often `word` went towards the database."""
        return sum(bytes(asked).count(word) for asked in self._asked)

    def commands(self):
        """The documents of all OP_MSG commands that went towards the database (one section of kind
        0; the documents of a kind 1 section are put under its name)."""
        return [command for asked in list(self._asked) for command in _commands(bytes(asked))]

    def close(self):
        self._closing = True
        self.set("refuse")
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()

    def _accept(self):
        while not self._closing:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.mode == "refuse":
                _cut((near,))
                continue
            try:
                far = socket.create_connection(self._target, timeout=DEADLINE)
            except OSError:
                _cut((near,))
                continue
            near.settimeout(None)
            far.settimeout(None)
            pair = (near, far)
            asked = bytearray()
            with self._changed:
                self._pairs.add(pair)
                self._asked.append(asked)
            for source, sink, record in ((near, far, asked), (far, near, None)):
                threading.Thread(
                    target=self._pump, args=(pair, source, sink, record), daemon=True
                ).start()

    def _pump(self, pair, source, sink, record):
        try:
            while piece := source.recv(65536):
                with self._changed:
                    if record is not None:
                        record += piece
                    if self.mode == "hold":
                        self.held += 1
                    self._changed.wait_for(lambda: self.mode != "hold")
                if record is None and self.mode == "lose":
                    self.lost += len(piece)
                    continue
                sink.sendall(piece)
        except OSError:
            pass
        with self._changed:
            self._pairs.discard(pair)
        _cut(pair)


def _commands(stream):
    while len(stream) >= 16:
        length, _, _, operation = struct.unpack_from("<iiii", stream)
        message, stream = stream[16:length], stream[length:]
        if operation != _OP_MSG or len(message) < length - 16:
            continue
        (flags,) = struct.unpack_from("<I", message)
        sections = message[4 : -4 if flags & 1 else None]
        command = {}
        while sections:
            kind, sections = sections[0], sections[1:]
            (size,) = struct.unpack_from("<i", sections)
            section, sections = sections[:size], sections[size:]
            if kind == 0:
                command.update(bson.decode(section))
            else:
                name, _, documents = section[4:].partition(b"\0")
                command[name.decode()] = bson.decode_all(documents)
        yield command


def _cut(sockets):
    for one in sockets:
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        one.close()
