"""kill -9 at every call of the ledger's and the shipper's path, and again during the start that follows."""

import random
import signal

from . import faults
from .life import Problem
from .scenarios import BY_NAME

RESTART_SHARE = 0.35  # of the points whose next start is killed too; of those, again so many
AWAY_SHARE = 0.2  # of these starts, in which the database does not answer
RESTART_CALLS = 90  # a start that is killed dies at one of so many calls; a later one is a stop's
TWICE_SHARE = 0.2  # of the points after which a start with nothing to do is looked at
LATE_US = 4000  # kill-late comes within so many microseconds


def count(worker, name):
    """The calls of a run that nothing happens to, as their kinds in order; what is judged is told."""
    scenario = BY_NAME[name]
    with worker.life(scenario) as life:
        counting = worker.faults(life, kinds=faults.CHANGES)
        if not life.launch_for(scenario, counting):
            raise AssertionError(f"{name}: the start failed\n{life.tail()}")
        scenario.load(life)
        if scenario.is_command:  # what it changed is shipped by a proxy
            life.start()
        life.stop()
        problems = life.judge(all_lived=not scenario.cuts)
        assert not problems, f"{name}, and nothing died: {problems}\n{life.tail()}"
        return counting.order


def points(order):
    """(N, how) of every kill in a run of these calls."""
    for number, kind in enumerate(order, 1):
        yield number, "kill-before"
        yield number, "kill-after"
        yield number, "kill-late"
        if kind == "w":
            yield number, "kill-torn"


def row(name, how):
    return name


def run(worker, name, number, how, seed):
    """One point."""
    again = f"--kill {name}:{number}:{how}:{seed}"
    return worker.attempt(name, again, lambda: _kill(worker, BY_NAME[name], number, how, random.Random(seed)))


def _kill(worker, scenario, number, how, rng):
    with worker.life(scenario) as life:
        first = _harm(worker, life, number, how, rng)
        if life.launch_for(scenario, first):
            scenario.load(life)
        if not scenario.is_command:
            _end(life)
        is_hit = first.hits > 0
        while rng.random() < RESTART_SHARE:
            _kill_start(worker, life, rng)
        return is_hit, life.prove(twice=rng.random() < TWICE_SHARE)


def _harm(worker, life, number, how, rng):
    part, late = rng.randrange(256), rng.randrange(LATE_US)
    return worker.faults(life, kinds=faults.CHANGES, at=number, do=how, part=part, us=late)


def _kill_start(worker, life, rng):
    """A start that dies on its way, or in the stop that follows; with a database that is away it must die."""
    how = rng.choice(["kill-before", "kill-after", "kill-torn", "kill-late"])
    harm = _harm(worker, life, rng.randint(1, RESTART_CALLS), how, rng)
    if rng.random() < AWAY_SHARE:
        life.database.stop()
        life.launch(harm)
        life.wait_ready()
        life.kill()
        life.database.resume()
        return
    life.launch(harm)
    life.wait_ready()
    _end(life)


def _end(life):
    """It was killed, or the number lay beyond all its calls: then it stops as it should."""
    life.crowd.release.set()
    status = life.terminate()
    if status not in (0, -signal.SIGKILL):
        raise Problem(f"the proxy ended with {status}\n{life.tail()}")
