"""Runs everything within a budget and prints the table. tools/torture calls it; --help says how."""

import argparse
import collections
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback

from . import devices, failures, faults, kills, power, scenarios
from .oracle import DOUBLE, LOST, WRONG
from .worker import Worker, fast_directory

ROOT = faults.ROOT
SECONDS = 1200
PROCESSES = 2
WAITING = {"fault": 4}  # so many times as many workers in a phase that mostly waits for the proxy to try again
# Shares of the budget. What ends early leaves its rest to the next.
SHARES = {"kill": 0.32, "fault": 0.34, "device": 0.04, "power": 0.18, "control": 0.03, "simulation": 0.09}
CONTROL_LIVES = 3
CONTROL_CUTS = 15
SIMULATION_TRIAL = 20  # seeds, to know how long one takes
PROBLEMS_SHOWN = 3


class Row:
    def __init__(self):
        self.points = self.tried = self.hit = 0
        self.words = collections.Counter()


class Table:
    """A row for each name, in the order they came."""

    def __init__(self):
        self.rows = collections.defaultdict(Row)
        self.failed = []

    def add(self, result):
        row = self.rows[result.name]
        row.tried += 1
        row.hit += result.is_hit
        for word in {word for word, _ in result.problems}:  # of points, not of bills
            row.words[word] += 1
        if result.problems and not result.name.startswith("control"):
            self.failed.append(result)
            print(f"FAILED {result.name}: tools/torture {result.how}\n  kept: {result.kept}", flush=True)
            for word, text in result.problems[:PROBLEMS_SHOWN]:
                print(f"  {word}: {text}", flush=True)

    def text(self):
        lines = [f"{'':24}{'points':>8}{'tried':>8}{'in time':>8}{'lost':>7}{'double':>7}{'wrong':>7}"]
        total = Row()
        for name, row in self.rows.items():
            lines.append(_line(name, row))
            if name.startswith("control"):
                continue
            total.points += row.points
            total.tried += row.tried
            total.hit += row.hit
            total.words += row.words
        lines.append(_line("all", total))
        return "\n".join(lines)


def _line(name, row):
    points = row.points or ""
    words = "".join(f"{row.words[word]:>7}" for word in (LOST, DOUBLE, WRONG))
    return f"{name:24}{points:>8}{row.tried:>8}{row.hit:>8}{words}"


# Workers. Each yields Results until its time is over, and tells of points as (name, how many there are).


def _sweep(worker, module, names, index, count, seed, deadline):
    """Its share of the points of all scenarios, drawn by seed; again with other seeds when all were tried."""
    all_points = []
    for name in names:
        order = module.count(worker, name)  # their numbers differ a little from run to run
        mine = [(name, number, how) for number, how in module.points(order) if number % count == index]
        all_points += mine
        row = collections.Counter(module.row(name, how) for name, _, how in mine)
        yield from row.items()
    rng = random.Random(f"{seed}-{index}")
    for round_number in range(sys.maxsize):
        rng.shuffle(all_points)
        for name, number, how in all_points:
            if time.monotonic() > deadline:
                return
            yield module.run(worker, name, number, how, rng.randrange(10**6))


def kill_sweep(worker, options, index, count, deadline):
    names = options.scenarios or list(scenarios.BY_NAME)
    yield from _sweep(worker, kills, names, index, count, options.seed, deadline)


def fault_sweep(worker, options, index, count, deadline):
    names = list(failures.SCENARIOS)
    yield from _sweep(worker, failures, names, index, count, options.seed, deadline)


def power_cuts(worker, options, index, count, deadline):
    with power.machine(worker, options.filesystem) as machine:
        number = index
        while time.monotonic() < deadline:
            yield from power.run_life(worker, machine, number, options.seed)
            number += count


def device_lives(worker, options, index, count, deadline):
    number = index
    while time.monotonic() < deadline:
        for way in devices.WAYS:
            yield devices.run(worker, way, number, options.seed)
        number += count


def controls(worker, options, index, count, deadline):
    """Those of worker 0 alone: the bills that they lose are what is wanted."""
    if index != 0:
        return
    with power.machine(worker, options.filesystem) as machine:
        for number in range(CONTROL_LIVES):
            yield from power.run_life(worker, machine, number, options.seed, is_control=True)
        for mode in ("DELETE", "TRUNCATE"):
            for number in range(CONTROL_CUTS):
                yield power.run_sqlite(worker, machine, mode, number, options.seed)


PHASES = {"kill": kill_sweep, "fault": fault_sweep, "device": device_lives, "power": power_cuts, "control": controls}


def _leave(*_):
    """SIGTERM: what is mounted and running must go first."""
    raise KeyboardInterrupt


def _work(phase, options, index, count, deadline, queue):
    signal.signal(signal.SIGTERM, _leave)
    try:
        directory = pathlib.Path(options.directory) / f"{phase}{index}"
        worker = Worker(directory, options.failures)
        try:
            for item in PHASES[phase](worker, options, index, count, deadline):
                queue.put(item)
        finally:
            worker.close()
        queue.put(None)
    except BaseException as failure:  # noqa: BLE001 - told by the parent
        text = str(failure) if isinstance(failure, power.Missing) else traceback.format_exc()
        queue.put(RuntimeError(f"{phase}: {text}"))


def run_phase(phase, options, deadline, table):
    """Raises RuntimeError when a worker could not go on."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    count = options.processes * WAITING.get(phase, 1)
    workers = [
        context.Process(target=_work, args=(phase, options, index, count, deadline, queue))
        for index in range(count)
    ]
    for worker in workers:
        worker.start()
    left = len(workers)
    failure = None
    try:
        while left:
            item = queue.get()
            if item is None:
                left -= 1
            elif isinstance(item, Exception):
                failure, left = failure or item, left - 1
            elif isinstance(item, tuple):
                table.rows[item[0]].points += item[1]
            else:
                table.add(item)
    finally:
        for worker in workers:
            if left:
                worker.terminate()
            worker.join()
    if failure:
        raise failure


def judge_controls(table):
    """Sentences about controls that did not do what they must."""
    for name in ("control: no sync", "control: DELETE"):
        if not table.rows[name].words[LOST]:
            yield f"{name} lost nothing: this rig would not see a loss"
    row = table.rows["control: TRUNCATE"]
    if row.words[LOST]:
        yield "SQLite in TRUNCATE+FULL lost rows"


# The simulation of ledger and shipper over a simulated disk, in the unit tests' program.


def _simulate(program, seeds):
    done = subprocess.run(
        [program, "--gtest_filter=LedgerSimulation.N*"],
        env={**os.environ, "SIMULATION_SEEDS": str(seeds)}, capture_output=True, text=True,
    )  # fmt: skip
    passed = re.search(r"\[  PASSED  \] (\d+) tests?\.", done.stdout)
    return done.returncode == 0 and passed is not None and int(passed[1]) > 0, done.stdout


def run_simulation(options, deadline, table):
    program = pathlib.Path(options.binary).with_name("billing_test")
    if not program.exists():
        raise RuntimeError(f"simulation: {program} is missing; run: tools/build ci billing_test")
    begin = time.monotonic()
    passed, output = _simulate(program, SIMULATION_TRIAL)
    each = (time.monotonic() - begin) / SIMULATION_TRIAL
    seeds = SIMULATION_TRIAL
    if passed and time.monotonic() < deadline:
        seeds = max(SIMULATION_TRIAL, int((deadline - time.monotonic()) / each * 0.9))
        passed, output = _simulate(program, seeds)
    row = table.rows["simulation, seeds of 3"]
    row.tried = row.hit = seeds
    if not passed:
        row.words[WRONG] += 1
        again = f"SIMULATION_SEEDS={seeds} {program} --gtest_filter='LedgerSimulation.*'"
        print(f"FAILED simulation: {again}\n{output[-4000:]}")
    return passed


# One point alone.


def run_one(options):
    worker = Worker(pathlib.Path(options.directory) / "one", options.failures)
    try:
        if options.kill or options.fault:
            module = kills if options.kill else failures
            name, number, how, seed = (options.kill or options.fault).split(":")
            results = [module.run(worker, name, int(number), how, int(seed)) for _ in range(options.times)]
        elif options.device:
            way, number, seed = options.device.split(":")
            results = [devices.run(worker, way, int(number), int(seed)) for _ in range(options.times)]
        else:
            number, seed = map(int, options.power.split(":"))
            with power.machine(worker, options.filesystem) as machine:
                results = [r for _ in range(options.times) for r in power.run_life(worker, machine, number, seed)]
    finally:
        worker.close()
    table = Table()
    for result in results:
        table.add(result)
    print(table.text())
    return 1 if table.failed else 0


def parse(arguments):
    parser = argparse.ArgumentParser(prog="tools/torture", description=__doc__.splitlines()[0])
    parser.add_argument("seconds", nargs="?", type=int, default=SECONDS, help=f"budget in all (default {SECONDS})")
    parser.add_argument("--seed", type=int, default=1, help="draws the points, and what happens at them")
    parser.add_argument("--only", default=",".join(SHARES), help="phases, with commas")
    parser.add_argument("--scenarios", type=lambda text: text.split(","), help="of the kills, with commas")
    parser.add_argument("--filesystem", default="ext4", choices=sorted(power.MAKE), help="of the power cuts")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="workers at once")
    parser.add_argument("--directory", help="work here; default: in /dev/shm, or build/ where that is missing")
    parser.add_argument("--times", type=int, default=1, help="how often, of one point")
    parser.add_argument("--kill", metavar="SCENARIO:N:HOW:SEED", help="one point alone")
    parser.add_argument("--fault", metavar="SCENARIO:N:WAY:SEED", help="one point alone")
    parser.add_argument("--device", metavar="WAY:LIFE:SEED", help="one life alone")
    parser.add_argument("--power", metavar="LIFE:SEED", help="one life with its cuts alone")
    options = parser.parse_args(arguments)
    options.directory = options.directory or str(fast_directory(ROOT / "build"))
    options.failures = str(ROOT / "build/torture/failures")
    options.binary = os.environ.setdefault("LLMPROXY_BINARY", str(ROOT / "build/release/llm-billing-proxy"))
    return options


def run_all(options):
    table = Table()
    wanted = options.only.split(",")
    shares = {name: share for name, share in SHARES.items() if name in wanted}
    begin = time.monotonic()
    complaints = []
    while shares:
        now = time.monotonic()
        left = max(begin + options.seconds - now, 0)  # what one phase took too much, all others give
        due = left / sum(shares.values())
        name, share = next(iter(shares.items()))
        del shares[name]
        try:
            if name == "simulation":
                run_simulation(options, now + due * share, table)
            else:
                run_phase(name, options, now + due * share, table)
        except RuntimeError as failure:
            complaints.append(str(failure))
            print(f"*** {failure}", flush=True)
    if "control" in wanted:
        complaints += judge_controls(table)
    print(f"\nseed {options.seed}, {time.monotonic() - begin:.0f} s\n{table.text()}")
    for complaint in complaints:
        print(f"*** {complaint}")
    bad = sum(any(row.words.values()) for name, row in table.rows.items() if not name.startswith("control"))
    return 1 if bad or complaints else 0


def main(arguments=None):
    options = parse(arguments)
    signal.signal(signal.SIGTERM, _leave)
    try:
        if options.kill or options.fault or options.device or options.power:
            return run_one(options)
        return run_all(options)
    finally:
        shutil.rmtree(options.directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
