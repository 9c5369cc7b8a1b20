"""One life of a ledger: its directory, the processes that ran on it one after the other, and the judgement."""

import json
import pathlib
import shutil
import signal

from rig.client import Closed, Connection, Cut
from rig.database import Sqlite
from rig.proxy import Proxy, merge, run
from rig.wait import SCALE, wait_until

from . import ledger_files, load, oracle

START_SECONDS = 10 * SCALE
STOP_SECONDS = 30 * SCALE

# Small and fast: what is rare in production (a batch, a new segment, a mark) happens many times a second.
CONFIG = {
    "threads": 1,
    "shutdown_timeout": 10,
    "flush_timeout": 10,
    "ledger": {"ship_interval": 0.01, "max_bytes": 16 << 20, "commit_gap": 0},
}

# Thousands of killed processes would leave the counters of libmongoc in /dev/shm, a file each.
QUIET = {"MONGOC_DISABLE_SHM": "1"}

BAD_ENDS = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE)


def copy_tree(source, place):
    """Without the control socket that a killed proxy leaves."""
    shutil.copytree(
        source, place, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("control.sock")
    )


class Problem(Exception):
    """The program did what it must not, whatever the bills say."""


class Life:
    """Its directory is always the same one of a worker: the ledger knows its database by its path."""

    def __init__(self, directory, crowd, database=None, template=None, **config):
        self.directory = pathlib.Path(directory)
        self.crowd = crowd
        shutil.rmtree(self.directory, ignore_errors=True)
        if template is None:
            self.directory.mkdir(parents=True)
            crowd.begin()
        else:
            copy_tree(template.directory, self.directory)
            crowd.begin(template.requests)
        self.data = self.directory / "data"
        self.data.mkdir(exist_ok=True)
        self.database = database or Sqlite(self.data / "test.db")
        if database:
            database.prepare()
            database.seed()
        backends = {
            "m": {"url": crowd.backend.url(), "usage": "ask"},
            "continuous": {"url": crowd.backend.url(), "usage": "continuous"},
        }
        self.proxy = Proxy(self.directory, backends, self.database, seed=False, **merge(CONFIG, config))
        self.faults = None

    # Processes.

    def launch(self, faults=None, *command):
        """Starts one, or a command; it may die at once."""
        self.proxy.write_config()
        self.is_stopping = False
        self.proxy.launch(*command, env={**QUIET, **(faults.environment if faults else {})})

    def wait_ready(self):
        """True once it listens, False when it ended before."""

        def is_ready_or_over():
            return "listening on" in self.proxy.log or self.proxy.process.poll() is not None

        wait_until(is_ready_or_over, "a line `listening on`", START_SECONDS)
        if "listening on" not in self.proxy.log:
            return False
        try:
            self.proxy.wait_ready()
        except AssertionError:  # it ended just now
            return False
        return True

    def is_over(self):
        return self.proxy.process.poll() is not None

    def wait_end(self):
        """Its status. It ends: what does not is killed, and a problem."""
        try:
            status = self.proxy.process.wait(STOP_SECONDS)
        except Exception:
            self.kill()
            raise Problem(f"the proxy did not end\n{self.tail()}") from None
        self.crowd.join()
        self.check_end(status)
        return status

    def check_end(self, status):
        if status in BAD_ENDS or "check failed" in self.proxy.log:
            raise Problem(f"the proxy ended with {status}\n{self.tail()}")

    def terminate(self):
        """SIGTERM, unless it had one: the second cuts what is in flight. Its status."""
        if not self.is_stopping:
            self.signal_stop()
        return self.wait_end()

    def signal_stop(self):
        self.is_stopping = True
        if not self.is_over():
            self.proxy.signal(signal.SIGTERM)

    def kill(self):
        self.proxy.process.kill()
        status = self.proxy.process.wait()
        self.crowd.join()
        self.check_end(status)

    def finish(self):
        """For the end of a point, whatever its state."""
        if self.proxy.process and self.proxy.process.poll() is None:
            self.kill()

    def start(self):
        """One that nothing is done to: it must come up."""
        self.launch()
        if not self.wait_ready():
            raise Problem(f"a start failed with {self.proxy.process.returncode}\n{self.tail()}")

    def stop(self):
        status = self.terminate()
        if status != 0:
            raise Problem(f"a stop failed with {status}\n{self.tail()}")

    def tail(self):
        return self.proxy.log[-2000:]

    def launch_for(self, scenario, faults):
        """Whatever it is that may die. True: it listens, or is yet to be run by the load."""
        self.faults = faults
        if scenario.is_command:
            return True
        self.launch(faults)
        return self.wait_ready()

    def run_command(self, *command, fine=0):
        """To its end, with the faults of launch_for(). True if it says that all is well."""
        self.launch(self.faults, *command)
        status = self.wait_end()
        if status not in (fine, -signal.SIGKILL):
            raise Problem(f"{command} ended with {status}\n{self.tail()}")
        return status == fine

    def without_figure(self):
        """The requests of which somebody may say what they cost."""
        return (request for request in list(self.crowd.journal.requests.values()) if request.is_open_to_word)

    def say_figure(self, request):
        """By the command, which asks the proxy if there is one, and else is itself what may die."""
        figure = ["--prompt", str(request.number), "--completion", str(oracle.completion_of(request.number))]
        command = ["ledger", "resolve", next(iter(request.ids)), *figure]
        request.is_said = True
        if self.proxy.process is None:
            request.is_taken = self.run_command(*command)
        else:
            request.is_taken = run(*command, "-c", self.proxy.path, cwd=self.directory, env=QUIET).returncode == 0

    def ask(self, kind):
        """One request over a connection of its own; True if it was answered with 200."""
        request = self.crowd.journal.add(kind)
        try:
            with Connection(self.proxy.port) as connection:
                load.ask(connection, request)
        except (Cut, Closed, OSError) as failure:
            request.error = repr(failure)
        return request.status == 200

    def add_keys(self):
        """Where a first start died before anybody could."""
        if self.database.kind == "sqlite" and not self.database.query("SELECT 1 FROM api_keys LIMIT 1"):
            self.database.seed()

    # The judgement.

    def prove(self, twice=False):
        """Starts it where it is left, sees that it works, lets it ship, stops it, and judges. `twice`: and the next
        start has nothing to do, and sends nothing again, though the documents have been archived meanwhile."""
        self.crowd.release.set()
        self.start()
        self.add_keys()
        for kind in ("stream", "plain"):
            if not self.ask(kind):
                return [(oracle.WRONG, f"no work after the start: {self.crowd.journal.copy()[-1]}\n{self.tail()}")]
        self.stop()
        problems = self.judge() or self._compare_words()
        return problems or (self._start_idle() if twice else [])

    def _compare_words(self):
        """What the program says of the files is what they hold, and it finds no fault with them."""
        unresolved, dead = ledger_files.read(self.data / "ledger")
        problems = []
        for command, ids in (("unresolved", unresolved), ("dead", dead)):
            listed = {one["_id"] for one in json.loads(self._say(command, "--json").stdout)}
            if listed != ids:
                problems.append((oracle.WRONG, f"`ledger {command}` and the files differ: {listed ^ ids}"))
        verified = self._say("verify")
        if verified.returncode != 0:
            problems.append((oracle.WRONG, f"`ledger verify`: {verified.stdout}{verified.stderr}"))
        return problems

    def _say(self, *words):
        return run("ledger", *words, "-c", self.proxy.path, cwd=self.directory, env=QUIET)

    def _start_idle(self):
        self._archive()
        self.start()
        if self.proxy.lines("ledger:"):
            raise Problem(f"a start after a clean stop had work\n{self.tail()}")
        self.stop()
        return [(oracle.DOUBLE, f"sent again, after it was archived: {event}") for event in self.database.events()]

    def _archive(self):
        if self.database.kind == "sqlite":
            self.database.query("DELETE FROM events_completion")
        else:
            self.database.documents.delete_many({})

    def judge(self, all_lived=False):
        unresolved, dead = ledger_files.read(self.data / "ledger")
        truth = oracle.Truth(self.database.events(), unresolved, dead)
        return oracle.judge(self.crowd.journal.copy(), truth, all_lived)


class Template:
    """A life that has ended, whose files others begin with."""

    def __init__(self, life, directory):
        (life.directory / "stderr").unlink()
        life.directory.rename(directory)
        self.directory = directory
        self.requests = life.crowd.journal.copy()


def empty_template(life_directory, directory, crowd):
    """A database with tables and keys, and a ledger that was stopped cleanly."""
    life = Life(life_directory, crowd)
    life.start()
    life.add_keys()
    life.stop()
    return Template(life, directory)


def backlog_template(life_directory, directory, crowd, empty):
    """Several segments of events that no database has, unresolved ones and open streams among them; killed."""
    life = Life(life_directory, crowd, template=empty)
    mixed = ["plain", "stream", "silent", "running", "stream", "plain_silent"]
    for _ in range(3):
        life.start()
        life.ask("plain")  # the key is known now
        life.database.stop()
        crowd.start(life.proxy, ["slow"], is_over=life.is_over)
        crowd.run(life.proxy, mixed * 2, mixed, mixed)
        life.kill()
        life.database.resume()
    return Template(life, directory)
