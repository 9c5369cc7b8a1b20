"""The endpoint table and the reading of a call: what is answered, what is refused, and in which
words."""

import json

import pytest

from rig import sse
from rig.client import CHAT, chat_headers

BEARER = [("Authorization", "Bearer token2")]


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    """One proxy for all cases of this file: none of them changes it."""
    from rig.backend import Backend
    from rig.proxy import Proxy

    backend = Backend()
    proxy = Proxy(
        tmp_path_factory.mktemp("endpoints"), {"m": backend, "b/model:2": backend}
    ).start()
    yield proxy, backend
    backend.close()
    proxy.finish()


def refused(stand, reply_of, status):
    """Asserts a refusal that the backend never sees; the same connection must work after it."""
    proxy, backend = stand
    before = len(backend.requests)
    with proxy.connect() as client:
        reply = reply_of(client)
        assert reply.status == status, reply
        error = reply.error
        assert len(backend.requests) == before
        assert client.post().status == 200
    return reply, error


# GET /v1/models


def test_models_are_the_configured_names(stand):
    reply = stand[0].request("GET", "/v1/models", BEARER)
    assert reply.status == 200 and reply.header("Content-Type") == "application/json"
    value = reply.json()
    assert value["object"] == "list"
    assert [model["id"] for model in value["data"]] == ["b/model:2", "m"]
    for model in value["data"]:
        assert set(model) == {"id", "object", "created", "owned_by"}
        assert model["object"] == "model"
        assert type(model["created"]) is int and type(model["owned_by"]) is str


@pytest.mark.parametrize("headers", [[], [("Authorization", "Bearer x")]])
def test_models_need_a_key(stand, headers):
    with stand[0].connect() as client:
        reply = client.request("GET", "/v1/models", headers)
        assert reply.status == 401 and reply.error
        assert client.request("GET", "/v1/models", BEARER).status == 200


def test_head_of_models_is_get_without_its_body(stand):
    with stand[0].connect() as client:
        got = client.request("GET", "/v1/models", BEARER)
        client.start("HEAD", "/v1/models", BEARER)
        head = client.read_head()
        assert head.status == 200
        for name in ("Content-Type", "Content-Length"):
            assert head.header(name) == got.header(name)
        assert client.request("GET", "/v1/models", BEARER).status == 200  # no body came before it


# Paths and methods.


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1/./chat/completions",
        "/v1/chat%2Fcompletions",
        "/V1/chat/completions",
        "/v1/completions",
        "/metrics",
        "/v1/chat/completions%00",
        "/v1/chat/../chat/completions",
        "/v1\\chat\\completions",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_unknown_path_is_404(stand, method, path):
    body = b"{}" if method == "POST" else b""
    refused(stand, lambda client: client.request(method, path, BEARER, body), 404)


@pytest.mark.parametrize(
    "method, path, allow",
    [
        ("GET", CHAT, "POST"),
        ("PUT", CHAT, "POST"),
        ("DELETE", CHAT, "POST"),
        ("OPTIONS", CHAT, "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("BREW", "/v1/models", "GET, HEAD"),
    ],
)
def test_wrong_method_is_405_with_allow(stand, method, path, allow):
    body = b"{}" if method in ("PUT", "POST") else b""
    reply, _ = refused(stand, lambda client: client.request(method, path, BEARER, body), 405)
    assert reply.header("Allow") == allow


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/models"])
def test_path_is_looked_at_before_the_key(stand, path):
    expected = 404 if path == "/v1/nothing" else 405
    assert stand[0].request("POST", path, (), b"{}").status == expected


# The body.

BAD_BODIES = {
    "empty": b"",
    "blank": b"  ",
    "no JSON": b"model=m",
    "cut": b'{"model": "m"',
    "trailing text": b'{"model": "m"} x',
    "two values": b'{"model": "m"}{"model": "m"}',
    "array": b'[{"model": "m"}]',
    "null": b"null",
    "string": b'"m"',
    "number": b"1",
    "NaN": b'{"model": "m", "temperature": NaN}',
    "Infinity": b'{"model": "m", "temperature": -Infinity}',
    "1e400": b'{"model": "m", "temperature": 1e400}',
    "24 digits": b'{"model": "m", "seed": 123456789012345678901234}',
    "tru": b'{"model": "m", "stream": tru}',
    "single quotes": b"{'model': 'm'}",
    "comment": b'{"model": "m" /* a */}',
    "trailing comma": b'{"model": "m",}',
    "lone surrogate": b'{"model": "m", "user": "\\ud800"}',
    "not UTF-8": b'{"model": "m", "user": "\xff"}',
    "overlong UTF-8": b'{"model": "m", "user": "\xc0\xaf"}',
    "control character": b'{"model": "m", "user": "\x01"}',
    "NUL behind": b'{"model": "m"}\0',
    "byte order mark": b'\xef\xbb\xbf{"model": "m"',
    "deep": b'{"model": "m", "x": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    "no model": b'{"messages": []}',
    "model null": b'{"model": null}',
    "model empty": b'{"model": ""}',
    "model a number": b'{"model": 1}',
    "model an object": b'{"model": {"m": 1}}',
    "model an array": b'{"model": ["m"]}',
    "stream a string": b'{"model": "m", "stream": "true"}',
    "stream a number": b'{"model": "m", "stream": 1}',
    "stream an object": b'{"model": "m", "stream": {}}',
    "stream_options a number": b'{"model": "m", "stream": true, "stream_options": 1}',
    "stream_options an array": b'{"model": "m", "stream": true, "stream_options": []}',
    "stream_options a bool": b'{"model": "m", "stream": true, "stream_options": true}',
    "model twice": b'{"model": "m", "model": "b/model:2"}',
    "model twice, equal": b'{"model": "m", "model": "m"}',
    "stream twice": b'{"model": "m", "stream": true, "stream": false}',
    "stream_options twice": b'{"model": "m", "stream_options": {}, "stream_options": null}',
    "n twice": b'{"model": "m", "n": 1, "n": 2}',
    "model in another case": b'{"Model": "b/model:2", "model": "m"}',
    "include_usage a number": b'{"model": "m", "stream_options": {"include_usage": 1}}',
    "include_usage twice": b'{"model": "m", "stream_options": '
    b'{"include_usage": true, "include_usage": false}}',
    "n a string": b'{"model": "m", "n": "2"}',
    "n zero": b'{"model": "m", "n": 0}',
    "model escaped": b'{"\\u006dodel": "m"}',
    "model and escaped": b'{"model": "m", "mod\\u0065l": "b/model:2"}',
    "stream escaped": b'{"model": "m", "str\\u0065am": true}',
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_body_is_400(stand, name):
    _, error = refused(
        stand,
        lambda client: client.request(
            "POST",
            CHAT,
            [*chat_headers(), ("Content-Length", len(BAD_BODIES[name]))],
            BAD_BODIES[name],
        ),
        400,
    )
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "name, param",
    [
        ("no model", "model"),
        ("model a number", "model"),
        ("stream a string", "stream"),
        ("stream_options a number", "stream_options"),
    ],
)
def test_bad_member_is_named(stand, name, param):
    _, error = refused(stand, lambda client: client.post(BAD_BODIES[name]), 400)
    assert error["param"] == param


@pytest.mark.parametrize(
    "model", ["nobody", "M", " m", "m ", "b/model", "../m", "m\0", "x" * 100_000, "\u001b[31m"]
)
def test_unknown_model_is_404(stand, model):
    reply, error = refused(stand, lambda client: client.post(model=model), 404)
    assert (error["type"], error["code"], error["param"]) == (
        "invalid_request_error",
        "model_not_found",
        "model",
    )
    assert len(reply.body) < 2000


GOOD_BODIES = {
    "stream null": b'{"model": "m", "stream": null}',
    "stream_options null": b'{"model": "m", "stream_options": null}',
    "blanks around": b' \r\n\t{"model"\n:\n"m"}\n ',
    "model last": b'{"messages": [{"model": "other", "stream": "true"}], "model": "m"}',
    "other members twice": b'{"model": "m", "user": "a", "user": "b"}',
    "unknown members": b'{"model": "m", "Model_": 1, "x": {"stream": "yes"}}',
    "64 bit": b'{"model": "m", "seed": 9223372036854775807}',
}


@pytest.mark.parametrize("name", GOOD_BODIES)
def test_good_body_is_passed_on(stand, name):
    proxy, backend = stand
    assert proxy.post(GOOD_BODIES[name]).status == 200
    assert backend.requests[-1].body == GOOD_BODIES[name]


def test_body_over_the_limit_is_413(make_proxy, backend):
    proxy = make_proxy({"m": backend}, limits={"body_bytes_max": 100_000})
    limit = json.dumps({"model": "m", "messages": [], "user": ""})
    fits = {"messages": [], "user": "x" * (100_000 - len(limit))}
    assert proxy.post(fits).status == 200
    assert len(backend.requests[0].body) == 100_000
    with proxy.connect() as client:
        # Refused by its length: the body is not waited for.
        client.start("POST", CHAT, [*chat_headers(), ("Content-Length", "100001")])
        reply = client.read()
        assert reply.status == 413 and reply.error
    with proxy.connect() as client:
        client.start("POST", CHAT, [*chat_headers(), ("Transfer-Encoding", "chunked")])
        client.send(b"186a1\r\n" + b" " * 100_001)
        assert client.read().status == 413
    assert proxy.post().status == 200
    assert len(backend.requests) == 2


def test_error_text_of_an_unknown_model_is_escaped(stand):
    _, error = refused(stand, lambda client: client.post(model='"<b>\u2028\\'), 404)
    assert "model" in error["message"]


def test_usage_of_the_default_reply(stand):
    assert stand[0].post(seed=1).json()["usage"] == sse.usage(8, 5)
