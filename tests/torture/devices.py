"""Real devices that are full or fail, instead of a library that says so: the data_dir lies in a file system in an
image, and the image on a tmpfs that is smaller than it. When the tmpfs is full, the device under the file system
fails: writes that it had promised room for come back with EIO, and the next sync may say that all is well. A small
image is a full disk.

A proxy works until it must refuse, is killed or stopped, the device gets its room, and what was given to clients is
judged.
"""

import itertools
import pathlib
import random
import shutil
import subprocess
import time

from . import power
from .life import copy_tree
from .oracle import WRONG
from .scenarios import Scenario

IMAGE_BYTES = 64 << 20
SMALL_BYTES = 12 << 20  # full with the ledger's spare segments and some more
ROOM_BYTES = 512 << 20
STARVE_TRIES = 50
LOAD_SECONDS = 3.0  # until a request is refused, at most
AFTER_SECONDS = 0.4  # of the load, once it is
FILLER_LEFT = 600 << 10  # bytes on the file system, when the load begins
KINDS = ("stream", "plain", "running", "silent")
CONFIG = {"shutdown_timeout": 0.2, "flush_timeout": 0.2, "ledger": {"commit_timeout": 0.3}}
WAYS = ("failing", "full")


class Device:
    """An ext4 on a loop device, whose backing tmpfs has little more room than the file system takes now."""

    def __init__(self, directory, mount_point):
        power.check_machine("ext4")
        self._store = pathlib.Path(directory) / "tmpfs"
        self._store.mkdir(exist_ok=True)
        self._mount_point = mount_point
        power.run("mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "tmpfs", self._store)
        self._image = self._store / "image"
        self._filler = mount_point / "filler"

    def mount(self, image_bytes):
        with open(self._image, "wb") as file:
            file.truncate(image_bytes)
        power.run(*power.MAKE["ext4"], "-m", "0", self._image)
        power.run("mount", "-o", "loop", self._image, self._mount_point)

    def starve(self, spare):
        """The device fails once it needs `spare` bytes more."""
        for _ in range(STARVE_TRIES):  # it grows meanwhile, and a tmpfs below what it holds is refused
            used = self._image.stat().st_blocks * 512
            done = subprocess.run(["mount", "-o", f"remount,size={used + spare}", self._store], capture_output=True)
            if done.returncode == 0:
                return
            spare += 1 << 16
        raise AssertionError(f"the tmpfs cannot be made smaller: {done.stderr}")

    def feed(self):
        power.run("mount", "-o", f"remount,size={ROOM_BYTES}", self._store)

    def fill(self, left):
        """A file takes all but `left` bytes of the file system."""
        free = shutil.disk_usage(self._mount_point).free
        with open(self._filler, "wb") as file:
            for _ in range(max(0, free - left) >> 16):
                file.write(bytes(1 << 16))

    def empty(self):
        self._filler.unlink(missing_ok=True)

    def remount(self):
        """What failed stays in the file system's mind until then: it may have gone read-only."""
        power.run("umount", self._mount_point)
        power.run("mount", "-o", "loop", self._image, self._mount_point)

    def close(self):
        for mounted in (self._mount_point, self._store):
            subprocess.run(["umount", "-l", mounted], check=False, capture_output=True)


def run(worker, way, number, seed):
    """One life on a device that is `full` or `failing`."""
    how = f"--device {way}:{number}:{seed}"
    return worker.attempt(f"device {way}", how, lambda: _live(worker, way, random.Random(f"{seed}-{way}-{number}")))


def _live(worker, way, rng):
    template = rng.choice(["empty", "backlog"])
    with worker.life(Scenario("device", None, template), **CONFIG) as life:
        device = None
        try:
            device = _move_in(worker, life, way)
            life.launch()
            if not life.wait_ready():
                raise AssertionError(f"the start failed\n{life.tail()}")
            life.ask("plain")
            if way == "full":
                device.fill(rng.randrange(FILLER_LEFT))
            else:
                device.starve(rng.randrange(64 << 10))
            is_hit = _work(life)
            life.kill() if rng.random() < 0.6 else life.terminate()
            device.feed()
            device.remount()
            device.empty()
            life.proxy.config.update(shutdown_timeout=10, flush_timeout=10)
            statuses = [(WRONG, f"status: {r}") for r in life.crowd.journal.copy() if r.status not in (None, 200, 503)]
            return is_hit, [*statuses, *life.prove()]
        finally:
            life.finish()
            if device:
                device.close()


def _move_in(worker, life, way):
    aside = life.directory / "aside"
    life.data.rename(aside)
    life.data.mkdir()
    device = Device(worker.directory, life.data)
    device.mount(SMALL_BYTES if way == "full" else IMAGE_BYTES)
    copy_tree(aside, life.data)
    shutil.rmtree(aside)
    power.run("sync", "-f", life.data)
    return device


def _work(life):
    """Until a request is refused, and a little longer. Whether one was."""
    life.crowd.start(life.proxy, *[itertools.cycle(KINDS[i:] + KINDS[:i]) for i in range(3)], is_over=life.is_over)
    end = time.monotonic() + LOAD_SECONDS
    while time.monotonic() < end:
        if any(request.status == 503 for request in life.crowd.journal.copy()):
            time.sleep(AFTER_SECONDS)
            return True
        time.sleep(0.01)
    return False
