"""The backend and the clients of the torture runs: small requests, each of a kind, many at once."""

import threading
import time

from rig import sse
from rig.backend import Backend
from rig.client import Closed, Connection, Cut
from rig.wait import DEADLINE

from . import oracle

# Kinds of requests; in each figure the prompt count is the request's number.
#   plain, plain_silent     answered whole, with and without a figure
#   stream, silent          streamed, with and without a figure
#   slow                    streamed; its end waits until the load lets it go
#   running                 streamed by a backend that is `continuous`: running figures
#   long                    the same; its end waits as that of a slow one
#   gone                    streamed; its client leaves with a RST after the first event
#   refused, refused_stream the backend answers 500
ERROR_EVENT = b'data: {"error"'  # the proxy's own, before a cut
SLOW_SECONDS = 5.0  # a slow stream goes on by itself after this


class Crowd:
    """A scripted backend, and clients that ask it through a proxy."""

    def __init__(self):
        self.backend = Backend()
        self.backend.script = self._answer
        self.journal = oracle.Journal()
        self.release = threading.Event()  # slow streams end
        self._clients = []

    def begin(self, before=()):
        """A new life: another journal, which begins with the requests `before`."""
        self.journal = oracle.Journal(before)
        self.release = threading.Event()
        self.backend.requests.clear()
        self.backend._threads[:] = [thread for thread in self.backend._threads if thread.is_alive()]
        return self.journal

    def close(self):
        self.release.set()
        self.backend.close()

    # The backend.

    def _answer(self, exchange):
        call = exchange.request.json()
        request = self.journal.requests.get(call["seed"])
        if request is None:  # of a life that is over
            exchange.close()
            return
        request.ids.add(exchange.request.header("X-Request-Id").removesuffix("-2"))
        usage = sse.usage(request.number, oracle.completion_of(request.number))
        if request.kind.startswith("refused"):
            exchange.reply(500, {"error": {"message": "no", "type": "server_error"}})
        elif request.kind == "plain":
            exchange.reply(body=sse.completion(usage=usage))
        elif request.kind == "plain_silent":
            exchange.reply(body=sse.completion())
        else:
            self._stream(exchange, request, usage)
        request.ended = True

    def _stream(self, exchange, request, usage):
        exchange.open()
        for step, word in enumerate(("a", "b", "c"), 1):
            extra = {}
            if request.kind in oracle.CONTINUOUS:
                figure = oracle.completion_of(request.number) * step // oracle.RUNNING_STEPS
                extra["usage"] = sse.usage(request.number, figure)
            exchange.write(sse.chunk(word, **extra))
            if step == 2 and request.kind in ("slow", "long"):
                self.release.wait(SLOW_SECONDS)
        exchange.write(sse.chunk(finish="stop"))
        if request.kind != "silent":
            exchange.write(sse.chunk(choices=[], usage=usage))
        exchange.write(sse.DONE)
        exchange.end()

    # Clients.

    def run(self, proxy, *lists, is_over=lambda: False):
        """One client for each list of kinds, at once, each asking one thing after the other; to their end."""
        for client in self.start(proxy, *lists, is_over=is_over):
            client.join()

    def start(self, proxy, *lists, is_over=lambda: False):
        """As run(), without waiting. A list may be endless: a client ends with the process it asks."""
        clients = [
            threading.Thread(target=self._client, args=(proxy, kinds, is_over, self.journal), daemon=True)
            for kinds in lists
        ]
        self._clients = [client for client in self._clients if client.is_alive()] + clients
        for client in clients:
            client.start()
        return clients

    def join(self):
        """Once the process is over, and before there is another one: no client asks two."""
        self.release.set()
        for client in self._clients:
            client.join(DEADLINE * 2)
            assert not client.is_alive(), "a client did not end"
        self.release.clear()

    def _client(self, proxy, kinds, is_over, journal):
        connection = None
        for kind in kinds:
            request = journal.add(kind)
            try:
                connection = connection or Connection(proxy.port)
                stays = ask(connection, request)
            except (Cut, Closed, OSError) as failure:
                request.error = repr(failure)
                stays = False
                if is_over() or isinstance(failure, ConnectionRefusedError):
                    break
            if not stays and connection:
                connection.close()
                connection = None
        if connection:
            connection.close()


def ask(connection, request):
    """Sends it, reads the answer as far as its kind does. False: the connection is not used again."""
    request.sent = time.time()
    members = {"stream": True} if request.is_streamed else {}
    connection.start_post(model=oracle.model_of(request.kind), seed=request.number, **members)
    reply = connection.read_head()
    request.id = reply.id if reply.values("X-Request-Id") else None
    request.status = reply.status
    if reply.status != 200:
        connection.read_body(reply)
        return reply.header("Connection") != "close"
    if not request.is_streamed:
        request.began = True
        request.whole = True  # I2: of a plain answer everything waits for its outcome
        connection.read_body(reply)
    for event in connection.events(reply) if request.is_streamed else ():
        request.began |= not event.startswith(ERROR_EVENT)
        if event == sse.DONE:
            request.whole = True
        if request.kind == "gone":
            connection.reset()
            return False
    return reply.header("Connection") != "close"
