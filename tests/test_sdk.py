"""The official OpenAI SDKs for Python and Node, streamed and not, against the proxy."""

import json
import subprocess

import openai
import pytest

from rig import sse
from rig.database import ROOT
from rig.wait import DEADLINE

MESSAGES = [{"role": "user", "content": "Say hello."}]


def cut(exchange):
    exchange.open()
    exchange.write(sse.chunk("a"))
    exchange.close()


@pytest.fixture
def sdk_proxy(make_proxy, backend, make_backend):
    cutting = make_backend()
    cutting.script = cut
    return make_proxy({"m": backend, "cut": cutting})


@pytest.fixture
def client(sdk_proxy):
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{sdk_proxy.port}/v1", api_key="token2", max_retries=0
    ) as client:
        yield client


def test_python_plain(client, sdk_proxy):
    raw = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    answer = raw.parse()
    assert answer.choices[0].message.content == "Hello world"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 3)
    event = sdk_proxy.wait_events(1)[0]
    assert (event["id"], event["prompt_n"], event["completion_n"]) == (
        raw.headers["x-request-id"],
        7,
        3,
    )


def test_python_stream(client, sdk_proxy):
    chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello world"
    assert all(chunk.usage is None for chunk in chunks)
    assert sdk_proxy.wait_events(1)[0]["completion_n"] == 3


def test_python_stream_with_usage(client, sdk_proxy):
    chunks = list(
        client.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == [] and chunks[-1].usage.prompt_tokens == 7
    assert sdk_proxy.wait_events(1)[0]["completion_n"] == 3


def test_python_connection_is_reused_and_billed_each_time(client, sdk_proxy):
    for number in range(10):
        list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True, seed=number))
        client.chat.completions.create(model="m", messages=MESSAGES, seed=number)
    assert len(sdk_proxy.settled_events()) == 20


def test_python_client_that_leaves_is_billed(client, sdk_proxy):
    stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    next(stream)
    stream.close()
    assert sdk_proxy.wait_events(1)[0]["completion_n"] == 3


def test_python_models(client):
    models = client.models.list().data
    assert [model.id for model in models] == ["cut", "m"]
    assert all(
        isinstance(model.created, int) and isinstance(model.owned_by, str) for model in models
    )


def test_python_errors_are_typed(client, sdk_proxy):
    with pytest.raises(openai.NotFoundError) as found:
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    assert found.value.code == "model_not_found" and found.value.param == "model"
    with pytest.raises(openai.AuthenticationError) as found:
        client.with_options(api_key="wrong").chat.completions.create(model="m", messages=MESSAGES)
    assert found.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="m", messages=MESSAGES, extra_body={"stream": "yes"})
    with pytest.raises(openai.APIError) as found:
        list(client.chat.completions.create(model="cut", messages=MESSAGES, stream=True))
    assert found.value.message


def test_python_does_not_retry_what_may_have_worked(sdk_proxy, backend):
    backend.script = lambda exchange: exchange.close()
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{sdk_proxy.port}/v1", api_key="token2"
    ) as retrying:
        with pytest.raises(openai.InternalServerError):
            retrying.chat.completions.create(model="m", messages=MESSAGES)
    assert len(backend.requests) == 1


def test_node(sdk_proxy):
    done = subprocess.run(
        [
            "node",
            ROOT / "tests/rig/sdk.mjs",
            ROOT / "build/node",
            f"http://127.0.0.1:{sdk_proxy.port}/v1",
            "token2",
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["plain"]["text"] == "Hello world" and seen["plain"]["usage"]["prompt_tokens"] == 7
    assert seen["stream"] == {"text": "Hello world", "usage": None, "empty": 0}
    assert (
        seen["asked"]["text"] == "Hello world" and seen["asked"]["usage"]["completion_tokens"] == 3
    )
    assert seen["models"] == ["cut", "m"]
    assert (seen["unknown"]["type"], seen["unknown"]["code"]) == (
        "NotFoundError",
        "model_not_found",
    )
    assert (seen["refused"]["type"], seen["refused"]["status"]) == ("AuthenticationError", 401)
    assert seen["cut"] and seen["cut"]["message"]
    events = sdk_proxy.settled_events()
    assert len(events) == 4, events  # plain, two streams, one that the client left
    assert seen["id"] in [event["id"] for event in events]
