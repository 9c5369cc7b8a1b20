"""SIGHUP: a good file is in effect when the log says so, a bad one changes nothing, no request
notices."""

import itertools
import os
import signal
import threading

import pytest

from rig import sse
from rig.ca import Authority
from rig.wait import wait_until


def named(name):
    """A backend's script that says which one it is."""

    def script(exchange):
        if exchange.request.json().get("stream"):
            exchange.stream(
                sse.chunk(name), sse.chunk(finish="stop"), sse.usage_chunk(7, 3), sse.DONE
            )
        else:
            exchange.reply(200, sse.completion(name, usage=sse.usage(7, 3)))

    return script


BROKEN = {
    "no TOML": "backends = [",
    "no url": '[backends.m]\ntoken = "x"\n',
    "bad url": '[backends.m]\nurl = "ftp://a"\ntoken = "x"\n',
    "unknown key": "prot = 1\n",
    "wrong type": 'port = "80"\n',
    "empty": "",
    "no backends": 'log_level = "DEBUG"\n[backends]\n',
    "no database URI": '[db]\nuri = "mongodb://u:SEC@RET@h"\n',
    "no file": None,
}


def send_broken(proxy, text):
    """SIGHUP with a broken file; waits until it is refused. The good file is back afterwards."""
    good = proxy.path.read_text()
    before = len(proxy.lines(": error:"))
    if text is None:
        proxy.path.unlink()
    else:
        proxy.write_text(text)
    proxy.signal(signal.SIGHUP)
    wait_until(lambda: len(proxy.lines(": error:")) > before, "the line of the error")
    proxy.write_text(good)
    return proxy.lines(": error:")[before:]


class Customers:
    """Ask on and on; each answer that began and ended under one config must be of its backend."""

    def __init__(self, proxy, count):
        self.config = (0, "one")  # version and backend; odd: a change is under way
        self.checked = [0] * count  # the version under which each customer was last answered
        self.answers = itertools.count()
        self.failures = []
        self._proxy = proxy
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number):
        try:
            with self._proxy.connect() as client:
                while not self._stopping.is_set():
                    config = self.config
                    reply = client.post(stream=number % 2 == 0)
                    assert reply.status == 200, reply
                    next(self.answers)
                    if config[0] % 2 == 0 and self.config == config:
                        assert f'"{config[1]}"'.encode() in reply.body, (config, reply.body)
                        self.checked[number] = config[0]
        except BaseException as failure:  # noqa: BLE001 - told by check()
            self.failures.append(failure)

    def change(self, apply, name):
        """Applies a new config, then waits until every customer was answered under it."""
        version = self.config[0]
        self.config = (version + 1, name)
        apply()
        self.config = (version + 2, name)
        wait_until(
            lambda: self.failures or min(self.checked) == version + 2,
            f"an answer to each of {self.checked} under version {version + 2}",
        )
        self.check()

    def check(self):
        assert not self.failures, self.failures[0]

    def stop(self):
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def test_200_reloads_under_load(make_proxy, make_backend):
    backends = {"one": make_backend(), "two": make_backend()}
    for name, backend in backends.items():
        backend.script = named(name)
    proxy = make_proxy({"m": backends["one"], "still": backends["one"]})
    customers = Customers(proxy, 8)
    broken, names = itertools.cycle(BROKEN.values()), itertools.cycle(["two", "one"])
    try:
        for number in range(200):
            if number % 4 == 3:
                send_broken(proxy, next(broken))
                continue
            name = next(names)
            url = backends[name].url()
            customers.change(lambda url=url: proxy.reload(backends={"m": {"url": url}}), name)
    finally:
        customers.stop()
    customers.check()
    assert len(proxy.settled_events()) == next(customers.answers)


def test_removed_backend_is_refused_and_an_added_one_served(proxy, backend, make_backend):
    fresh = make_backend()
    with proxy.connect() as client:
        assert client.post().status == 200
        proxy.reload(backends={"m": None, "new": {"url": fresh.url(), "token": "t"}})
        assert client.post().status == 404
        assert client.post(model="new").status == 200
    assert len(backend.requests) == 1


def test_request_in_flight_keeps_its_backend(proxy, backend):
    gate = backend.gate("the reload is logged")

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"))
        gate.wait()
        exchange.write(sse.chunk(finish="stop"), sse.usage_chunk(7, 3), sse.DONE)
        exchange.end()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream()
        proxy.reload(backends={"m": None, "other": {"url": backend.url(), "token": ""}})
        gate.open()
        assert client.read_body(reply).endswith(sse.DONE)
    assert proxy.wait_event(reply.id)["model"] == "m"


def test_every_connection_uses_the_new_token(proxy, backend):
    clients = []
    for _ in range(8):
        clients.append(proxy.connect())
        clients[-1].post()
    proxy.reload(backends={"m": {"token": "another"}})
    for client in clients:
        client.post()
        client.close()
    tokens = [call.header("Authorization") for call in backend.requests]
    assert tokens == ["Bearer backend-token-of-m"] * 8 + ["Bearer another"] * 8


def test_log_names_what_changed(make_proxy, backend):
    proxy = make_proxy({"same": backend, "gone": backend, "moved": backend})
    proxy.reload(
        backends={
            "gone": None,
            "moved": {"url": backend.url("/v2")},
            "fresh": {"url": backend.url(), "token": "x"},
        }
    )
    (line,) = proxy.lines("Config reloaded. Configured backends:")
    for name in ("same", "moved", "fresh"):
        assert name in line
    after = proxy.log[proxy.log.index("Config reloaded") :]
    for word, name in (("added", "fresh"), ("changed", "moved"), ("removed", "gone")):
        assert any(word in told and name in told for told in after.splitlines()), after


def test_log_names_what_changed_at_every_level(make_proxy, backend):
    proxy = make_proxy({"gone": backend}, log_level="CRITICAL")
    proxy.reload(port=1, backends={"gone": None, "fresh": {"url": backend.url(), "token": "x"}})
    proxy.wait_lines("added=[fresh]", "removed=[gone]")
    proxy.wait_lines("needs restart: port")


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_changes_nothing(proxy, backend, name):
    told = send_broken(proxy, BROKEN[name])
    assert any(str(proxy.path.name) in line for line in told), told
    if name in ("empty", "no backends"):
        assert len(told) == 1 and "backends: none; the old configuration stays" in told[0]
        assert not proxy.lines("every model will be refused")
    elif BROKEN[name] is not None:
        assert any(":1:" in line or ":2:" in line for line in told), told
    assert proxy.post().status == 200
    proxy.reload(backends={"m": {"token": "another"}})
    proxy.post()
    assert backend.requests[-1].header("Authorization") == "Bearer another"


def test_file_without_backends_is_fine_where_there_were_none(make_proxy, backend):
    proxy = make_proxy({})
    proxy.reload(timeout_read=5)
    proxy.reload(backends={"m": {"url": backend.url(), "token": ""}})
    assert proxy.post().status == 200


def test_pipe_in_the_place_of_the_file_holds_nothing_up(proxy, backend):
    good = proxy.path.read_text()
    proxy.path.unlink()
    os.mkfifo(proxy.path)
    proxy.signal(signal.SIGHUP)
    proxy.wait_lines(": error:", "expected a regular file")
    proxy.path.unlink()
    proxy.write_text(good)
    proxy.reload(backends={"m": {"token": "another"}})
    proxy.post()
    assert backend.requests[-1].header("Authorization") == "Bearer another"


def test_other_content_of_a_ca_file_is_live(make_proxy, make_backend, tmp_path):
    right, wrong = Authority(tmp_path, "right"), Authority(tmp_path, "wrong")
    backend = make_backend(tls=right.server())
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(right.cert.read_bytes())
    proxy = make_proxy({"m": {"url": backend.url(), "ca_file": str(trusted)}}, threads=1)
    assert proxy.post().status == 200
    trusted.write_bytes(wrong.cert.read_bytes())
    proxy.reload()
    assert proxy.post().status == 502, "neither the kept connection nor the old authority"
    trusted.write_text("garbage")
    before = len(proxy.lines(": error:"))
    proxy.signal(signal.SIGHUP)
    wait_until(lambda: len(proxy.lines(": error:")) > before, "the line of the error")
    trusted.write_bytes(right.cert.read_bytes())
    proxy.reload()
    assert proxy.post().status == 200


def test_live_settings(make_proxy, backend):
    proxy = make_proxy({"m": backend})
    proxy.reload(timeout_read=0.2, limits={"body_bytes_max": 2000})
    backend.next(lambda exchange: exchange.wait_gone())
    assert proxy.post().status == 504
    assert proxy.post(user="x" * 2000).status == 413
    proxy.reload(timeout_read=None, limits=None)
    assert proxy.post(user="x" * 2000).status == 200


def test_log_level_is_live(proxy, backend):
    first = proxy.post().id
    proxy.wait_lines(first)
    proxy.write_config(log_level="ERROR")
    proxy.signal(signal.SIGHUP)

    def is_quiet():
        id = proxy.post().id
        backend.next(lambda exchange: exchange.reply(200, b"{}"))  # no usage: an error line
        proxy.wait_lines("ERROR", proxy.post().id)  # the log is in order
        return not proxy.lines(id)

    wait_until(is_quiet, "no more access lines")
    proxy.write_config(log_level="INFO")
    proxy.signal(signal.SIGHUP)
    ids = []

    def is_loud():
        ids.append(proxy.post().id)
        return any(proxy.lines(id) for id in ids)

    wait_until(is_loud, "access lines again")


def test_flush_timeout_is_live(make_proxy, backend):
    proxy = make_proxy({"m": backend}, flush_timeout=3600)
    assert proxy.post().status == 200
    proxy.wait_events(1)
    proxy.reload(flush_timeout=0.3)
    proxy.database.stop()
    id = proxy.post().id
    assert proxy.stop() == 0
    assert proxy.lines("WARNING", "1 events are not in the database yet")
    proxy.database.resume()
    proxy.launch()
    proxy.wait_ready()
    assert proxy.wait_event(id)


@pytest.mark.parametrize(
    "key, changes",
    [
        ("port", {"port": 1}),
        ("host", {"host": "127.0.0.2"}),
        ("threads", {"threads": 1}),
        ("data_dir", {"data_dir": "elsewhere"}),
        ("db.uri", {"db": {"uri": "sqlite://other.db"}}),
        ("ledger.max_bytes", {"ledger": {"max_bytes": 32 << 20}}),
        ("ledger.commit_gap", {"ledger": {"commit_gap": 0.01}}),
        ("ledger.commit_timeout", {"ledger": {"commit_timeout": 1}}),
        ("ledger.max_replay_age", {"ledger": {"max_replay_age": 3600}}),
    ],
)
def test_what_needs_a_restart_is_said(proxy, key, changes):
    proxy.reload(**changes)
    wait_until(lambda: proxy.lines("needs restart", key), f"needs restart: {key}")
    assert proxy.post().status == 200


def test_many_signals_at_once(proxy, backend):
    for _ in range(50):
        proxy.signal(signal.SIGHUP)
    proxy.reload(backends={"m": {"token": "last"}})
    wait_until(
        lambda: (
            proxy.post().status == 200
            and backend.requests[-1].header("Authorization") == "Bearer last"
        ),
        "the last file in effect",
    )
