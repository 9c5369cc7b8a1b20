"""Power cuts: the proxy's data_dir lies in a file system in an image file, and the image is copied at once, as a
whole, while the proxy serves (a clone on XFS). The copy is what the disk would hold if the power had gone then: what
the file system had not written yet is missing, and its journal must be replayed. A proxy is started on the copy, and
judged by what clients had been given before the copying began.

It models a machine that stops, on an honest disk. One that drops or reorders what it was not told to sync is
the simulated disk's (src/billing/simulated_disk.h).

The controls must lose: the same proxy with its syncs taken away, and SQLite in DELETE+FULL, whose unlinked journal
comes back and rolls a committed row back.
"""

import contextlib
import fcntl
import itertools
import os
import pathlib
import random
import shutil
import sqlite3
import subprocess
import threading
import time

from . import scenarios
from .life import copy_tree
from .oracle import LOST
from .worker import Result

_FICLONE = 0x40049409
XFS_BYTES = 2 << 30  # sparse
DISK_BYTES = {"ext4": 96 << 20, "xfs": 320 << 20, "btrfs": 128 << 20}
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q"],
    "btrfs": ["mkfs.btrfs", "-q"],
}
CUTS = 8  # of one life
PAUSE_SECONDS = 0.05  # between two at most
AGAIN_SHARE = 0.25  # of the copies of which a start is cut as well
AGAIN_SECONDS = 0.04  # from that start to its cut, at most
CONTROL_ROWS = 10_000

KINDS = ("stream", "plain", "running", "silent", "stream", "plain", "gone", "refused")


class Missing(Exception):
    """What the machine must have, in words."""


def run(*command):
    """A program of the system that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Missing(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def check_machine(filesystem):
    """Raises Missing with the line that says what is needed."""
    if os.geteuid() != 0:
        raise Missing("power cuts need root, to mount images: sudo make torture")
    packages = {"mkfs.xfs": "xfsprogs", "mkfs.ext4": "e2fsprogs", "mkfs.btrfs": "btrfs-progs", "mount": "mount"}
    for program in ("mkfs.xfs", MAKE[filesystem][0], "mount"):
        if shutil.which(program) is None:
            raise Missing(f"power cuts need {program}: apt-get install --no-install-recommends {packages[program]}")
    if not pathlib.Path("/dev/loop-control").exists():
        raise Missing("power cuts need loop devices (/dev/loop-control): modprobe loop, or a container that has them")


class Machine:
    """The disk of one worker. Its images lie on an XFS, which lies in a file."""

    def __init__(self, directory, mount_point, filesystem="ext4"):
        check_machine(filesystem)
        self._store = directory / "store"
        self._file = directory / "store.xfs"
        self._mount_point = mount_point
        self.filesystem = filesystem
        self._is_mounted = False
        self.disk = self._store / "disk"
        self._blank = self._store / "blank"
        self._store.mkdir()
        with open(self._file, "wb") as file:
            file.truncate(XFS_BYTES)
        run("mkfs.xfs", "-q", "-m", "reflink=1", self._file)
        run("mount", "-o", "loop", self._file, self._store)
        with open(self._blank, "wb") as file:
            file.truncate(DISK_BYTES[filesystem])
        run(*MAKE[filesystem], self._blank)

    def close(self):
        self.unmount()
        subprocess.run(["umount", "-l", self._store], check=False)
        self._file.unlink()

    def wipe(self):
        clone(self._blank, self.disk)

    def mount(self, image):
        run("mount", "-o", "loop", image, self._mount_point)
        self._is_mounted = True

    def unmount(self):
        if self._is_mounted:
            run("umount", self._mount_point)
            self._is_mounted = False

    def copy(self, name):
        return self._store / name


@contextlib.contextmanager
def machine(worker, filesystem):
    one = Machine(worker.directory, worker.life_directory / "data", filesystem)
    try:
        yield one
    finally:
        one.close()


def clone(source, target):
    """A copy of this moment, in one call."""
    with open(source, "rb") as one, open(target, "wb") as other:
        fcntl.ioctl(other, _FICLONE, one.fileno())


class Cut:
    """An image, and what its clients had been given before it was copied."""

    def __init__(self, machine, source, name, journal):
        before = {request.number: request for request in journal.copy()}
        self.image = machine.copy(name)
        clone(source, self.image)
        self.requests = journal.copy()
        for request in self.requests:
            known = before.get(request.number)
            request.began = known is not None and known.began
            request.whole = known is not None and known.whole


def run_life(worker, machine, number, seed, is_control=False, cuts=CUTS):
    """One life with its cuts: a Result for each."""
    rng = random.Random(f"{seed}-{number}")
    template = "empty" if rng.random() < 0.6 else "backlog"
    has_outage = rng.random() < 0.4
    scenario = scenarios.Scenario("power", None, template)
    row = "control: no sync" if is_control else f"power cut, {machine.filesystem}"
    results = []
    with worker.life(scenario) as life:
        images = []
        try:
            _move_in(life, machine)
            images = _serve(worker, life, machine, rng, has_outage, is_control, cuts)
            machine.unmount()
            for index, cut in enumerate(images):
                how = f"--power {number}:{seed} (cut {index + 1})"
                point = lambda cut=cut: (True, _judge(life, machine, cut, rng))  # noqa: E731
                results.append(worker.attempt(row, how, point, keeps=not is_control))
                machine.unmount()
                cut.image.unlink()
        finally:
            life.finish()
            machine.unmount()
    return results


def _move_in(life, machine):
    """What the life begins with goes to the disk."""
    aside = life.directory / "aside"
    life.data.rename(aside)
    life.data.mkdir()
    machine.wipe()
    machine.mount(machine.disk)
    copy_tree(aside, life.data)
    shutil.rmtree(aside)
    run("sync", "-f", life.data)


def _serve(worker, life, machine, rng, has_outage, is_control, cuts):
    """The load and the cuts; ends with a kill."""
    life.launch(worker.faults(life, do="nosync") if is_control else None)
    if not life.wait_ready():
        raise AssertionError(f"the start failed\n{life.tail()}")
    life.ask("plain")
    shift = rng.randrange(len(KINDS))
    lists = [itertools.cycle(KINDS[(shift + i) % len(KINDS) :] + KINDS[: (shift + i) % len(KINDS)]) for i in range(3)]
    life.crowd.start(life.proxy, *lists, itertools.cycle(["slow", "stream"]), is_over=life.is_over)
    images = []
    for index in range(cuts):
        time.sleep(rng.uniform(0, PAUSE_SECONDS))
        if has_outage and index == cuts // 2:
            life.database.stop()
        images.append(Cut(machine, machine.disk, f"copy{index}", life.crowd.journal))
        if rng.random() < 0.3:
            life.crowd.release.set()
            life.crowd.release.clear()
    life.kill()
    life.database.resume()
    return images


def _judge(life, machine, cut, rng):
    machine.mount(cut.image)
    life.crowd.begin(cut.requests)
    if rng.random() < AGAIN_SHARE:
        life.launch()
        time.sleep(rng.uniform(0, AGAIN_SECONDS))
        again = Cut(machine, cut.image, "again", life.crowd.journal)
        life.kill()
        machine.unmount()
        again.image.replace(cut.image)
        machine.mount(cut.image)
    return life.prove()


# The control of SQLite alone.


def run_sqlite(worker, machine, mode, number, seed):
    """A writer of single rows, cut once: a Result that says whether a committed row is gone."""
    rng = random.Random(f"{seed}-{mode}-{number}")
    mount_point = worker.life_directory / "data"
    mount_point.mkdir(parents=True, exist_ok=True)
    acknowledged, stop = [0], threading.Event()

    def write():
        connection = sqlite3.connect(mount_point / "control.db", isolation_level=None)
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE rows(number INTEGER PRIMARY KEY)")
        for row in range(1, CONTROL_ROWS):
            connection.execute("INSERT INTO rows VALUES (?)", (row,))
            acknowledged[0] = row
            if stop.wait(rng.uniform(0, 0.004)):
                break
        connection.close()

    machine.wipe()
    machine.mount(machine.disk)
    try:
        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        time.sleep(rng.uniform(0.03, 0.08))
        told = acknowledged[0]
        copy = machine.copy("control")
        clone(machine.disk, copy)
        stop.set()
        writer.join()
        machine.unmount()
        machine.mount(copy)
        connection = sqlite3.connect(mount_point / "control.db", isolation_level=None)
        found = connection.execute("SELECT count(*) FROM rows WHERE number <= ?", (told,)).fetchone()[0] if told else 0
        connection.close()
    finally:
        stop.set()
        machine.unmount()
    problems = [(LOST, f"{told} rows were committed, {found} are there")] if found < told else []
    return Result(f"control: {mode}", told > 0, problems)
