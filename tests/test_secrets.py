"""Planted secrets: none of them is ever found in the log, in files beside the database, or in
error bodies."""

import json
import os
import signal
import time

import pytest

from rig import sse
from rig.client import CHAT
from rig.database import Sqlite, digest
from rig.proxy import run
from rig.wait import wait_until

CLIENT = "client-secret-Zm9vYmFy"
BACKEND = "backend-secret-YmFy"
PROMPT = "prompt-secret-the-patient-has"
ANSWER = "answer-secret-take-two"
PASSWORD = "database-secret-hunter2"
SECRETS = [CLIENT, BACKEND, PROMPT, ANSWER, PASSWORD]


def found_in(text):
    data = text if isinstance(text, bytes) else text.encode()
    return [secret for secret in SECRETS if secret.encode() in data]


def files_below(folder):
    return [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]


def ask_everything(proxy, backend):
    """One request of every fate; returns the bodies of errors that the proxy made itself."""
    call = {"messages": [{"role": "user", "content": PROMPT}]}
    answer = sse.completion(ANSWER, usage=sse.usage(7, 3))
    bodies = []

    def post(call=call, token=CLIENT, is_own_error=True, **members):
        with proxy.connect() as client:
            client.start_post(call, token=token, **members)
            try:
                reply = client.read()
            except Exception:  # noqa: BLE001 - cut streams
                return
            if is_own_error and reply.status >= 400:
                bodies.append(reply.raw_head + reply.body)

    backend.next(lambda exchange: exchange.reply(200, answer))
    post(is_own_error=False)
    backend.next(
        lambda exchange: exchange.stream(sse.chunk(ANSWER), sse.chunk(finish="stop"), sse.DONE)
    )
    post(is_own_error=False, stream=True)
    backend.next(lambda exchange: exchange.reply(500, {"error": {"message": ANSWER + PROMPT}}))
    post(is_own_error=False)
    for script in (
        lambda exchange: exchange.close(),
        lambda exchange: exchange.send(f"HTTP/1.1 {ANSWER}\r\n\r\n".encode()) or exchange.close(),
        lambda exchange: exchange.reply(302, b"", [("Location", f"http://{ANSWER}/{BACKEND}")]),
        lambda exchange: exchange.open() or exchange.write(sse.chunk(ANSWER)) or exchange.close(),
        lambda exchange: (
            exchange.open()
            or exchange.write(sse.data({"error": {"message": ANSWER}}))
            or exchange.end()
        ),
        lambda exchange: exchange.wait_gone(),
    ):
        backend.next(script)
        post(stream=True, is_own_error=False)
        backend.next(script)
        post()
    post(token=CLIENT + "x")
    post(model=PROMPT[:6] + "-no-such-model")
    post(stream=PROMPT)
    post(json.dumps({**call, "model": "m"})[:-1].encode())
    post(b'{"model": "m", "messages": "' + PROMPT.encode() + b'\xff"}')
    post(b'{"model": "m", "model": "' + PROMPT.encode() + b'"}')
    for head in (
        [("Authorization", f"Basic {CLIENT}")],
        [("Authorization", f"Bearer {CLIENT}"), ("Authorization", f"Bearer {CLIENT}")],
        [("Authorization", f"Bearer {CLIENT} {CLIENT}")],
        [(f"X {CLIENT}", "bad name")],
        [("X-Bad", f"{CLIENT}\x01")],
        [("Transfer-Encoding", CLIENT)],
        [("Expect", CLIENT)],
        [("Content-Length", CLIENT)],
    ):
        reply = proxy.request("POST", CHAT, head, PROMPT.encode())
        bodies.append(reply.raw_head + reply.body)
    for path in (f"/{CLIENT}", f"{CHAT}?key={CLIENT}", f"/v1/{CLIENT}\x01"):
        reply = proxy.request(
            "POST", path, [("Authorization", f"Bearer {CLIENT}")], PROMPT.encode()
        )
        bodies.append(reply.raw_head + reply.body)
    return bodies


def test_secrets_are_nowhere(make_proxy, backend, database):
    proxy = make_proxy(
        {"m": {"url": backend.url(), "token": BACKEND}},
        database,
        log_level="DEBUG",
        timeout_read=0.2,
    )
    database.add_key(CLIENT, "user9")
    bodies = ask_everything(proxy, backend)
    assert len(bodies) > 15 and [found_in(body) for body in bodies if found_in(body)] == []
    assert not [call for call in backend.requests if CLIENT.encode() in call.head]
    for broken in (
        f'[backends.m]\nurl = "http://a"\ntoken = "{BACKEND}',
        f"[backends.m]\ntoken = {BACKEND}\n",
        f'url = "http://{BACKEND}@a"\n',
    ):
        before = len(proxy.lines(": error:"))
        proxy.write_text(broken)
        proxy.signal(signal.SIGHUP)
        wait_until(lambda: len(proxy.lines(": error:")) > before, "the broken file refused")
        done = run("check", "-c", proxy.path)
        assert found_in(done.stdout + done.stderr) == []
    proxy.stop()
    assert found_in(proxy.log) == []
    assert digest(CLIENT) not in proxy.log
    assert found_in(proxy.output) == []
    for path in files_below(proxy.directory / "data"):
        with open(path, "rb") as file:
            assert found_in(file.read()) == [], path
    if database.kind == "sqlite":
        for name in os.listdir(database.path.parent):
            if name.startswith(database.path.name):
                assert found_in((database.path.parent / name).read_bytes()) == []


def says(text, how):
    """A script that says `text` to the client, however servers do."""
    data = text if isinstance(text, bytes) else text.encode()

    def script(exchange):
        if how == "headers":
            headers = [("Retry-After", text), ("x-ratelimit-key", f"key {text}")]
            exchange.reply(429, {}, headers)
        elif how in ("plain", "error"):
            body = sse.completion(f"a {text} b", usage=sse.usage(7, 3))
            exchange.reply(200 if how == "plain" else 401, body)
        else:
            event = sse.chunk(f"a {text} b")
            exchange.open()
            exchange.write(sse.chunk("first"))
            at = event.index(data) + 5  # in the middle of it
            for piece in (event[:at], event[at:]):
                exchange.write(piece)
                time.sleep(0.05)
            exchange.write(sse.chunk(finish="stop"), sse.usage_chunk(7, 3), sse.DONE)
            exchange.end()

    return script


@pytest.mark.parametrize("how", ["headers", "plain", "error", "stream"])
def test_backend_token_never_reaches_the_client(make_proxy, backend, how):
    proxy = make_proxy({"m": {"url": backend.url(), "token": BACKEND}})
    backend.next(says(BACKEND, how))
    reply = proxy.post(stream=how == "stream")
    assert found_in(reply.raw_head + reply.body) == []
    if how != "headers":
        assert b"a " + b"*" * len(BACKEND) + b" b" in reply.body
    if how in ("plain", "stream"):
        assert proxy.wait_event(reply.id)["prompt_n"] == 7


@pytest.mark.parametrize("how", ["plain", "error", "stream"])
def test_placeholder_for_no_token_is_no_secret(make_proxy, backend, how):
    proxy = make_proxy({"m": {"url": backend.url(), "token": "EMPTY"}})
    backend.next(says("EMPTY", how))
    assert b"a EMPTY b" in proxy.post(stream=how == "stream").body


def test_token_in_an_endless_event_does_not_slip_through(make_proxy, backend):
    """An event beyond the bound is passed on in pieces; the token may lie across two of them."""
    proxy = make_proxy({"m": {"url": backend.url(), "token": BACKEND}})
    size = 1 << 20

    def script(exchange):
        exchange.open()
        for before in range(len(BACKEND) + 1):
            filler = size - len(b"data: ") - before
            event = b"data: " + b"x" * filler + BACKEND.encode() + b"y\n\n"
            exchange.write(event[:size])
            time.sleep(0.02)
            exchange.write(event[size:])
        exchange.end()

    backend.next(script)
    body = proxy.post(stream=True).body
    assert found_in(body) == []
    assert body.count(b"*" * len(BACKEND)) == len(BACKEND) + 1


def test_database_password_is_not_logged(make_proxy, backend, mongo):
    proxy = make_proxy(
        {"m": backend},
        mongo,
        seed=False,
        log_level="DEBUG",
        db={"uri": f"mongodb://billing:{PASSWORD}@127.0.0.1:1/?serverSelectionTimeoutMS=200"},
    )
    proxy.post()
    proxy.wait_lines("ERROR")
    done = run("keys", "list", "-c", proxy.path)
    assert found_in(done.stdout + done.stderr) == []
    proxy.stop()
    assert found_in(proxy.log) == []
    assert "billing:***@" in proxy.log


def test_secrets_are_not_in_the_arguments(proxy):
    with open(f"/proc/{proxy.pid}/cmdline", "rb") as arguments:
        assert b"token" not in arguments.read()


def test_database_file_is_private(make_proxy, backend, tmp_path):
    proxy = make_proxy(
        {"m": backend}, Sqlite(tmp_path / "proxy0/data/llm-billing-proxy.db"), db=None
    )
    assert os.stat(proxy.database.path).st_mode & 0o077 == 0
