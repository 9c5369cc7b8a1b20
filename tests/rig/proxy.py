"""Starts the real binary on a generated config and port 0, and shows what it does."""

import json
import os
import pathlib
import re
import signal
import subprocess

from . import client
from .database import ROOT, Sqlite
from .wait import DEADLINE, wait_until

_REPORTS = re.compile(
    r"ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error:|terminate called"
    r"|check failed",
    re.IGNORECASE,
)


def binary():
    """The program under test: LLMPROXY_BINARY, else the release build."""
    path = pathlib.Path(
        os.environ.get("LLMPROXY_BINARY", ROOT / "build/release/llm-billing-proxy")
    ).resolve()
    assert path.exists(), f"{path} is missing; run: make build"
    return path


def environment(**extra):
    """Ours without what steers the proxy."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("LLMPROXY_")}
    return {**own, **extra}


def _text(value):
    return json.dumps(value, ensure_ascii=False)


def toml(config):
    """A nested dict as TOML: plain values first, then tables. JSON's strings and numbers are
    TOML's."""

    def table(value, name):
        lines = [f"[{'.'.join(_text(part) for part in name)}]"] if name else []
        lines += [f"{_text(k)} = {_text(v)}" for k, v in value.items() if not isinstance(v, dict)]
        for key, inner in value.items():
            if isinstance(inner, dict):
                lines += ["", *table(inner, [*name, key])]
        return lines

    return "\n".join(table(config, [])) + "\n"


def merge(base, changes):
    """`base` with `changes` on top, table by table; None removes."""
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def run(*arguments, cwd=None, env=None, text=True, **options):
    """Runs the program to its end: subcommands and refused starts."""
    return subprocess.run(
        [binary(), *map(str, arguments)],
        cwd=cwd,
        env=environment(**(env or {})),
        capture_output=True,
        text=text,
        timeout=DEADLINE,
        **options,
    )


def memory(pid):
    """KiB of the process in memory."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


class Proxy:
    """One process. `backends` maps model names to a Backend, a url, or a table of the config."""

    def __init__(self, directory, backends, database=None, seed=True, **config):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.database = database or Sqlite(self.directory / "test.db")
        self.path = self.directory / "config.toml"
        tables = {}
        for model, backend in backends.items():
            if isinstance(backend, dict):
                tables[model] = {"token": f"backend-token-of-{model}", **backend}
            else:
                url = backend if isinstance(backend, str) else backend.url()
                tables[model] = {"url": url, "token": f"backend-token-of-{model}"}
        self.config = merge(
            {
                "host": "127.0.0.1",
                "port": 0,
                "data_dir": str(self.directory / "data"),
                "threads": 2,
                "shutdown_timeout": 10,
                "db": {"uri": self.database.uri},
                # A tenth of the default, so that no test waits for a second; and small files, which are
                # soon made.
                "ledger": {"ship_interval": 0.1, "max_bytes": 64 << 20},
                "backends": tables,
            },
            config,
        )
        self._seed = seed
        self.process = None
        self.port = None
        self.host = None
        self.reports_expected = False

    # Its life.

    def start(self, *arguments, wait=True, env=None):
        self.database.prepare()
        self.write_config()
        self.launch(*arguments, env=env)
        if wait:
            self.wait_ready()
            if self._seed:
                self.database.seed()
        return self

    def launch(self, *arguments, env=None, wrapper=()):
        """Starts the process on the config file as it is; `wrapper` is a command that runs it."""
        with (
            open(self.directory / "stderr", "ab") as errors,
            open(self.directory / "stdout", "ab") as output,
        ):
            self._log_begin = errors.tell()
            self.process = subprocess.Popen(
                [*wrapper, binary(), "-c", str(self.path), *arguments],
                cwd=self.directory,
                env=environment(**(env or {})),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
            )

    def wait_ready(self):
        def ready():
            match = re.search(r"listening on (\S+):(\d+)$", self.log, re.MULTILINE)
            if match is None and self.process.poll() is not None:
                raise AssertionError(f"the proxy ended with {self.process.returncode}:\n{self.log}")
            return match

        match = wait_until(ready, "the line `listening on ADDRESS:PORT`")
        self.host, self.port = match[1].strip("[]"), int(match[2])

    def write_config(self, **changes):
        """Writes the file, replaced as an editor does: never half a file."""
        self.config = merge(self.config, changes)
        self.write_text(toml(self.config))

    def write_text(self, text):
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    def reload(self, **changes):
        """Writes the file, sends SIGHUP, and waits until the proxy says that it is in effect."""
        before = self.log.count("Config reloaded")
        self.write_config(**changes)
        self.signal(signal.SIGHUP)
        wait_until(lambda: self.log.count("Config reloaded") > before, "the line `Config reloaded`")

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=None):
        """Waits for the process's own end; returns its exit status."""
        try:
            return self.process.wait(DEADLINE if seconds is None else seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the proxy did not end\n{self.log}") from None

    def stop(self):
        """SIGTERM and the end. What is billed by now is in the database."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def finish(self):
        """For fixtures: ends it whatever its state; raises on a crash or a sanitizer's report."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the proxy had to be killed\n{self.log[-4000:]}") from None
        report = _REPORTS.search(self.log)
        assert report is None, self.log[report.start() : report.start() + 6000]
        assert self.process.returncode >= -signal.SIGKILL and self.process.returncode not in (
            -signal.SIGSEGV,
            -signal.SIGABRT,
            -signal.SIGBUS,
        ), self.log[-4000:]

    # What it shows.

    @property
    def pid(self):
        return self.process.pid

    @property
    def log(self):
        """stderr of the present process."""
        with open(self.directory / "stderr", "rb") as file:
            file.seek(self._log_begin)
            return file.read().decode("utf-8", "backslashreplace")

    @property
    def output(self):
        return (self.directory / "stdout").read_text()

    def lines(self, *words):
        """The log lines that hold all of `words`."""
        return [line for line in self.log.splitlines() if all(word in line for word in words)]

    def wait_lines(self, *words, count=1):
        return wait_until(
            lambda: (found := self.lines(*words)) and len(found) >= count and found,
            f"{count} log lines with {words}",
        )

    def wait_unresolved(self, id):
        """The error line of a request whose cost cannot be known."""
        return self.wait_lines("ERROR", "unresolved", id)

    def events(self):
        return self.database.events()

    def wait_events(self, count):
        """Waits for `count` events; more than that fails."""
        wait_until(
            lambda: self.database.count() >= count, f"{count} events, has {self.database.count()}"
        )
        events = self.events()
        assert len(events) == count, events
        return events

    def wait_event(self, id):
        """The one event with this id."""
        return wait_until(lambda: [e for e in self.events() if e["id"] == id], f"the event {id}")[0]

    def settled_events(self):
        """Stops the proxy, which ships all it has, and returns every event."""
        assert self.stop() == 0, self.log[-4000:]
        return self.events()

    # Its clients.

    def connect(self, **options):
        return client.Connection(self.port, self.host, **options)

    def post(self, call=None, **arguments):
        """One chat completion over a connection of its own, read whole."""
        with self.connect() as connection:
            return connection.post(call, **arguments)

    def request(self, method, path, headers=(), body=b""):
        with self.connect() as connection:
            return connection.request(method, path, headers, body)
