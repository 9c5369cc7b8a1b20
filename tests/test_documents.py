"""The commands of the documents are run as they stand there, one after the other, in a folder that looks like a
fresh clone with a build. What needs more than that is run by what ELSEWHERE names."""

import hashlib
import os
import re
import shutil
import signal
import subprocess

import pytest

from rig.database import ROOT
from rig.proxy import binary, environment
from rig.wait import DEADLINE, wait_until

ELSEWHERE = {
    "make run": "tools/fresh-test",
    "make test": "tools/fresh-test",
    "cat sample.js | mongosh": "tests/test_mongo.py",
    "llm-billing-proxy ledger resolve": "tests/test_ledger_commands.py",
    "llm-billing-proxy ledger ship": "tests/test_ledger_commands.py",
    "llm-billing-proxy ledger retarget": "tests/test_ledger_commands.py",
    "pkill -HUP": "tests/test_shutdown.py",
    "docker kill": "tests/test_shutdown.py",
    "docker build": "tools/docker-test",
    "docker run": "tools/docker-test",
    "docker exec": "tools/docker-test",
}
SERVER = re.compile(r"(build/release/)?llm-billing-proxy( -c \S+)?$")


def commands(document):
    """The commands of the document's blocks in the shell's language, without their comments."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", "").splitlines():
            command = re.sub(r"\s+# .*$", "", line).strip()
            if command and not command.startswith("#"):
                found.append(" ".join(command.split()) if "'" not in command else command)
    return found


def is_elsewhere(command):
    return command.startswith(tuple(ELSEWHERE))


class Clone:
    """The folder a reader works in: `build/release` and the PATH have the program."""

    def __init__(self, directory, backend):
        self.directory = directory
        (directory / "build/release").mkdir(parents=True)
        (directory / "build/release/llm-billing-proxy").symlink_to(binary())
        for name in ("sample.sql", "sample.js"):
            shutil.copy(ROOT / name, directory)
        table = re.search(r"^```toml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
        table = re.sub(r'^host = .*\nport = .*$', 'host = "127.0.0.1"\nport = 0', table, flags=re.MULTILINE)
        (directory / "config.toml").write_text(re.sub(r'url = ".*"', f'url = "{backend.url()}"', table))
        self.environment = environment(PATH=f"{directory}/build/release:{os.environ['PATH']}")
        self.server = None
        self.address = self.token = self.key = None

    def start_server(self, command):
        with open(self.directory / "log", "wb") as log:
            self.server = subprocess.Popen(command.split(), cwd=self.directory, env=self.environment, stderr=log)
        ready = re.compile(r"listening on (\S+)$", re.MULTILINE)
        read = (self.directory / "log").read_text
        self.address = wait_until(lambda: ready.search(read()), "the line `listening on`")[1]

    def stop_server(self):
        if self.server is None:
            return 0
        self.server.send_signal(signal.SIGTERM)
        return self.server.wait(DEADLINE)

    def run(self, command):
        """What a reader types: their own token, id and hash in the place of the document's words."""
        if self.address:
            command = command.replace("localhost:8080", self.address)
        for word, value in {"TOKEN": self.token, "ID": self.key}.items():
            command = re.sub(rf"\b{word}\b", value or word, command)
        command = command.replace("0123...", hashlib.sha256(b"mine").hexdigest())
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.directory, env=self.environment,
            capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if "keys create" in command and "--hash" not in command:
            self.token = self.token or done.stdout.strip()
        if "keys create" in command and "--hash" in command:
            self.key = done.stdout.strip()
        return done.stdout


@pytest.fixture
def clone(tmp_path, backend):
    clone = Clone(tmp_path, backend)
    yield clone
    assert clone.stop_server() == 0


def run_all(clone, document):
    outputs = {}
    for command in commands(document):
        if is_elsewhere(command):
            continue
        if SERVER.fullmatch(command):
            clone.start_server(command)
        else:
            outputs[command] = clone.run(command)
    return outputs


def test_commands_of_the_readme(clone):
    outputs = run_all(clone, "README.md")
    answers = [text for command, text in outputs.items() if command.startswith("curl")]
    assert len(answers) == 1 and "data: [DONE]" in answers[0]
    assert clone.token and clone.key
    assert any("sample.sql" in command for command in outputs)


def test_commands_of_the_guide_from_the_original(clone):
    run_all(clone, "docs/migrate.md")
    assert clone.address


@pytest.mark.parametrize("beginning", ELSEWHERE)
def test_command_has_its_test(beginning):
    where = (ROOT / ELSEWHERE[beginning]).read_text()
    assert any(command.startswith(beginning) for command in commands("README.md"))
    words = {"docker build": "bud", "docker run": "run_proxy", "docker exec": "keys", "docker kill": "HUP"}
    assert words.get(beginning, beginning.split()[-1]) in where


def test_make_targets_of_the_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    stages = subprocess.run([ROOT / "tools/test", "--list"], capture_output=True, text=True, check=True).stdout.split()
    for document in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "bench/README.md"):
        text = (ROOT / document).read_text()
        assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets, document
        assert set(re.findall(r"`tools/test ([a-z-]+)", text)) <= {*stages, "--list"}, document
