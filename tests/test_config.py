"""The config file: what is wrong with it is told at once, with its place, by `check` and by the
server."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading

import pytest

from rig import client
from rig.database import ROOT, Sqlite
from rig.proxy import Proxy, binary, environment, run, toml
from rig.wait import DEADLINE, wait_until

GOOD = '[backends.m]\nurl = "http://127.0.0.1:1"\ntoken = "t"\n'

# name: (file, line of the error, key, a word of what was expected)
BAD = {
    "TOML syntax": ('port = 1\nhost = "a\n' + GOOD, 2, None, "TOML"),
    "TOML key twice": ("port = 1\nport = 2\n" + GOOD, 2, None, "TOML"),
    "wrong type": ('port = "80"\n' + GOOD, 1, "port", "number"),
    "number for a text": ("host = 1\n" + GOOD, 1, "host", "expected"),
    "text for a table": ('db = "sqlite://x"\n' + GOOD, 1, "db", "table"),
    "table for a number": (GOOD + "[port]\na = 1\n", 4, "port", "number"),
    "out of range": ("port = 65536\n" + GOOD, 1, "port", "65535"),
    "negative": ("port = -1\n" + GOOD, 1, "port", "65535"),
    "negative time": ("timeout_connect = -1\n" + GOOD, 1, "timeout_connect", "seconds"),
    "time not a number": ("timeout_connect = nan\n" + GOOD, 1, "timeout_connect", "seconds"),
    "time as text": ('timeout_read = "10s"\n' + GOOD, 1, "timeout_read", "seconds"),
    "time out of a double's range": (
        "timeout_connect = 9223372036854775807\n" + GOOD,
        1,
        "timeout_connect",
        "found 9223372036854775807",
    ),
    "control character": ('data_dir = "a\\nb"\n' + GOOD, 1, "data_dir", "control characters"),
    "bad level": ('log_level = "LOUD"\n' + GOOD, 1, "log_level", "INFO"),
    "bad host": ('host = "a b"\n' + GOOD, 1, "host", "address"),
    "bad database": ('[db]\nuri = "postgres://x"\n' + GOOD, 2, "db.uri", "mongodb://"),
    "no url": ('[backends.m]\ntoken = "t"\n', 1, "backends.m.url", "url"),
    "no token": ('[backends.m]\nurl = "http://a"\n', 1, "backends.m.token", "token"),
    "url without scheme": (
        '[backends.m]\nurl = "a:80"\ntoken = "t"\n',
        2,
        "backends.m.url",
        "http",
    ),
    "url of another scheme": (
        '[backends.m]\nurl = "ftp://a"\ntoken = "t"\n',
        2,
        "backends.m.url",
        "http",
    ),
    "url without host": (
        '[backends.m]\nurl = "http://"\ntoken = "t"\n',
        2,
        "backends.m.url",
        "host",
    ),
    "url with bad port": (
        '[backends.m]\nurl = "http://a:99999"\ntoken = "t"\n',
        2,
        "backends.m.url",
        "port",
    ),
    "url with password": (
        '[backends.m]\nurl = "http://u:p@a"\ntoken = "t"\n',
        2,
        "backends.m.url",
        "password",
    ),
    "url with query": (
        '[backends.m]\nurl = "http://a/?b"\ntoken = "t"\n',
        2,
        "backends.m.url",
        "query",
    ),
    "bad usage": (GOOD + 'usage = "always"\n', 4, "backends.m.usage", "continuous"),
    "verify_ssl as text": (GOOD + 'verify_ssl = "no"\n', 4, "backends.m.verify_ssl", "true"),
    "misspelt key": ("prot = 80\n" + GOOD, 1, "prot", "did you mean `port`"),
    "misspelt table": (GOOD + "[limit]\nbody_bytes_max = 1\n", 4, "limit", "did you mean `limits`"),
    "misspelt limit": (
        GOOD + "[limits]\nbody_byte_max = 5000\n",
        5,
        "limits.body_byte_max",
        "did you mean",
    ),
    "misspelt backend key": (GOOD + 'tokn = "x"\n', 4, "backends.m.tokn", "did you mean `token`"),
    "backend no table": ("[backends]\nm = 1\n", 2, "backends.m", "table"),
}

# URIs that only the driver can judge, and those that it would misread.
DATABASES = [
    "mongodb://h:99999/",
    "mongodb://h:0",
    "mongodb://h:abc",
    "mongodb:///",
    "mongodb://%zz",
    "mongodb://u:SEC%RET@h",
    "mongodb://u:SEC@RETPW@h/",
    "mongodb://u:SEC/RET@h/",
    "mongodb://u:12/RET@h/",
    "mongodb://u:SEC:RET@h/",
    "mongodb://u:SEC,RET@h/",
    "mongodb://u:SEC@RET,PW:1@h/",
    "mongodb://u:SEC?RET@h/",
    "mongodb://u:SEC#RET@h/",
    "mongodb://h/?serverSelectionTimeoutMS=abc",
    "mongodb://h/?tls=x",
    "mongodb+srv://h1,h2",
    "mongodb+srv://h:27017",
]


def write(tmp_path, text, name="config.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", BAD)
def test_bad_config_is_told_with_its_place(tmp_path, name):
    text, line, key, word = BAD[name]
    path = write(tmp_path, text)
    done = run("check", "-c", path, cwd=tmp_path)
    assert done.returncode == 78
    told = done.stdout + done.stderr
    where = rf"^{re.escape(str(path))}:{line}:\d+: error: "
    matches = [found for found in told.splitlines() if re.search(where, found)]
    assert matches, told
    assert any((key is None or f" {key}: " in found) and word in found for found in matches), told


@pytest.mark.parametrize("name", BAD)
def test_server_refuses_to_start_with_the_same_text(tmp_path, name):
    path = write(tmp_path, BAD[name][0])
    checked = run("check", "-c", path, cwd=tmp_path)
    served = run("-c", path, cwd=tmp_path)
    assert served.returncode == 78
    told = [line for line in (checked.stdout + checked.stderr).splitlines() if ": error: " in line]
    assert told and all(line in served.stderr for line in told), served.stderr
    assert "listening" not in served.stderr


@pytest.mark.parametrize("uri", DATABASES)
def test_bad_database_is_told_alike_and_without_its_password(tmp_path, uri):
    path = write(tmp_path, f'[db]\nuri = "{uri}"\n' + GOOD)
    good = write(tmp_path, GOOD, "good.toml")

    def told(*arguments, **options):
        done = run(*arguments, cwd=tmp_path, **options)
        assert done.returncode == 78 and done.stdout == ""
        (line,) = [line for line in done.stderr.splitlines() if ": error: " in line]
        return line

    place, _, text = told("check", "-c", path).partition(": error: db.uri: ")
    assert place == f"{path}:2:7" and text.startswith("MongoDB URI: ")
    for arguments in (["keys", "list"], []):
        assert told(*arguments, "-c", path) == f"{place}: error: db.uri: {text}"
    by_variable = told("-c", good, env={"LLMPROXY_DB_URI": uri})
    assert by_variable == f"{good}: error: LLMPROXY_DB_URI: {text}"
    for piece in ("sec", "ret", "pw", "12"):
        assert piece not in text.lower()


@pytest.mark.parametrize("content", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_ca_file_without_certificate_is_told(tmp_path, content):
    garbage = write(tmp_path, content, "garbage.pem")
    path = write(tmp_path, GOOD + f'ca_file = "{garbage}"\n')
    for arguments in (["check"], []):
        done = run(*arguments, "-c", path, cwd=tmp_path)
        assert done.returncode == 78
        assert f"{path}:4:11: error: backends.m.ca_file: expected " in done.stderr
        assert "no certificate that can be read" in done.stderr


def test_every_error_is_told_at_once(tmp_path):
    path = write(
        tmp_path,
        'port = -1\nhost = 7\nprot = 1\n[backends.a]\nurl = "x"\n[limits]\nheaders_max = "a"\n',
    )
    done = run("check", "-c", path)
    told = done.stderr + done.stdout
    assert [int(n) for n in re.findall(r":(\d+):\d+: error: ", told)] == [1, 2, 3, 4, 5, 7], told


@pytest.mark.parametrize("arguments", [["check"], ["-t"], ["check", "--config"]])
def test_good_config_is_0(tmp_path, arguments):
    path = write(tmp_path, GOOD)
    arguments = [*arguments, path] if "--config" in arguments else [*arguments, "-c", path]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done
    assert ": error: " not in done.stdout + done.stderr
    assert os.listdir(tmp_path) == ["config.toml"], "check leaves nothing"


@pytest.mark.parametrize("arguments", [["check"], ["-t"], []])
def test_missing_file(tmp_path, arguments):
    done = run(*arguments, "-c", tmp_path / "none.toml", cwd=tmp_path)
    assert done.returncode == 78
    assert f"{tmp_path}/none.toml: error: " in done.stdout + done.stderr
    assert "No such file" in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["check"], []])
def test_unreadable_file(tmp_path, arguments):
    (tmp_path / "folder.toml").mkdir()
    done = run(*arguments, "-c", tmp_path / "folder.toml", cwd=tmp_path)
    assert done.returncode == 78 and "folder.toml: error: " in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["check"], []])
def test_pipe_in_the_place_of_a_file_holds_nothing_up(tmp_path, arguments):
    os.mkfifo(tmp_path / "pipe.toml")
    done = run(*arguments, "-c", tmp_path / "pipe.toml", cwd=tmp_path)
    assert done.returncode == 78 and "pipe.toml: error: " in done.stderr
    assert "expected a regular file" in done.stderr


def test_file_is_config_toml_by_default(tmp_path):
    assert run("check", cwd=tmp_path).returncode == 78
    write(tmp_path, GOOD)
    assert run("check", cwd=tmp_path).returncode == 0


def test_shipped_config_is_good():
    done = run("check", "-c", ROOT / "config.toml", cwd=ROOT)
    assert done.returncode == 0, done


def test_usage_errors_are_64(tmp_path):
    write(tmp_path, GOOD)
    for arguments in (
        ["--nonsense"],
        ["nonsense"],
        ["keys"],
        ["keys", "create"],
        ["keys", "nonsense"],
        ["check", "keys", "list"],
        ["keys", "list", "check"],
        ["-t", "keys", "create", "--user", "alice"],
        ["keys", "create", "--user", "alice", "-t"],
        ["-t", "demo"],
        ["keys", "list", "--json="],
    ):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 64, (arguments, done)
        assert os.listdir(tmp_path) == ["config.toml"], arguments


def test_help_and_version(tmp_path):
    for word in ("keys", "check", "demo", "--config"):
        assert word in run("--help", cwd=tmp_path).stdout
    assert re.search(r"\d+\.\d+\.\d+", run("--version", cwd=tmp_path).stdout)
    for command in ("keys", "check", "demo"):
        assert run(command, "--help", cwd=tmp_path).returncode == 0


def test_file_of_the_original_works_unchanged(make_proxy, make_backend, tmp_path, mongo):
    backend = make_backend()
    proxy = make_proxy({}, mongo, start=False)
    mongo.prepare()
    proxy.write_text(
        'log_level = "INFO"\nhost = "127.0.0.1"\nport = 0\ntimeout_connect = 5\n\n'
        f'[db]\nuri = "{mongo.uri}"\n\n'
        f'[backends.llama31-70b]\nurl = "{backend.url()}"\ntoken = "t1"\n\n'
        f'[backends.llama31-8b]\nurl = "{backend.url()}/"\ntoken = "t2"\n'
    )
    proxy.launch()
    proxy.wait_ready()
    mongo.seed()
    assert proxy.post(model="llama31-8b").status == 200
    assert proxy.wait_events(1)[0]["model"] == "llama31-8b"


def test_without_backends_it_starts_with_a_warning(make_proxy):
    proxy = make_proxy({})
    assert proxy.lines("WARNING", "backends")
    assert proxy.post().status == 404


def test_without_db_the_file_lies_in_data_dir(make_proxy, backend, tmp_path):
    proxy = make_proxy(
        {"m": backend},
        Sqlite(tmp_path / "here/llm-billing-proxy.db"),
        db=None,
        data_dir=f"{tmp_path}/here",
    )
    assert proxy.post().status == 200
    assert len(proxy.wait_events(1)) == 1
    assert proxy.lines(f"{tmp_path}/here/llm-billing-proxy.db")


def test_relative_paths_are_of_the_working_directory_and_told_absolute(
    make_proxy, backend, tmp_path
):
    database = Sqlite(tmp_path / "proxy0/some.db")
    proxy = make_proxy({"m": backend}, database, db={"uri": "sqlite://some.db"}, data_dir="state")
    assert proxy.post().status == 200
    assert len(proxy.wait_events(1)) == 1
    assert proxy.lines(f"{tmp_path}/proxy0/some.db")


def test_environment_overrides_the_database(make_proxy, backend, tmp_path):
    database = Sqlite(tmp_path / "other.db")
    proxy = make_proxy(
        {"m": backend}, database, start=False, db={"uri": "sqlite:///nowhere/at/all.db"}
    )
    proxy.start(env={"LLMPROXY_DB_URI": database.uri})
    assert proxy.post().status == 200
    assert len(proxy.wait_events(1)) == 1


def test_ready_line_names_the_port(proxy):
    assert proxy.port > 0
    (line,) = proxy.lines("listening on")
    assert line.endswith(f"listening on 127.0.0.1:{proxy.port}")


def test_port_in_use_is_told(make_proxy, backend, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        proxy = make_proxy({"m": backend}, start=False, port=port)
        proxy.start(wait=False)
        assert proxy.wait() > 0
        assert proxy.lines("ERROR", str(port)) or proxy.lines("CRITICAL", str(port)), proxy.log


def test_data_dir_that_is_not_durable_is_told(make_proxy, backend, tmp_path):
    is_apart = os.stat("/dev/shm").st_dev != os.stat("/").st_dev
    assert is_apart, "/dev/shm is no tmpfs here; do: mount -t tmpfs none /dev/shm"
    folder = f"/dev/shm/llm-billing-proxy-test-{os.getpid()}"
    proxy = make_proxy({"m": backend}, data_dir=folder)
    try:
        assert proxy.lines("WARNING", folder)
    finally:
        proxy.stop()
        for root, folders, files in os.walk(folder, topdown=False):
            for name in files:
                os.unlink(os.path.join(root, name))
            os.rmdir(root)


def test_database_file_that_is_not_durable_is_told(make_proxy, backend, tmp_path):
    """data_dir is on a disk, the file named by db.uri is not."""
    database = Sqlite(pathlib.Path(f"/dev/shm/llm-billing-proxy-test-{os.getpid()}.db"))
    (ROOT / "build").mkdir(exist_ok=True)
    data_dir = tempfile.mkdtemp(prefix="data-", dir=ROOT / "build")  # it keeps a ledger there
    proxy = make_proxy({"m": backend}, database, data_dir=data_dir)
    try:
        (line,) = proxy.lines("WARNING", "tmpfs")
        assert str(database.path) in line and "db.uri" in line
    finally:
        proxy.stop()
        shutil.rmtree(data_dir)
        for path in database.path.parent.glob(database.path.name + "*"):
            path.unlink()


def test_held_database_file_is_opened_when_it_is_free(make_proxy, backend, tmp_path):
    database = Sqlite(tmp_path / "held.db")
    proxy = make_proxy({"m": backend}, database, start=False)
    database.stop()
    proxy.start(wait=False)
    proxy.wait_ready()
    assert proxy.wait_lines("WARNING", "held.db", "database is locked")
    assert proxy.post().status == 503
    done = run("keys", "create", "--user", "alice", "-c", proxy.path)
    assert done.returncode == 69 and done.stdout == "" and "database is locked" in done.stderr
    assert proxy.process.poll() is None
    database.resume()
    wait_until(lambda: proxy.post().status == 401, "the file opened")
    database.seed()
    wait_until(lambda: proxy.post().status == 200, "service")
    assert len(proxy.wait_events(1)) == 1


UNUSABLE = {
    "text": "this is no database, and long enough to be looked at as the head of one; once more: no",
    "another program": "CREATE TABLE bookmarks(url TEXT); PRAGMA user_version = 1",
    "schema version 2": "CREATE TABLE api_keys(id TEXT, access_level TEXT, secret TEXT, user_id TEXT,"
    " date_expiry TEXT, comment TEXT); PRAGMA user_version = 2",
    "directory": None,
}


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("arguments", [["keys", "list"], []])
def test_file_that_can_never_be_the_database_ends_it(tmp_path, name, arguments):
    file = tmp_path / "d/x.db"
    file.parent.mkdir()
    if name == "text":
        file.write_text(UNUSABLE[name])
    elif UNUSABLE[name] is None:
        file.mkdir()
    else:
        connection = sqlite3.connect(file)
        connection.executescript("PRAGMA journal_mode = WAL;" + UNUSABLE[name])
        connection.close()
    before = file.read_bytes() if file.is_file() else b""
    path = write(tmp_path, f'port = 0\n[db]\nuri = "sqlite://{file}"\n' + GOOD)
    done = run(*arguments, "-c", path, cwd=tmp_path)
    assert done.returncode == 69 and f"database: cannot open {file}: " in done.stderr, done
    assert "listening" not in done.stderr
    assert before == (file.read_bytes() if file.is_file() else b"")
    if name in ("another program", "schema version 2"):
        assert name in done.stderr


def wait_in_write(process):
    """Until the process waits for the reader of its stderr."""

    def is_there():
        assert process.poll() is None, process.returncode
        with open(f"/proc/{process.pid}/syscall") as file:
            return file.read().startswith(("1 0x2 ", "64 0x2 "))  # write(2, of x86-64 and AArch64

    wait_until(is_there, "a write to stderr")


@pytest.mark.parametrize("arguments", [[], ["check"], ["keys", "list"]])
def test_signal_to_reload_ends_nothing_that_starts(tmp_path, arguments):
    """The signal comes while the file is read: stderr is a full pipe, and there is a warning."""
    path = write(tmp_path, 'host = "127.0.0.1"\nport = 0\n' + GOOD.replace('1"', '1/v1"'))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while os.write(writer, b"x" * 65536):
            pass
    except BlockingIOError:
        os.set_blocking(writer, True)
    process = subprocess.Popen(
        [binary(), *arguments, "-c", path], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=writer
    )
    os.close(writer)
    wait_in_write(process)
    process.send_signal(signal.SIGHUP)
    watchdog = threading.Timer(DEADLINE, process.kill)
    watchdog.start()
    told = b""
    with open(reader, "rb", buffering=0) as pipe:
        while piece := pipe.read(65536):
            told += piece
            if b"Config reloaded" in told:
                process.terminate()
    assert process.wait(DEADLINE) == 0, told
    watchdog.cancel()
    assert arguments or b"Config reloaded" in told


@pytest.mark.parametrize("place", ["no room", "closed"])
def test_exit_code_is_the_same_when_stderr_takes_nothing(tmp_path, place):
    redirection = {"no room": "2>/dev/full", "closed": "2>&-"}[place]

    def status(*arguments):
        command = " ".join(shlex.quote(str(word)) for word in (binary(), *arguments))
        return subprocess.run(["sh", "-c", f"{command} {redirection}"], cwd=tmp_path).returncode

    good = write(tmp_path, GOOD)
    assert status("check", "-c", tmp_path / "none.toml") == 78
    assert status("-c", tmp_path / "none.toml") == 78
    assert status("keys", "list", "-c", tmp_path / "none.toml") == 78
    assert status("check", "-c", good) == 0
    assert status("keys", "create", "--user", "", "-c", good) == 64
    assert status("keys", "nonsense") == 64
    assert status("keys", "revoke", "none", "-c", good) == 1


@pytest.mark.parametrize("place", ["no room", "closed"])
def test_server_starts_with_a_warning_when_stderr_takes_nothing(tmp_path, backend, place):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = write(tmp_path, f'host = "127.0.0.1"\nport = {port}\n')  # no backends: a warning
    redirection = {"no room": "2>/dev/full", "closed": "2>&-"}[place]
    process = subprocess.Popen(
        ["sh", "-c", f"exec {shlex.quote(str(binary()))} -c {path} {redirection}"], cwd=tmp_path
    )

    def is_up():
        assert process.poll() is None, process.returncode
        try:
            client.Connection(port).close()
            return True
        except OSError:
            return False

    wait_until(is_up, "the listener")
    process.terminate()
    assert process.wait(DEADLINE) == 0
    database = (tmp_path / "data/llm-billing-proxy.db").read_bytes()
    assert database.startswith(b"SQLite format 3\0") and b"listening on" not in database


@pytest.mark.parametrize("place", ["no room", "closed"])
def test_output_that_nobody_gets_is_a_failure(tmp_path, place):
    redirection = {"no room": ">/dev/full", "closed": ">&-"}[place]
    path = write(tmp_path, GOOD)
    for arguments in (
        ["check", "-c", path],
        ["keys", "list", "-c", path],
        ["keys", "list", "--json", "-c", path],
        ["keys", "create", "--user", "a", "-c", path],
        ["keys", "create", "--user", "a", "--hash", "0" * 64, "-c", path],
        ["--help"],
    ):
        command = " ".join(shlex.quote(str(word)) for word in (binary(), *arguments))
        done = subprocess.run(
            ["sh", "-c", f"{command} {redirection}"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 74 and "could not be printed" in done.stderr, (arguments, done)
    assert json.loads(run("keys", "list", "--json", "-c", path, cwd=tmp_path).stdout) == []


def test_limit_of_open_files_is_raised(proxy):
    with open(f"/proc/{proxy.pid}/limits") as limits:
        line = next(line for line in limits if line.startswith("Max open files"))
    soft, hard = line.split()[3:5]
    assert soft == hard


def test_threads_default_to_the_cores(make_proxy, backend):
    proxy = make_proxy({"m": backend}, threads=None)
    cores = len(os.sched_getaffinity(0))
    assert len(os.listdir(f"/proc/{proxy.pid}/task")) >= cores
    wait_until(lambda: proxy.post().status == 200, "service")


def test_access_line_has_everything(proxy, backend):
    reply = proxy.post(stream=True, token="token3", seed=9)
    (line,) = proxy.wait_lines(reply.id)
    for part in (
        "66fd1d1de3a0c3eaae1b0c03",
        "user3",
        "model=m",
        "status=200",
        f"127.0.0.1:{backend.port}",
        "prompt_n=16",
        "completion_n=21",
        "bytes=",
        "first_byte_ms=",
        "duration_ms=",
    ):
        assert part in line, line
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO ", line)


def test_threads_are_named_for_what_they_do(proxy):
    names = {path.read_text().strip() for path in pathlib.Path(f"/proc/{proxy.pid}/task").glob("*/comm")}
    ledger = {"ledger-write", "ledger-keep", "ledger-read", "ledger-ship"}
    assert {"llm-billing-pro", "server", "log", "keys", "control"} | ledger <= names, names


@pytest.mark.parametrize(
    "model,shown",
    [
        ("nobody/llama-3.1:8b", "nobody/llama-3.1:8b"),
        ("My password is hunter2", "-"),
        ("x" * 64, "x" * 64),
        ("x" * 65, "-"),
        ("", "-"),
    ],
)
def test_access_line_tells_what_unknown_model_was_asked_for(proxy, model, shown):
    reply = proxy.post(model=model)
    (line,) = proxy.wait_lines(reply.id)
    assert f" model={shown} " in line, line
    assert f"status={reply.status}" in line


def test_log_of_a_client_cannot_be_forged(proxy):
    proxy.post(model="x\n2026-01-01T00:00:00.000Z ERROR forged \x1b[31m")
    proxy.request("GET", "/%0aforged", [("User-Agent", "forged\x1b[31m")])
    assert proxy.stop() == 0
    assert "\x1b" not in proxy.log
    assert not [
        line
        for line in proxy.log.splitlines()
        if line.startswith("2026-01-01") or line.startswith("forged")
    ]


def test_stalled_reader_of_the_log_stops_no_request(backend, tmp_path):
    """stderr is a pipe that nobody reads; it is full after 64 KiB."""
    reader, writer = os.pipe()
    proxy = Proxy(tmp_path / "proxy", {"m": backend})
    proxy.start()
    assert proxy.stop() == 0  # made its tables and the keys
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    proxy.write_text(toml({**proxy.config, "port": port}))
    process = subprocess.Popen(
        [binary(), "-c", str(proxy.path)], cwd=tmp_path, stderr=writer, env=environment()
    )
    os.close(writer)
    try:
        proxy.port = port

        def is_up():
            try:
                proxy.connect().close()
                return True
            except OSError:
                return False

        wait_until(is_up, "the listener")
        with proxy.connect() as client:
            for _ in range(1000):
                assert client.post().status == 200
    finally:
        process.terminate()
        process.wait(30)
        os.close(reader)
