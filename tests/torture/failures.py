"""Every file call of a run fails, in every way: once, for a while and for ever, short and torn, on a full disk;
a write that hangs; and a start that fails again.

What clients may see meanwhile: 200, or 503 for what could not be recorded. What they were given stays billed.
"""

import errno
import random
import signal

from . import faults
from .life import Problem, merge
from .oracle import FREE, WRONG
from .scenarios import BY_NAME, Scenario
from rig.wait import Late, wait_until

KINDS = "wstnor"
WHILE_CALLS = 3  # of a fault that heals by itself
HANG_US = 400_000
COMMIT_TIMEOUT = 0.1  # while a write hangs
HEAL_SECONDS = 8  # until there is work again: a probe a second, and what waited
STAYS_SECONDS = 0.4  # a load on a fault that stays
KILL_SHARE, KILL_SHARE_STAYS = 0.5, 0.95  # ended by SIGKILL, not by SIGTERM
RESTART_SHARE = 0.2  # of the points whose next start suffers a fault as well
RESTART_CALLS = 60
EXITS = {0, 69, 70, 74, 75, 78}  # sysexits.h: with a line that says why

# (name, what the library does, error, how long). Short writes and tears are for writes alone.
WAYS = {
    "eio-once": {"do": "fail", "errno": errno.EIO},
    "eio-while": {"do": "fail", "errno": errno.EIO, "calls": WHILE_CALLS},
    "eio-ever": {"do": "fail", "errno": errno.EIO, "calls": faults.FOREVER},
    "full-once": {"do": "fail", "errno": errno.ENOSPC},
    "full-ever": {"do": "fail", "errno": errno.ENOSPC, "calls": faults.FOREVER},
    "short-once": {"do": "short"},
    "short-ever": {"do": "short", "calls": faults.FOREVER},
    "torn-once": {"do": "torn", "errno": errno.EIO},
    "torn-ever": {"do": "torn", "errno": errno.EIO, "calls": faults.FOREVER},
    "hang": {"do": "hang", "us": HANG_US},
}
FITTING = {
    "w": list(WAYS),
    "s": ["eio-once", "eio-while", "eio-ever", "hang"],
    "t": ["eio-once", "eio-while", "full-once", "full-ever"],
    "n": ["eio-once", "eio-while", "full-once", "full-ever"],
    "o": ["eio-once", "eio-while"],
    "r": ["eio-once", "eio-while"],
}


def _mixed(life):
    lists = ["stream", "plain", "silent"], ["running", "plain", "stream"], ["plain", "gone"]
    life.crowd.run(life.proxy, *lists, is_over=life.is_over)


# Small ones: each call of them comes to harm in every way.
SCENARIOS = {
    "mixed": Scenario("mixed", _mixed),
    "backlog": Scenario("backlog", _mixed, template="backlog"),
    "roll": BY_NAME["roll"],
}
# A fault that stays must not hold the rig up.
CONFIG = {"shutdown_timeout": 0.2, "flush_timeout": 0.2, "ledger": {"commit_timeout": 0.3}}


def count(worker, name):
    with worker.life(SCENARIOS[name]) as life:
        counting = worker.faults(life, kinds=KINDS)
        life.launch(counting)
        life.wait_ready()
        SCENARIOS[name].load(life)
        life.stop()
        return counting.order


def points(order):
    for number, kind in enumerate(order, 1):
        for way in FITTING[kind]:
            yield number, way


def row(name, how):
    return f"fault {how}"


def run(worker, name, number, way, seed):
    again = f"--fault {name}:{number}:{way}:{seed}"
    return worker.attempt(
        row(name, way), again, lambda: _suffer(worker, SCENARIOS[name], number, way, random.Random(seed))
    )


def _words(number, way, rng):
    words = {"kinds": KINDS, "at": number, "part": rng.randrange(256), **WAYS[way]}
    calls = words.pop("calls", 1)
    return {**words, "until": min(number + calls - 1, faults.FOREVER)}


def _suffer(worker, scenario, number, way, rng):
    config = {"ledger": {"commit_timeout": COMMIT_TIMEOUT}} if way == "hang" else {}
    stays = WAYS[way].get("calls") == faults.FOREVER
    with worker.life(scenario, **merge(CONFIG, config)) as life:
        fault = worker.faults(life, **_words(number, way, rng))
        life.launch(fault)
        if life.wait_ready():
            _work(life, scenario, heals=not stays)
        kill_share = KILL_SHARE_STAYS if stays else KILL_SHARE
        status = _end(life, kill_share if fault.hits else 0, rng)  # a number of the stop's calls is for the stop
        refused = {r.number for r in life.crowd.journal.copy() if r.status == 503} if status == 0 else set()
        is_hit = fault.hits > 0
        while rng.random() < RESTART_SHARE:
            life.launch(worker.faults(life, **_words(rng.randint(1, RESTART_CALLS), rng.choice(list(WAYS)), rng)))
            life.wait_ready()
            _end(life, kill_share, rng)
        life.proxy.config["shutdown_timeout"] = life.proxy.config["flush_timeout"] = 10
        problems = [*_statuses(life), *life.prove()]
        return is_hit, problems + _billed_after_all(life, refused)


def _work(life, scenario, heals):
    """The load; where the fault passes, work goes on after it without a start."""
    if heals:
        scenario.load(life)
        life.crowd.release.set()
        try:
            wait_until(lambda: life.is_over() or life.ask("plain"), "work after the fault", HEAL_SECONDS)
        except Late:
            raise Problem(f"no work after a fault that passed\n{life.tail()}") from None
        return
    # What waits for the disk waits for ever, so the load is left when the proxy is.
    for client in life.crowd.start(life.proxy, *_LISTS, is_over=life.is_over):
        client.join(STAYS_SECONDS / len(_LISTS))


_LISTS = (["stream", "plain"] * 2, ["plain", "running", "silent"], ["gone", "plain", "slow"])


def _end(life, kill_share, rng):
    """By SIGTERM or SIGKILL; its status. While the disk fails for ever a stop waits for its sessions, 10 s."""
    life.crowd.release.set()
    if rng.random() < kill_share and not life.is_over():
        life.kill()
    status = life.terminate()
    if status not in EXITS | {-signal.SIGKILL}:
        raise Problem(f"the proxy ended with {status}\n{life.tail()}")
    if status not in (0, -signal.SIGKILL) and not life.proxy.lines("ERROR"):
        raise Problem(f"the proxy ended with {status} and did not say why\n{life.tail()}")
    return status


def _billed_after_all(life, refused):
    """What was answered with 503 is free, if the process could say so before it ended."""
    events = [event for event in life.database.events() if event["prompt_n"] in refused]
    return [(WRONG, f"answered with 503, and billed: {event}") for event in events]


def _statuses(life):
    for request in life.crowd.journal.copy():
        allowed = {None, 200, 503} | ({500} if request.kind in FREE else set())
        if request.status not in allowed:
            yield WRONG, f"status {request.status}: {request}"
