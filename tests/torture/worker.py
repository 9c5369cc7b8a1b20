"""One process of a torture run: its backend, its templates, its databases; runs points one after the other."""

import contextlib
import pathlib
import shutil
import tempfile
import time
import traceback

from rig.database import Mongo, MongoServer

from . import faults, life, oracle
from .load import Crowd


class Result:
    """What came of one point."""

    def __init__(self, name, is_hit, problems=(), kept=None, how=""):
        self.name = name  # of the row in the table
        self.is_hit = is_hit  # the harm came to pass; otherwise the load was over before
        self.problems = list(problems)
        self.kept = kept  # directory, of a point that failed
        self.how = how  # to run it alone


def fast_directory(otherwise):
    """Where files cost least. A kill leaves what was written whether it was synced or not, so that a tmpfs serves
    as well as a disk; it must take O_DIRECT (Linux 6.6), or the ledger goes another way."""
    shared = pathlib.Path("/dev/shm")
    return pathlib.Path(tempfile.mkdtemp(prefix="torture-", dir=shared if shared.is_dir() else otherwise))


class Worker:
    """`directory` is its own, and on a file system that takes O_DIRECT."""

    def __init__(self, directory, failures):
        self.directory = pathlib.Path(directory)
        self.failures = pathlib.Path(failures)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.library = faults.build()
        self.crowd = Crowd()
        self.life_directory = self.directory / "life"
        self._templates = {}
        self._server = self._mongo = None

    def close(self):
        self.crowd.close()
        if self._mongo:
            self._mongo.close()
            self._server.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def template(self, name):
        if name is None:
            return None
        if name not in self._templates:
            path = self.directory / name
            if name == "empty":
                self._templates[name] = life.empty_template(self.life_directory, path, self.crowd)
            else:
                empty = self.template("empty")
                self._templates[name] = life.backlog_template(self.life_directory, path, self.crowd, empty)
        return self._templates[name]

    @property
    def mongo(self):
        if self._mongo is None:
            self._server = MongoServer(self.directory)
            self._mongo = Mongo(self._server)
        return self._mongo

    @contextlib.contextmanager
    def life(self, scenario, **config):
        """A new one for this scenario."""
        is_mongo = scenario.database == "mongo"
        one = life.Life(
            self.life_directory,
            self.crowd,
            self.mongo if is_mongo else None,
            None if is_mongo else self.template(scenario.template),
            **config,
        )
        try:
            yield one
        finally:
            self.crowd.release.set()
            one.finish()

    def faults(self, life, prefix=None, **words):
        return faults.Faults(self.library, prefix or life.data, self.directory / "report", **words)

    def attempt(self, name, how, point, keeps=True):
        """Runs `point()`, which returns (is_hit, problems), and keeps what is needed to look into a failure."""
        problems, is_hit = [], True
        try:
            is_hit, problems = point()
        except life.Problem as failure:
            problems = [(oracle.WRONG, str(failure))]
        except Exception:  # noqa: BLE001 - a point that cannot be judged has failed
            problems = [(oracle.WRONG, traceback.format_exc())]
        kept = self._keep(name, how, problems) if problems and keeps else None
        return Result(name, is_hit, problems, kept, how)

    def _keep(self, name, how, problems):
        kept = self.failures / f"{name.replace(' ', '-')}-{time.time_ns()}"
        self.failures.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            life.copy_tree(self.life_directory, kept)
        kept.mkdir(exist_ok=True)
        lines = [how, *(f"{word}: {text}" for word, text in problems), "", "requests:"]
        lines += [f"{request} {request.error or ''}" for request in self.crowd.journal.copy()]
        (kept / "problems").write_text("\n".join(lines) + "\n")
        return kept
