"""The `keys` subcommand on both databases, beside a running proxy and without one."""

import hashlib
import itertools
import json
import re

import pytest

from rig.database import KEYS, digest
from rig.proxy import Proxy, run
from rig.wait import wait_until


@pytest.fixture
def keys(make_proxy, backend, database):
    """keys("list") runs the subcommand on the config of a running proxy."""
    proxy = make_proxy({"m": backend}, database, auth={"key_ttl": 0.1, "key_unknown_ttl": 0.1})

    def call(*arguments, status=0):
        done = run("keys", *arguments, "-c", proxy.path, cwd=proxy.directory)
        assert done.returncode == status, done
        return done.stdout

    call.proxy = proxy
    return call


def listed(keys):
    return {key["id"]: key for key in json.loads(keys("list", "--json"))}


def test_created_token_works_beside_the_running_proxy(keys):
    output = keys("create", "--user", "alice")
    assert re.fullmatch(r"[A-Za-z0-9_-]{86}\n", output), output
    token = output.strip()
    assert keys.proxy.post(token=token).status == 200
    event = keys.proxy.wait_events(1)[0]
    assert event["user_id"] == "alice"
    assert listed(keys)[event["api_key_id"]]["user_id"] == "alice"


def test_no_two_tokens_are_alike(keys):
    assert len({keys("create", "--user", "alice") for _ in range(5)}) == 5


def test_only_the_hash_is_kept(keys, database):
    token = keys("create", "--user", "alice").strip()
    if database.kind == "sqlite":
        row = database.query("SELECT * FROM api_keys WHERE user_id = 'alice'")[0]
        assert row["access_level"] == "COMPLETION" and row["date_expiry"] is None
    else:
        row = database.keys.find_one({"user_id": "alice"})
        assert row["access_level"] == "COMPLETION" and row.get("date_expiry") is None
    assert row["secret"] == hashlib.sha256(token.encode()).hexdigest()
    assert token not in repr(row)


def test_known_hash_is_registered(keys):
    id = keys("create", "--user", "bob", "--hash", digest("chosen")).strip()
    assert re.fullmatch("[0-9a-f]{24}", id)
    assert keys.proxy.post(token="chosen").status == 200
    assert keys.proxy.wait_events(1)[0]["api_key_id"] == id


def test_hash_twice_is_refused(keys):
    keys("create", "--user", "bob", "--hash", digest("chosen"))
    done = run("keys", "create", "--user", "eve", "--hash", digest("chosen"), "-c", keys.proxy.path)
    assert done.returncode not in (0, 64) and done.stdout == "" and done.stderr


@pytest.mark.parametrize("hash", ["", "abc", "g" * 64, "a" * 63, "a" * 65])
def test_bad_hash_is_refused(keys, hash):
    done = run("keys", "create", "--user", "bob", "--hash", hash, "-c", keys.proxy.path)
    assert done.returncode != 0 and done.stdout == ""


@pytest.mark.parametrize("option", ["--user", "--comment"])
@pytest.mark.parametrize("text", ["a\nb", "a\x1b[31m", "a\x7f", "a\u009b31m", "a\udcff", "\udce2\udc82"])
def test_text_that_no_terminal_should_show_is_refused(keys, option, text):
    """The surrogates stand for bytes that are no UTF-8."""
    before = len(listed(keys))
    arguments = {"--user": "alice", option: text}
    words = [word for pair in arguments.items() for word in pair]
    done = run("keys", "create", *words, "-c", keys.proxy.path)
    assert done.returncode == 64 and done.stdout == "" and option in done.stderr
    assert len(listed(keys)) == before


def test_upper_case_hash_is_the_same_hash(keys):
    keys("create", "--user", "bob", "--hash", digest("chosen").upper())
    assert keys.proxy.post(token="chosen").status == 200


def test_list_shows_every_key_and_no_secret(keys):
    keys("create", "--user", "alice", "--comment", "for the notebook")
    output = keys("list")
    for _, (id, user, _) in KEYS.items():
        assert any(id in line and user in line for line in output.splitlines()), output
    assert "for the notebook" in output
    assert digest("token2") not in output + keys("list", "--json")


def test_list_json(keys):
    token_id = keys(
        "create", "--user", 'a\u00e9"', "--comment", "c\u00e9", "--hash", digest("x")
    ).strip()
    key = listed(keys)[token_id]
    assert key["user_id"] == 'a\u00e9"' and key["comment"] == "c\u00e9"
    assert key["access_level"] == "COMPLETION"
    assert len(listed(keys)) == 4


def test_expires_ends_the_key(keys):
    token = keys("create", "--user", "alice", "--expires", "2020-01-01T00:00:00Z").strip()
    assert keys.proxy.post(token=token).status == 401
    token = keys("create", "--user", "alice", "--expires", "2099-12-31T23:59:59Z").strip()
    assert keys.proxy.post(token=token).status == 200


def test_date_alone_is_a_time_too(keys):
    token = keys("create", "--user", "alice", "--expires", "2099-12-31").strip()
    assert keys.proxy.post(token=token).status == 200


@pytest.mark.parametrize("when", ["soon", "2020-13-01T00:00:00Z", "2020-01-01T25:00:00Z", ""])
def test_bad_time_is_refused(keys, when):
    before = len(listed(keys))
    done = run("keys", "create", "--user", "alice", "--expires", when, "-c", keys.proxy.path)
    assert done.returncode != 0 and done.stdout == "" and done.stderr
    assert len(listed(keys)) == before


def test_expire_works_beside_the_running_proxy(keys):
    assert keys.proxy.post(token="token3").status == 200
    keys("expire", KEYS["token3"][0], "2020-01-01T00:00:00Z")
    wait_until(lambda: keys.proxy.post(token="token3").status == 401, "the key expired")
    keys("expire", KEYS["token3"][0], "2099-01-01T00:00:00Z")
    wait_until(lambda: keys.proxy.post(token="token3").status == 200, "the key valid again")


def test_revoke_works_beside_the_running_proxy(keys):
    assert keys.proxy.post(token="token3").status == 200
    keys("revoke", KEYS["token3"][0])
    wait_until(lambda: keys.proxy.post(token="token3").status == 401, "the key revoked")
    assert KEYS["token3"][0] not in listed(keys)
    assert keys.proxy.post(token="token2").status == 200


@pytest.mark.parametrize("command", [["revoke"], ["expire"]])
def test_unknown_id_is_told(keys, command):
    when = ["2099-01-01T00:00:00Z"] if command == ["expire"] else []
    done = run("keys", *command, "66fd1d1de3a0c3eaae1b0cff", *when, "-c", keys.proxy.path)
    assert done.returncode not in (0, 64) and "66fd1d1de3a0c3eaae1b0cff" in done.stderr
    assert len(listed(keys)) == 3


@pytest.mark.parametrize("command", [["revoke"], ["expire", "now"]])
def test_id_may_be_written_in_capitals(keys, command):
    keys(command[0], KEYS["token3"][0].upper(), *command[1:])
    wait_until(lambda: keys.proxy.post(token="token3").status == 401, "the key gone")
    assert (KEYS["token3"][0] in listed(keys)) == (command[0] == "expire")


def test_list_shows_which_keys_open_nothing(keys, database):
    """Those that others have written: without a user, or until a time that nobody can read."""
    odd, nobody = digest("odd"), digest("nobody")
    if database.kind == "sqlite":
        add = (
            "INSERT INTO api_keys(id, access_level, secret, user_id, date_expiry)"
            " VALUES (?, 'COMPLETION', ?, ?, ?)"
        )
        database.query(add, "odd", odd, "user9", "next week")
        database.query(add, "nobody", nobody, "", None)
    else:
        key = {"access_level": "COMPLETION", "date_expiry": None}
        database.keys.insert_one(
            {**key, "_id": "odd", "secret": odd, "user_id": "user9", "date_expiry": "next week"}
        )
        database.keys.insert_one({**key, "_id": "nobody", "secret": nobody})
    assert [keys.proxy.post(token=token).status for token in ("odd", "nobody")] == [401, 401]
    by_id = listed(keys)
    assert by_id["odd"]["date_expiry"] == "unreadable" and by_id["odd"]["user_id"] == "user9"
    assert by_id["nobody"]["date_expiry"] is None and by_id["nobody"]["user_id"] is None
    lines = keys("list").splitlines()
    assert any("odd" in line and "unreadable" in line for line in lines), lines
    assert any("nobody" in line and "(none)" in line and "never" in line for line in lines), lines


@pytest.mark.parametrize(["option", "bytes_max"], [("--user", 256), ("--comment", 1024)])
def test_text_has_a_bound(keys, option, bytes_max):
    """The longest works to the end, the next is refused in the words of the command."""

    def create(size):
        text = {"--user": "alice", option: "x" * size}
        return ["create", *itertools.chain(*text.items())]

    token = keys(*create(bytes_max)).strip()
    assert keys.proxy.post(token=token).status == 200
    keys.proxy.wait_events(1)
    done = run("keys", *create(bytes_max + 1), "-c", keys.proxy.path)
    assert done.returncode == 64 and f"{option}:" in done.stderr and str(bytes_max) in done.stderr


def test_list_is_json_whatever_the_database_holds(keys, database):
    if database.kind == "sqlite":
        odd = "UPDATE api_keys SET user_id = x'ff00fe', comment = x'80' WHERE id = ?"
        database.query(odd, KEYS["token3"][0])
    else:
        odd = {"user_id": b"\xff\x00\xfe", "comment": b"\x80"}
        database.keys.update_one({"secret": digest("token3")}, {"$set": odd})
    key = listed(keys)[KEYS["token3"][0]]
    assert key["user_id"] is None if database.kind == "sqlite" else key["user_id"]
    # MongoDB's keep their type in the event; in SQLite nobody could read it.
    assert keys.proxy.post(token="token3").status == (401 if database.kind == "sqlite" else 200)


def test_revoked_key_stays_in_its_events(keys):
    id = keys.proxy.post(token="token3").id
    keys.proxy.wait_event(id)
    keys("revoke", KEYS["token3"][0])
    assert keys.proxy.wait_event(id)["api_key_id"] == KEYS["token3"][0]


def test_key_before_the_first_start(backend, tmp_path):
    proxy = Proxy(tmp_path / "proxy", {"m": backend}, seed=False)
    proxy.write_config()
    token = run(
        "keys", "create", "--user", "alice", "-c", proxy.path, cwd=proxy.directory
    ).stdout.strip()
    assert len(token) == 86
    proxy.start()
    try:
        assert proxy.post(token=token).status == 200
    finally:
        proxy.finish()


def test_empty_value_swallows_nothing(keys):
    hash = digest("chosen")
    keys("create", "--user=bob", "--comment=", "--expires=now", f"--hash={hash}")
    (key,) = [key for key in listed(keys).values() if key["user_id"] == "bob"]
    assert key["comment"] is None and key["date_expiry"] is not None
    assert keys.proxy.post(token="chosen").status == 401
    for option in ("--user=", "--expires=", "--hash="):
        done = run("keys", "create", option, "--user=eve", "-c", keys.proxy.path)
        assert done.returncode == 64 and done.stdout == "", option
    assert run("keys", "list", "--config=", cwd=keys.proxy.directory).returncode == 78
    keys("create", "--user", "carol", "--comment", "--like=")
    assert [key["user_id"] for key in listed(keys).values() if key["comment"] == "--like="] == ["carol"]
    assert len(listed(keys)) == 5


def test_access_level_of_the_config_is_given(make_proxy, backend):
    proxy = make_proxy({"m": backend}, auth={"access_level": "LLM"})
    token = run(
        "keys", "create", "--user", "alice", "-c", proxy.path, cwd=proxy.directory
    ).stdout.strip()
    assert proxy.post(token=token).status == 200


def test_dead_database_is_told(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[db]\nuri = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200"\n')
    done = run("keys", "list", "-c", path, cwd=tmp_path)
    assert done.returncode not in (0, 64) and done.stderr


def test_dash_in_front_of_a_token_harms_nothing(keys):
    """One token in 32 begins with a dash; it is printed alone, so that $(...) takes it."""
    for _ in range(3):
        assert keys("create", "--user", "alice").count("\n") == 1
