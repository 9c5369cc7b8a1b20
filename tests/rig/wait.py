"""Waiting for conditions with a deadline. Nothing else in the tests waits for time to pass."""

import os
import threading
import time

# Sanitizer builds and busy machines are slower; every deadline is multiplied by this.
SCALE = float(os.environ.get("TEST_TIME_SCALE", "1"))
DEADLINE = 15.0 * SCALE


class Late(AssertionError):
    """A condition did not come true in time."""


def wait_until(condition, what, seconds=None):
    """Polls until `condition()` is true and returns what it gave."""
    limit = time.monotonic() + (DEADLINE if seconds is None else seconds * SCALE)
    pause = 0.002
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > limit:
            raise Late(f"not in time: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def stays(condition, what, seconds):
    """Asserts that `condition()` holds for all of `seconds`: for claims that something does not
    happen."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        assert condition(), f"did not stay so: {what}"
        time.sleep(0.01)


class Gate:
    """Opened by the test, waited for by a backend's script, or the other way round."""

    def __init__(self, name="gate"):
        self.name = name
        self._event = threading.Event()

    def open(self):
        self._event.set()

    @property
    def is_open(self):
        return self._event.is_set()

    def wait(self):
        if not self._event.wait(DEADLINE):
            raise Late(f"not in time: {self.name}")


def run_all(functions, threads):
    """Calls every function, `threads` at a time; raises the first exception at the end."""
    functions = list(functions)
    position = iter(range(len(functions)))
    lock = threading.Lock()
    results = [None] * len(functions)
    failures = []

    def work():
        while True:
            with lock:
                index = next(position, None)
            if index is None:
                return
            try:
                results[index] = functions[index]()
            except BaseException as failure:  # noqa: BLE001 - told below
                failures.append(failure)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return results
