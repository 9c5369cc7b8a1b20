"""The library of faults.c: builds it, says what it is to do, reads what it saw."""

import os
import pathlib
import struct
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = pathlib.Path(__file__).with_name("faults.c")

KINDS = "wstnorl"  # as in faults.c
CHANGES = "wstn"  # what a kill can fall between: reads and opens leave the disk as it is
_HEAD = struct.Struct(f"{2 + len(KINDS)}Q")
FOREVER = 2**60


def build():
    """The library's path; compiled when its source is newer."""
    library = ROOT / "build/torture/faults.so"
    if not library.exists() or library.stat().st_mtime < SOURCE.stat().st_mtime:
        library.parent.mkdir(parents=True, exist_ok=True)
        fresh = library.with_suffix(f".{os.getpid()}")
        flags = ["-O2", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
        subprocess.run(["cc", *flags, "-o", fresh, SOURCE], check=True)
        fresh.replace(library)
    return library


class Faults:
    """What one process is to suffer below `prefix`. `words`: at, until, do, kinds, errno, part, ms."""

    def __init__(self, library, prefix, report, **words):
        self._report = pathlib.Path(report)
        self._report.unlink(missing_ok=True)
        self.words = words
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAULTS_PREFIX": str(prefix),
            "FAULTS_REPORT": str(report),
            **{f"FAULTS_{name.upper()}": str(value) for name, value in words.items()},
        }

    def _head(self):
        try:
            with open(self._report, "rb") as file:
                return _HEAD.unpack(file.read(_HEAD.size))
        except (FileNotFoundError, struct.error):  # it did not begin
            return (0,) * (2 + len(KINDS))

    @property
    def calls(self):
        """How many calls counted so far."""
        return self._head()[0]

    @property
    def hits(self):
        """How many came to harm."""
        return self._head()[1]

    @property
    def kinds(self):
        """How many there were of each kind, counted or not."""
        return dict(zip(KINDS, self._head()[2:]))

    @property
    def order(self):
        """The kind of each call that counted, as one string."""
        with open(self._report, "rb") as file:
            file.seek(_HEAD.size)
            return file.read(self.calls).decode()
