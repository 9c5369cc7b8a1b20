"""The config file: what is wrong with it is told at once, with its place, by `check` and by the
server."""

import os
import re
import socket
import subprocess

import pytest

from rig.database import ROOT, Sqlite
from rig.proxy import Proxy, binary, environment, run, toml
from rig.wait import wait_until

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
    checked = run("check", "-c", path, cwd=tmp_path)
    assert checked.returncode == 78
    assert checked.stderr.startswith(f"{path}:2:7: error: db.uri: MongoDB URI: ")
    for arguments in (["keys", "list"], []):
        done = run(*arguments, "-c", path, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (78, "", checked.stderr)
    good = write(tmp_path, GOOD, "good.toml")
    told = checked.stderr.split("db.uri: ")[1]
    done = run("-c", good, cwd=tmp_path, env={"LLMPROXY_DB_URI": uri})
    assert done.returncode == 78 and done.stderr == f"{good}: error: LLMPROXY_DB_URI: {told}"
    for piece in ("sec", "ret", "pw", "12"):
        assert piece not in checked.stderr.replace(str(path), "").lower().replace("secret", "")


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
    for arguments in (
        ["--nonsense"],
        ["nonsense"],
        ["keys"],
        ["keys", "create"],
        ["keys", "nonsense"],
    ):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 64, (arguments, done)


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
