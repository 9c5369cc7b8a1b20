"""What the proxy does while it dies: each scenario is a load on a life, from the start to a stop."""

import signal
import time

PROGRESS_SECONDS = 1.3  # the ledger records figures that advanced once a second


class Scenario:
    """`load(life)` runs while the process may die at any moment; after it comes SIGTERM. `template`: what
    the life begins with, by name. `cuts`: not every request comes to its end, even if nothing dies. `is_command`:
    the process that may die is no proxy, but a command on the ledger of a stopped one, and the load runs it."""

    def __init__(self, name, load, template="empty", database="sqlite", cuts=False, is_command=False):
        self.name, self.load, self.template, self.database, self.cuts = name, load, template, database, cuts
        self.is_command = is_command


def _run(life, *lists):
    life.crowd.run(life.proxy, *lists, is_over=life.is_over)


def _stream(life):
    _run(life, ["stream"] * 4, ["stream", "running", "silent"], ["running", "refused_stream", "stream"])


def _plain(life):
    _run(life, ["plain"] * 5, ["plain", "plain_silent", "plain"], ["plain", "refused", "plain"])


def _gone(life):
    _run(life, ["gone"] * 3, ["gone", "stream", "gone"], ["plain", "gone"])


def _outage(life):
    _run(life, ["plain"])  # the key is known now
    life.database.stop()
    try:
        _run(life, ["stream"] * 3, ["plain"] * 3)
    finally:
        life.database.resume()
    _run(life, ["stream", "plain"])


def _replay(life):
    _run(life, ["plain"] * 2, ["stream"] * 2)


def _roll(life):
    """More than a segment, and a stream that is open all the while, whose intent must go along."""
    life.crowd.start(life.proxy, ["slow"], ["slow"], is_over=life.is_over)
    _run(life, *[["stream", "plain", "silent", "stream"] * 3] * 4)
    life.crowd.release.set()


def _reload(life):
    life.crowd.start(life.proxy, ["stream"] * 5, ["plain"] * 5, is_over=life.is_over)
    for level in ("DEBUG", "INFO"):
        life.proxy.write_config(log_level=level)
        if not life.is_over():
            life.proxy.signal(signal.SIGHUP)
        time.sleep(0.003)


def _shutdown(life):
    """SIGTERM while streams are open; they may end."""
    life.crowd.start(life.proxy, ["slow"], ["stream"] * 6, ["plain"] * 6, is_over=life.is_over)
    time.sleep(0.004)
    life.signal_stop()
    life.crowd.release.set()


def _cut(life):
    """And a second one, which cuts them."""
    life.crowd.start(life.proxy, ["slow"], ["long"], ["stream"] * 6, ["plain"] * 6, is_over=life.is_over)
    time.sleep(0.004)
    life.signal_stop()
    time.sleep(0.002)
    life.signal_stop()


def _progress(life):
    """Long enough that running figures are recorded."""
    life.crowd.start(life.proxy, ["long"], ["long"], ["stream"], is_over=life.is_over)
    end = time.monotonic() + PROGRESS_SECONDS
    while time.monotonic() < end and not life.is_over():
        time.sleep(0.01)
    life.crowd.release.set()


def _lost_replies(life):
    """The database takes what it is sent, and its replies vanish: nothing may be there twice."""
    _run(life, ["plain"])
    life.database.wire.set("lose")
    _run(life, ["stream", "plain"] * 2)
    time.sleep(0.02)
    life.database.wire.set("pass")
    _run(life, ["stream", "plain"])


def _by_hand(life):
    """A person says what answers without a figure cost, while others come."""
    life.crowd.start(life.proxy, ["stream", "plain"] * 4, is_over=life.is_over)
    _run(life, ["silent"] * 2, ["plain_silent"])
    for request in life.without_figure():
        life.say_figure(request)


def _by_hand_stopped(life):
    life.say_figure(next(life.without_figure()))


def _ship(life):
    life.run_command("ledger", "ship", "--all", fine=1)  # the directory stays: some are unresolved


def _quiet(_):
    pass


ALL = [
    Scenario("stream", _stream),
    Scenario("plain", _plain),
    Scenario("gone", _gone),
    Scenario("outage", _outage),
    Scenario("replay", _replay, template="backlog"),
    Scenario("roll", _roll, template="backlog"),
    Scenario("reload", _reload),
    Scenario("shutdown", _shutdown),
    Scenario("cut", _cut, cuts=True),
    Scenario("progress", _progress),
    Scenario("start", _quiet, template="backlog"),
    Scenario("first", _quiet, template=None),
    Scenario("by-hand", _by_hand),
    Scenario("by-hand-stopped", _by_hand_stopped, template="backlog", is_command=True),
    Scenario("ship", _ship, template="backlog", is_command=True),
    Scenario("mongo", _stream, database="mongo"),
    Scenario("mongo-outage", _outage, database="mongo"),
    Scenario("mongo-replies", _lost_replies, database="mongo"),
]
BY_NAME = {scenario.name: scenario for scenario in ALL}
