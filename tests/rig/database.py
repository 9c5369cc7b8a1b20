"""The two databases as the proxy's neighbours see them: keys go in, events come out, and both can
be taken away for a while."""

import datetime
import hashlib
import pathlib
import sqlite3
import subprocess

import bson
import pymongo

from .wait import DEADLINE, wait_until
from .wire import Wire

ROOT = pathlib.Path(__file__).resolve().parents[2]

# As the original's samples: token1 has expired, token2 has no date, token3 expires far ahead.
KEYS = {
    "token1": ("66fd1d1de3a0c3eaae1b0c01", "user1", datetime.datetime(2020, 1, 1)),
    "token2": ("66fd1d1de3a0c3eaae1b0c02", "user2", None),
    "token3": ("66fd1d1de3a0c3eaae1b0c03", "user3", datetime.datetime(2099, 1, 1)),
}


def digest(token):
    return hashlib.sha256(token.encode()).hexdigest()


def counts(events):
    """What was billed, without ids and dates, sorted."""
    return sorted((e["user_id"], e["model"], e["prompt_n"], e["completion_n"]) for e in events)


class Sqlite:
    kind = "sqlite"

    def __init__(self, path):
        self.path = path
        self.uri = f"sqlite://{path}"
        self._lock = None

    def open(self):
        connection = sqlite3.connect(self.path, timeout=DEADLINE, isolation_level=None)
        connection.row_factory = sqlite3.Row
        return connection

    def query(self, text, *values):
        connection = self.open()
        try:
            return [dict(row) for row in connection.execute(text, values)]
        finally:
            connection.close()

    def prepare(self):
        """Called before the proxy starts; it makes its tables itself."""

    def seed(self):
        """Called once the proxy runs."""
        wait_until(
            lambda: self.query("SELECT name FROM sqlite_master WHERE name = 'api_keys'"),
            "the proxy's tables",
        )
        connection = self.open()
        connection.execute("BEGIN")
        for token, (key_id, user, expires) in KEYS.items():
            self.add_key(token, user, id=key_id, expires=expires, connection=connection)
        connection.execute("COMMIT")
        connection.close()

    def add_key(
        self, token, user, id=None, access_level="COMPLETION", expires=None, connection=None
    ):
        id = id or str(bson.ObjectId())
        text = (
            expires.strftime("%Y-%m-%dT%H:%M:%S.") + f"{expires.microsecond // 1000:03d}Z"
            if expires
            else None
        )
        statement = (
            "INSERT INTO api_keys(id, access_level, secret, user_id, date_expiry)"
            " VALUES (?, ?, ?, ?, ?)"
        )
        values = (id, access_level, digest(token), user, text)
        if connection:
            connection.execute(statement, values)
        else:
            self.query(statement, *values)
        return id

    def remove_key(self, token):
        self.query("DELETE FROM api_keys WHERE secret = ?", digest(token))

    def events(self):
        if not self.path.exists():
            return []
        return [
            {**row, "date_created": datetime.datetime.fromisoformat(row["date_created"])}
            for row in self.query("SELECT * FROM events_completion ORDER BY id")
        ]

    def count(self):
        return self.query("SELECT count(*) AS n FROM events_completion")[0]["n"]

    def stop(self):
        """Holds the write lock that shuts everybody out, readers too."""
        self._lock = sqlite3.connect(
            self.path, timeout=DEADLINE, isolation_level=None, check_same_thread=False
        )
        self._lock.execute("BEGIN EXCLUSIVE")

    def resume(self):
        if self._lock:
            self._lock.execute("ROLLBACK")
            self._lock.close()
            self._lock = None

    def close(self):
        self.resume()


class Mongo:
    kind = "mongo"

    def __init__(self, server, wire=None):
        self._server = server
        self.wire = wire or Wire(server.port)
        self.uri = f"mongodb://127.0.0.1:{self.wire.port}/?serverSelectionTimeoutMS=1000"
        self.client = server.client

    @property
    def keys(self):
        return self.client.cgc.api_keys

    @property
    def documents(self):
        return self.client.billing.events_completion

    def prepare(self):
        self._server.wipe()

    def seed(self):
        for token, (key_id, user, expires) in KEYS.items():
            self.add_key(token, user, id=key_id, expires=expires)

    def add_key(self, token, user, id=None, access_level="COMPLETION", expires=None):
        key = {
            "_id": bson.ObjectId(id) if id else bson.ObjectId(),
            "access_level": access_level,
            "secret": digest(token),
            "user_id": user,
            "date_expiry": expires,
        }
        self.keys.insert_one(key)
        return str(key["_id"])

    def remove_key(self, token):
        self.keys.delete_one({"secret": digest(token)})

    def events(self):
        found = []
        for document in self.documents.find().sort("_id", 1):
            assert isinstance(document["_id"], bson.ObjectId), document
            found.append({"id": str(document.pop("_id")), **document})
        return found

    def count(self):
        return self.documents.count_documents({})

    def stop(self):
        self.wire.set("refuse")

    def resume(self):
        self.wire.set("pass")

    def close(self):
        self.wire.close()


class MongoServer:
    """The MongoDB-wire server of tests/mongo on a free port; one for the whole run."""

    def __init__(self, directory):
        jars = ROOT / "build/mongo/lib"
        assert jars.exists(), "the MongoDB-wire server is missing; run tests/setup"
        self._errors = open(directory / "mongo-server.log", "wb")
        self._process = subprocess.Popen(
            [ROOT / "tests/mongo/start", "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        line = self._process.stdout.readline()
        assert line.strip().isdigit(), "the MongoDB-wire server did not start; see mongo-server.log"
        self.port = int(line)
        self.client = pymongo.MongoClient(
            "127.0.0.1",
            self.port,
            directConnection=True,
            serverSelectionTimeoutMS=int(DEADLINE * 1000),
        )

    def stop(self):
        """Its connections end and its port closes; what it holds stays."""
        self._tell("stop")

    def resume(self):
        self._tell("start")

    def _tell(self, word):
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        assert int(self._process.stdout.readline()) == self.port

    def wipe(self):
        for database in ("cgc", "billing"):
            self.client.drop_database(database)

    def close(self):
        self.client.close()
        self._process.terminate()
        self._process.wait(DEADLINE)
        self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()
