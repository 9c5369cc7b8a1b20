"""`demo`: a newcomer's first minute, with the curl commands exactly as it prints them."""

import json
import os
import re
import signal
import subprocess

import pytest

from rig import sse
from rig.proxy import binary, environment, run
from rig.wait import DEADLINE, wait_until


class Demo:
    def __init__(self, tmp_path, *arguments):
        self._path = tmp_path / "output"
        self.scratch = tmp_path / "scratch"
        self.scratch.mkdir()
        with open(self._path, "wb") as output:
            self.process = subprocess.Popen(
                [binary(), "demo", *arguments],
                cwd=tmp_path,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(TMPDIR=str(self.scratch)),
            )

    @property
    def output(self):
        return self._path.read_text()

    def commands(self):
        """The curl commands, once the demo is ready for them."""
        find = re.compile(r"^curl (?:.*\\\n)*.*$", re.MULTILINE)
        wait_until(lambda: len(find.findall(self.output)) >= 2, f"two commands in {self.output}")
        return find.findall(self.output)

    def run(self, command):
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, timeout=DEADLINE
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def billed(self, count):
        find = re.compile(r"^billed: .* prompt_n=(\d+) completion_n=(\d+)$", re.MULTILINE)
        wait_until(lambda: len(find.findall(self.output)) >= count, f"{count} lines `billed`")
        return [tuple(map(int, found)) for found in find.findall(self.output)]

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE)


@pytest.fixture
def make_demo(tmp_path):
    made = []

    def make(*arguments):
        made.append(Demo(tmp_path, *arguments))
        return made[-1]

    yield make
    for demo in made:
        demo.stop()


def test_commands_work_as_printed_and_are_billed_truly(make_demo):
    demo = make_demo()
    stream, plain = demo.commands()
    assert '"stream":true' in stream and "stream" not in plain.replace("# streamed", "")
    answer = demo.run(stream)
    chunks = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    assert answer.rstrip().endswith("data: [DONE]")
    words = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks).split()
    ((_, completion_n),) = demo.billed(1)
    assert completion_n == len(words) > 0
    reply = json.loads(demo.run(plain))
    usage = reply["usage"]
    assert demo.billed(2)[1] == (usage["prompt_tokens"], usage["completion_tokens"])
    assert usage["completion_tokens"] == len(reply["choices"][0]["message"]["content"].split())


def test_temporary_directory_goes_with_the_demo(make_demo):
    demo = make_demo()
    demo.run(demo.commands()[0])
    assert os.listdir(demo.scratch)
    assert demo.stop() == 0
    assert os.listdir(demo.scratch) == []


def test_given_directory_stays(make_demo, tmp_path):
    demo = make_demo("--dir", tmp_path / "mine")
    demo.run(demo.commands()[0])
    demo.billed(1)
    assert demo.stop() == 0
    found = subprocess.run(
        [
            "sqlite3",
            tmp_path / "mine/llm-billing-proxy.db",
            "SELECT count(*) FROM events_completion",
        ],
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == "1", found.stderr


def test_real_server_in_the_place_of_the_scripted_one(make_demo, backend):
    demo = make_demo("--backend", backend.url(), "--backend-token", "secret", "--model", "tiny")
    stream, plain = demo.commands()
    assert demo.run(stream).rstrip().endswith(sse.DONE.decode().rstrip())
    assert json.loads(demo.run(plain))["usage"] == sse.usage(7, 3)
    assert demo.billed(2) == [(7, 3), (7, 3)]
    assert {call.json()["model"] for call in backend.requests} == {"tiny"}
    assert {call.header("Authorization") for call in backend.requests} == {"Bearer secret"}
    assert "secret" not in demo.output


@pytest.mark.parametrize(
    "name", ["it's", '"quoted" \\', "$(touch made)`touch made`", "a b;c&d|e>made", "Za\u017c\u00f3\u0142\u0107", "%s{}"]
)
def test_commands_work_for_every_name(make_demo, tmp_path, name):
    demo = make_demo("--model", name)
    stream, plain = demo.commands()
    assert demo.run(stream).rstrip().endswith("data: [DONE]")
    assert json.loads(demo.run(plain))["model"] == name
    demo.billed(2)
    billed = [line for line in demo.output.splitlines() if line.startswith("billed:")]
    assert all(f" model={name} " in line for line in billed), billed
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "option, value",
    [
        ("--model", ""),
        ("--model", "a\nb"),
        ("--model", "a\u009b31m"),
        ("--model", "\udcff"),
        ("--model", "x" * 257),
        ("--backend-token", "a b"),
        ("--backend-token", "a\r\nX-Evil: 1"),
        ("--backend-token", "\u00fc"),
        ("--backend", ""),
        ("--backend", "127.0.0.1:80"),
        ("--backend", "http://u:p@127.0.0.1"),
        ("--dir", ""),
        ("--port", ""),
        ("--port", "70000"),
    ],
)
def test_option_that_makes_no_sense_is_refused(tmp_path, option, value):
    more = ["--backend", "http://127.0.0.1:1"] if option == "--backend-token" else []
    done = run("demo", *more, option, value, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 64 and done.stdout == "" and option in done.stderr
    assert os.listdir(tmp_path) == []


def test_backend_with_v1_is_warned_of(make_demo, backend):
    demo = make_demo("--backend", backend.url("/v1"), "--backend-token", "t")
    demo.commands()
    assert "--backend: warning: requests will go to .../v1/v1/..." in demo.output


@pytest.mark.parametrize("place", ["missing", "a file"])
def test_no_temporary_directory_is_told(tmp_path, place):
    if place == "a file":
        (tmp_path / place).write_text("")
    done = run("demo", cwd=tmp_path, env={"TMPDIR": str(tmp_path / place)})
    assert done.returncode == 69 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "TMPDIR" in done.stderr


def test_ends_with_its_terminal(make_demo):
    demo = make_demo()
    demo.run(demo.commands()[0])
    demo.billed(1)
    demo.process.send_signal(signal.SIGHUP)
    assert demo.process.wait(DEADLINE) == 0
    assert os.listdir(demo.scratch) == []
