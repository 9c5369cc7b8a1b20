"""What is billed, free or unresolved: every row of the outcome table, through the real program."""

import datetime
import gzip
import itertools
import json
import signal
import time

import pytest

from rig import sse
from rig.client import Cut
from rig.database import counts
from rig.wait import run_all

ASK = {"stream_options": {"include_usage": True}}


def plain(usage=sse.ABSENT, status=200, **members):
    return lambda exchange: exchange.reply(status, sse.completion(usage=usage, **members))


def stream(*events, then="end"):
    def script(exchange):
        exchange.open()
        exchange.write(*events) if events else None
        getattr(exchange, then)()

    return script


def billed(proxy, reply):
    event = proxy.wait_event(reply.id)
    return event["prompt_n"], event["completion_n"]


def post_until_cut(proxy, **members):
    """Posts a stream and reads it to its end, orderly or not; returns its head."""
    with proxy.connect() as client:
        reply = client.stream(**members)
        try:
            client.read_body(reply)
        except Cut:
            pass
        return reply


# Plain replies.

FIGURES = {
    "ordinary": (sse.usage(33, 8), (33, 8)),
    "explicit zeros": (sse.usage(0, 0), (0, 0)),
    "whole floats": ({"prompt_tokens": 7.0, "completion_tokens": 3.0}, (7, 3)),
    "beyond int32": (sse.usage(2**31, 2**40), (2**31, 2**40)),
    "2^53": (sse.usage(2**53, 0), (2**53, 0)),
    "details beside": ({**sse.usage(9, 2), "prompt_tokens_details": {"cached_tokens": 4}}, (9, 2)),
}

NO_FIGURES = {
    "absent": sse.ABSENT,
    "null": None,
    "no object": 12,
    "empty": {},
    "no completion_tokens": {"prompt_tokens": 7, "total_tokens": 10},
    "string": {"prompt_tokens": "7", "completion_tokens": 3},
    "negative": {"prompt_tokens": -7, "completion_tokens": 3},
    "fraction": {"prompt_tokens": 7.5, "completion_tokens": 3},
    "beyond 2^53": {"prompt_tokens": 2**53 + 2, "completion_tokens": 3},
    "null count": {"prompt_tokens": 7, "completion_tokens": None},
    "bool": {"prompt_tokens": True, "completion_tokens": 3},
}


# Values that are no strict JSON, though servers write them.
ODD = {
    "NaN": b"NaN",
    "infinity": b"1e999",
    "24 digits": b"123456789012345678901234",
    "no UTF-8": b'"\xff"',
    "lone surrogate": b'"\\ud800"',
    "depth of 70": b"[" * 70 + b"]" * 70,
}


@pytest.mark.parametrize("name", FIGURES)
def test_plain_figure_is_billed(proxy, backend, name):
    usage, expected = FIGURES[name]
    backend.next(plain(usage))
    assert billed(proxy, proxy.post()) == expected


@pytest.mark.parametrize("name", NO_FIGURES)
def test_plain_without_figure_is_unresolved(proxy, backend, name):
    backend.next(plain(NO_FIGURES[name]))
    reply = proxy.post()
    assert reply.status == 200
    proxy.wait_unresolved(reply.id)
    assert proxy.settled_events() == []


@pytest.mark.parametrize("name", ODD)
def test_plain_figure_beside_what_is_no_strict_json_is_billed(proxy, backend, name):
    body = b'{"choices":[{"logprobs":%s}],"usage":{"prompt_tokens":7,"completion_tokens":3}}' % ODD[name]
    backend.next(lambda exchange: exchange.reply(body=body))
    reply = proxy.post()
    assert reply.body == body
    assert billed(proxy, reply) == (7, 3)


def test_plain_figure_behind_a_byte_order_mark_is_billed(proxy, backend):
    body = b'\xef\xbb\xbf{"usage":{"prompt_tokens":7,"completion_tokens":3}}'
    backend.next(lambda exchange: exchange.reply(body=body))
    assert billed(proxy, proxy.post()) == (7, 3)


def test_zeros_beside_an_error_are_unresolved(proxy, backend):
    backend.next(plain(sse.usage(0, 0), error={"message": "boom"}))
    reply = proxy.post()
    proxy.wait_unresolved(reply.id)
    assert proxy.settled_events() == []


def test_figure_beside_an_error_is_billed(proxy, backend):
    backend.next(plain(sse.usage(7, 0), error={"message": "boom"}))
    assert billed(proxy, proxy.post()) == (7, 0)


def test_zeros_beside_an_error_of_a_bad_status_are_free(proxy, backend):
    backend.next(plain(sse.usage(0, 0), status=500, error={"message": "boom"}))
    assert proxy.post().status == 500
    assert proxy.settled_events() == []
    assert not proxy.lines("ERROR", "unresolved")


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_compressed_plain_reply_passes_and_is_unresolved(proxy, backend, coding):
    body = gzip.compress(json.dumps(sse.completion(usage=sse.usage(7, 3))).encode())
    headers = [("Content-Encoding", coding)]
    backend.next(lambda exchange: exchange.reply(body=body, headers=headers))
    reply = proxy.post()
    assert (reply.body, reply.header("Content-Encoding")) == (body, coding)
    proxy.wait_unresolved(reply.id)
    assert proxy.lines("ERROR", reply.id, "reply was compressed")
    assert proxy.settled_events() == []


def test_identity_is_no_compression(proxy, backend):
    body = sse.completion(usage=sse.usage(7, 3))
    headers = [("Content-Encoding", "identity")]
    backend.next(lambda exchange: exchange.reply(body=body, headers=headers))
    assert billed(proxy, proxy.post()) == (7, 3)


def test_compressed_error_is_free(proxy, backend):
    headers = [("Content-Encoding", "gzip")]
    backend.next(lambda exchange: exchange.reply(503, gzip.compress(b"{}"), headers=headers))
    assert proxy.post().status == 503
    assert proxy.settled_events() == []
    assert not proxy.lines("ERROR", "unresolved")


def test_usage_before_choices_is_found(proxy, backend):
    body = b'\n\n{"usage" : {"completion_tokens":3,"prompt_tokens":7}, "choices": []}\n'
    backend.next(lambda exchange: exchange.reply(body=body))
    reply = proxy.post()
    assert reply.body == body
    assert billed(proxy, reply) == (7, 3)


def test_usage_inside_text_is_no_usage(proxy, backend):
    backend.next(plain(content='"usage":{"prompt_tokens":999,"completion_tokens":999}'))
    reply = proxy.post()
    proxy.wait_unresolved(reply.id)
    assert proxy.settled_events() == []


def test_usage_deeper_is_no_usage(proxy, backend):
    backend.next(plain(extra={"usage": sse.usage(999, 999)}))
    reply = proxy.post()
    proxy.wait_unresolved(reply.id)
    assert proxy.settled_events() == []


@pytest.mark.parametrize("body", [b"", b"Hello", b'{"usage":', b"\xff\xfe", b"[]"])
def test_plain_reply_that_is_no_object_passes_and_is_unresolved(proxy, backend, body):
    backend.next(lambda exchange: exchange.reply(body=body, content_type="text/plain"))
    reply = proxy.post()
    assert (reply.status, reply.body, reply.header("Content-Type")) == (200, body, "text/plain")
    proxy.wait_unresolved(reply.id)
    assert proxy.settled_events() == []


def test_plain_reply_over_its_limit_is_unresolved(make_proxy, backend):
    proxy = make_proxy({"m": backend}, limits={"reply_bytes_max": 100_000})
    backend.next(plain(sse.usage(7, 3), content="x" * 100_000))
    reply = proxy.post()
    assert reply.status == 502 and reply.error
    proxy.wait_unresolved(reply.id)
    assert proxy.post().status == 200


@pytest.mark.parametrize("excess", [0, 1])
@pytest.mark.parametrize("limit", [2000, 16384, 100_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_limit_of_a_plain_reply_is_exact(make_proxy, backend, framing, limit, excess):
    """Also within one block, and within what comes with the head."""
    proxy = make_proxy({"m": backend}, limits={"reply_bytes_max": limit})
    body = json.dumps(sse.completion(usage=sse.usage(7, 3))).encode()
    body += b" " * (limit + excess - len(body))

    def script(exchange):
        if framing == "length":
            exchange.reply(200, body)
            return
        exchange.open(content_type="application/json", chunked=framing == "chunked")
        exchange.write(body)
        exchange.end()

    backend.next(script)
    reply = proxy.post()
    if excess:
        assert reply.status == 502 and reply.error
        proxy.wait_unresolved(reply.id)
        assert proxy.settled_events() == []
    else:
        assert reply.status == 200 and reply.body == body
        assert billed(proxy, reply) == (7, 3)


def test_error_reply_over_its_limit_is_free(make_proxy, backend):
    proxy = make_proxy({"m": backend}, limits={"reply_bytes_max": 2000})
    backend.next(plain(status=500, content="x" * 2000))
    assert proxy.post().status == 502
    assert proxy.settled_events() == []
    assert not proxy.lines("ERROR", "unresolved")


def test_reply_without_room_is_unresolved_and_told(make_proxy, backend):
    """Two replies of which only one finds room while both are under way."""
    proxy = make_proxy(
        {"m": backend},
        threads=1,
        limits={"memory_bytes_max": 1 << 20, "body_bytes_max": 4096, "reply_bytes_max": 1 << 20},
    )
    body = json.dumps(sse.completion("x" * 700_000, usage=sse.usage(7, 3))).encode()
    gate = backend.gate("one of them had no room")

    def script(exchange):
        exchange.open(content_type="application/json")
        exchange.write(body[:-1])
        gate.wait()
        exchange.write(body[-1:])
        exchange.end()

    backend.next(script, script)
    with proxy.connect() as one, proxy.connect() as other:
        one.start_post()
        other.start_post()
        proxy.wait_lines("ERROR", "unresolved")
        gate.open()
        failed, whole = sorted([one.read(), other.read()], key=lambda reply: -reply.status)
    assert failed.status == 503 and failed.header("x-should-retry") == "false"
    proxy.wait_unresolved(failed.id)
    assert whole.status == 200 and whole.body == body
    assert billed(proxy, whole) == (7, 3)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_error_reply_is_free(proxy, backend, status):
    backend.next(plain(status=status))
    assert proxy.post().status == status
    assert proxy.settled_events() == []
    assert not proxy.lines("ERROR", "unresolved")


def test_error_reply_with_usage_is_billed(proxy, backend):
    backend.next(plain(sse.usage(7, 3), status=500))
    reply = proxy.post()
    assert reply.status == 500
    assert billed(proxy, reply) == (7, 3)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_call_without_reply_is_free(proxy, backend, how):
    backend.next(lambda exchange: getattr(exchange, how)())
    assert proxy.post().status == 502
    assert proxy.settled_events() == []
    assert not proxy.lines("ERROR", "unresolved")


def test_call_without_reply_in_time_is_free(make_proxy, backend):
    proxy = make_proxy({"m": backend}, timeout_read=0.3)
    backend.next(lambda exchange: exchange.wait_gone())
    assert proxy.post().status == 504
    assert proxy.settled_events() == []
    assert not proxy.lines("ERROR", "unresolved")


def test_call_never_sent_is_free(make_proxy, make_backend):
    gone = make_backend()
    gone.close()
    proxy = make_proxy({"m": gone})
    assert proxy.post().status == 502
    assert proxy.settled_events() == []
    assert not proxy.lines("ERROR", "unresolved")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_plain_reply_cut_inside_is_unresolved(proxy, backend, how):
    def script(exchange):
        exchange.send(
            exchange.head(200, [("Content-Type", "application/json"), ("Content-Length", "500")])
        )
        exchange.send(b'{"choices":[],')
        getattr(exchange, how)()

    backend.next(script)
    reply = proxy.post()
    assert reply.status == 502
    proxy.wait_unresolved(reply.id)
    assert proxy.settled_events() == []


# Streams.

STREAMS_BILLED = {
    "chunk made for it": (
        [sse.chunk("a"), sse.chunk(finish="stop"), sse.usage_chunk(7, 3), sse.DONE],
        (7, 3),
    ),
    "with the finish reason": (
        [sse.chunk("a"), sse.chunk(finish="stop", usage=sse.usage(7, 3)), sse.DONE],
        (7, 3),
    ),
    "after the finish reason": (
        [sse.chunk(finish="stop"), sse.chunk(usage=sse.usage(7, 3)), sse.DONE],
        (7, 3),
    ),
    "explicit zeros": (
        [sse.chunk("a"), sse.chunk(finish="stop"), sse.usage_chunk(0, 0), sse.DONE],
        (0, 0),
    ),
    "the last of two": (
        [sse.chunk(finish="stop"), sse.usage_chunk(1, 1), sse.usage_chunk(7, 3), sse.DONE],
        (7, 3),
    ),
    "null before": (
        [sse.chunk("a", usage=None), sse.chunk(finish="stop", usage=None), sse.usage_chunk(7, 3)],
        (7, 3),
    ),
    "zeros before": (
        [
            sse.chunk("a", usage=sse.usage(0, 0)),
            sse.chunk(finish="stop"),
            sse.usage_chunk(7, 3),
            sse.DONE,
        ],
        (7, 3),
    ),
    "without [DONE]": ([sse.chunk("a"), sse.chunk(finish="stop"), sse.usage_chunk(7, 3)], (7, 3)),
    "ping before [DONE]": (
        [sse.chunk("a"), sse.chunk(finish="stop"), sse.usage_chunk(7, 3), b":\n\n", sse.DONE],
        (7, 3),
    ),
    "after [DONE]": (
        [sse.chunk("a"), sse.chunk(finish="stop"), sse.DONE, sse.usage_chunk(7, 3)],
        (7, 3),
    ),
    "error after it": (
        [sse.chunk(finish="stop"), sse.usage_chunk(7, 3), sse.data({"error": {"message": "late"}})],
        (7, 3),
    ),
    "usage after an error": (
        [
            sse.chunk("a"),
            sse.data({"error": {"message": "abort"}}),
            sse.usage_chunk(7, 3),
            sse.DONE,
        ],
        (7, 3),
    ),
    "malformed, then good": (
        [
            sse.chunk(finish="stop"),
            sse.chunk(choices=[], usage={"prompt_tokens": "7"}),
            sse.usage_chunk(7, 3),
        ],
        (7, 3),
    ),
    "no blank line at the end": ([sse.chunk(finish="stop"), sse.usage_chunk(7, 3)[:-2]], (7, 3)),
}

STREAMS_UNRESOLVED = {
    "no usage": [sse.chunk("a"), sse.chunk(finish="stop"), sse.DONE],
    "usage only in text": [
        sse.chunk('"usage":{"prompt_tokens":9,"completion_tokens":9}'),
        sse.DONE,
    ],
    "running only, not asked for": [
        sse.chunk("a", usage=sse.usage(7, 1)),
        sse.chunk("b", usage=sse.usage(7, 2)),
    ],
    "malformed after good": [
        sse.chunk(finish="stop"),
        sse.usage_chunk(7, 3),
        sse.chunk(choices=[], usage={"prompt_tokens": -1, "completion_tokens": 3}),
        sse.DONE,
    ],
    "error event": [sse.chunk("a"), sse.data({"error": {"message": "out of memory"}}), sse.DONE],
    "zeros after an error": [
        sse.chunk("a"),
        sse.data({"error": {"message": "out of memory"}}),
        sse.usage_chunk(0, 0),
        sse.DONE,
    ],
    "zeros after an error, malformed after a good one": [
        sse.chunk(finish="stop"),
        sse.usage_chunk(7, 3),
        sse.data({"error": {"message": "out of memory"}}),
        sse.usage_chunk(0, 0),
        sse.DONE,
    ],
    "zeros after an error that its event's name tells behind the data": [
        b'data: {"code":500}\nevent: error\n\n',
        sse.usage_chunk(0, 0),
        sse.DONE,
    ],
    "beyond 2^53": [sse.chunk(finish="stop"), sse.usage_chunk(2**53 + 2, 1), sse.DONE],
    "bare JSON": [json.dumps(sse.completion(usage=sse.usage(7, 3))).encode()],
    "HTML": [b"<html>\n<body>\n\nnot what you asked for</body></html>"],
    "compressed, and does not say so": [gzip.compress(sse.usage_chunk(7, 3) + sse.DONE)],
}


@pytest.mark.parametrize("name", STREAMS_BILLED)
def test_stream_with_final_figure_is_billed(proxy, backend, name):
    events, expected = STREAMS_BILLED[name]
    backend.next(stream(*events))
    assert billed(proxy, proxy.post(stream=True)) == expected


@pytest.mark.parametrize("name", STREAMS_UNRESOLVED)
def test_stream_without_final_figure_is_unresolved(proxy, backend, name):
    backend.next(stream(*STREAMS_UNRESOLVED[name]))
    reply = post_until_cut(proxy)
    proxy.wait_unresolved(reply.id)
    assert proxy.settled_events() == []


@pytest.mark.parametrize("name", ODD)
def test_stream_figure_beside_what_is_no_strict_json_is_billed(proxy, backend, name):
    last = b'data: {"choices":[{"index":0,"delta":{},"lp":%s,"finish_reason":"stop"}]' % ODD[name]
    usage = b',"usage":{"prompt_tokens":7,"completion_tokens":3}'
    backend.next(stream(sse.chunk("a"), last + usage + b"}\n\n", sse.DONE))
    reply = proxy.post(stream=True)
    assert reply.body == sse.chunk("a") + last + b"}\n\n" + sse.DONE
    assert billed(proxy, reply) == (7, 3)


@pytest.mark.parametrize("lines", [b"", b"\n"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_stream_cut_between_its_figure_and_the_empty_line_is_billed(proxy, backend, how, lines):
    """The client gets what counted, as an event of its own, and then the error."""
    sent = backend.gate("the client has the first event")
    last = sse.usage_chunk(7, 3).rstrip(b"\n")

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk(finish="stop"), last + lines)
        sent.wait()
        getattr(exchange, how)()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream(stream_options={"include_usage": True})
        events = client.events(reply)
        assert next(events) == sse.chunk(finish="stop")
        sent.open()
        assert next(events).rstrip(b"\n") == last
        assert "error" in json.loads(next(events).strip().removeprefix(b"data: "))
        with pytest.raises(Cut):
            list(events)
    assert billed(proxy, reply) == (7, 3)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_stream_cut_after_its_figure_is_billed(proxy, backend, how):
    sent = backend.gate("the client has the first event")

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk(finish="stop"), sse.usage_chunk(7, 3), sse.chunk("more"))
        sent.wait()
        getattr(exchange, how)()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream()
        events = client.events(reply)
        next(events), next(events)
        sent.open()
        with pytest.raises(Cut):
            list(events)
    assert billed(proxy, reply) == (7, 3)


def test_stream_cut_before_its_figure_is_unresolved(proxy, backend):
    backend.next(stream(sse.chunk("a"), then="close"))
    reply = post_until_cut(proxy)
    proxy.wait_unresolved(reply.id)
    assert proxy.settled_events() == []


@pytest.mark.parametrize("how", ["end", "close"])
def test_compressed_stream_is_unresolved(proxy, backend, how):
    body = gzip.compress(sse.chunk(finish="stop") + sse.usage_chunk(7, 3) + sse.DONE)

    def script(exchange):
        exchange.open(headers=[("Content-Encoding", "gzip")])
        exchange.write(body)
        getattr(exchange, how)()

    backend.next(script)
    reply = post_until_cut(proxy)
    proxy.wait_unresolved(reply.id)
    assert proxy.lines("ERROR", reply.id, "reply was compressed")
    assert proxy.settled_events() == []


@pytest.mark.parametrize("events", [[], [b": keep-alive\n\n"], [b"\n\n\n"], [b"event: ping\n\n"]])
def test_stream_without_data_is_free_with_a_warning(proxy, backend, events):
    backend.next(stream(*events))
    reply = proxy.post(stream=True)
    proxy.wait_lines("WARNING", reply.id)
    assert proxy.settled_events() == []
    assert not proxy.lines("ERROR", "unresolved")


def continuous(make_proxy, backend):
    return make_proxy({"m": {"url": backend.url(), "usage": "continuous"}})


def test_running_figures_bill_a_cut_stream_of_a_continuous_backend(make_proxy, backend):
    proxy = continuous(make_proxy, backend)
    backend.next(
        stream(
            sse.chunk("a", usage=sse.usage(7, 1)),
            sse.chunk("b", usage=sse.usage(7, 2)),
            then="close",
        )
    )
    assert billed(proxy, post_until_cut(proxy)) == (7, 2)


def test_running_figures_give_way_to_the_final_one(make_proxy, backend):
    proxy = continuous(make_proxy, backend)
    backend.next(
        stream(
            sse.chunk("a", usage=sse.usage(7, 9)),
            sse.chunk(finish="stop", usage=sse.usage(7, 9)),
            sse.usage_chunk(7, 3),
            sse.DONE,
        )
    )
    assert billed(proxy, post_until_cut(proxy)) == (7, 3)


def test_running_figures_of_several_choices_do_not_bill(make_proxy, backend):
    proxy = continuous(make_proxy, backend)
    backend.next(
        stream(
            sse.chunk("a", usage=sse.usage(7, 1)),
            sse.chunk("b", index=1, usage=sse.usage(7, 1)),
            then="close",
        )
    )
    reply = post_until_cut(proxy, n=2)
    proxy.wait_unresolved(reply.id)
    assert proxy.settled_events() == []


def test_one_final_figure_for_several_choices_is_billed(proxy, backend):
    backend.next(
        stream(
            sse.chunk("a"),
            sse.chunk("b", index=1),
            sse.chunk(finish="stop"),
            sse.chunk(finish="stop", index=1),
            sse.usage_chunk(7, 6),
            sse.DONE,
        )
    )
    assert billed(proxy, proxy.post(stream=True, n=2)) == (7, 6)


def test_a_final_figure_per_choice_is_summed_with_the_prompt_once(proxy, backend):
    backend.next(
        stream(
            sse.chunk("a"),
            sse.chunk("b", index=1),
            sse.chunk(finish="stop"),
            sse.usage_chunk(33, 8),
            sse.chunk(finish="stop", index=1),
            sse.usage_chunk(33, 5),
            sse.DONE,
        )
    )
    assert billed(proxy, proxy.post(stream=True, n=2)) == (33, 13)


def test_figure_after_the_end_of_the_answer_resolves_the_bill(proxy, backend):
    """The client gets its end a second after [DONE]; the backend speaks on until it has the figure."""
    gate = backend.gate("the client has its end")

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"), sse.chunk(finish="stop"), sse.DONE)
        gate.wait()
        exchange.write(sse.usage_chunk(7, 3))
        exchange.end()

    backend.next(script)
    reply = proxy.post(stream=True)
    assert reply.body.endswith(b"data: [DONE]\n\n")
    proxy.wait_lines("ERROR", "unresolved", reply.id)
    assert proxy.events() == []
    gate.open()
    assert billed(proxy, reply) == (7, 3)


def test_late_figure_is_not_waited_for_for_ever(make_proxy, backend):
    """The whole wait has the time of one silence, and pings do not prolong it."""
    proxy = make_proxy({"m": backend}, timeout_read=1.5)
    gone = backend.gate("the proxy has left")

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"), sse.chunk(finish="stop"), sse.DONE)
        try:
            while True:
                exchange.write(b": ping\n\n")
                time.sleep(0.05)
        finally:
            gone.open()

    backend.next(script)
    reply = proxy.post(stream=True)
    assert sse.DONE in reply.body
    gone.wait()
    assert proxy.wait_lines("request", reply.id, "end=ok")


def test_late_figure_does_not_hold_the_exit(make_proxy, backend):
    proxy = make_proxy({"m": backend}, shutdown_timeout=60)
    backend.next(
        lambda exchange: (
            exchange.open(),
            exchange.write(sse.chunk("a"), sse.chunk(finish="stop"), sse.DONE),
            exchange.wait_gone(),
        )
    )
    reply = proxy.post(stream=True)
    proxy.wait_unresolved(reply.id)
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0


def test_several_choices_cut_before_their_end_are_unresolved(proxy, backend):
    backend.next(
        stream(
            sse.chunk("a"),
            sse.chunk("b", index=1),
            sse.chunk(finish="stop"),
            sse.usage_chunk(33, 8),
            sse.chunk("c", index=1),
            then="close",
        )
    )
    reply = post_until_cut(proxy, n=2)
    proxy.wait_unresolved(reply.id)
    assert proxy.settled_events() == []


def test_stream_that_ends_with_the_connection_is_billed(proxy, backend):
    def script(exchange):
        exchange.open(chunked=False)
        exchange.write(sse.chunk("a"), sse.chunk(finish="stop"), sse.usage_chunk(7, 3), sse.DONE)
        exchange.close()

    backend.next(script)
    reply = proxy.post(stream=True)
    assert reply.body.endswith(sse.DONE)
    assert billed(proxy, reply) == (7, 3)


# Clients that leave.


def leaving_stream(proxy, backend, leave):
    left = backend.gate("the client has left")

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"))
        left.wait()
        for _ in range(50):
            exchange.write(sse.chunk("more " * 1000))
        exchange.write(sse.chunk(finish="stop"))
        exchange.write(sse.usage_chunk(70, 30), sse.DONE)
        exchange.end()

    backend.next(script)
    client = proxy.connect()
    reply = client.stream()
    events = client.events(reply)
    assert next(events) == sse.chunk("a")
    leave(client)
    left.open()
    return reply, events


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_client_that_leaves_a_stream_is_billed_in_full(billing_proxy, backend, leave):
    reply, _ = leaving_stream(billing_proxy, backend, lambda client: getattr(client, leave)())
    assert billed(billing_proxy, reply) == (70, 30)


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_client_that_leaves_a_plain_reply_is_billed_in_full(billing_proxy, backend, leave):
    left = backend.gate("the client has left")

    def script(exchange):
        left.wait()
        exchange.reply(body=sse.completion(usage=sse.usage(70, 30)))

    backend.next(script)
    client = billing_proxy.connect()
    client.start_post()
    id = backend.wait_requests(1)[0].header("X-Request-Id")
    getattr(client, leave)()
    left.open()
    event = billing_proxy.wait_event(id)
    assert (event["prompt_n"], event["completion_n"]) == (70, 30)


def test_what_follows_from_a_client_that_left_does_not_hide_it(proxy, backend):
    left = backend.gate("the client has left")

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"))
        left.wait()
        for _ in range(20):
            exchange.write(sse.chunk("more " * 10_000))
        exchange.close()

    backend.next(script)
    client = proxy.connect()
    reply = client.stream()
    next(client.events(reply))
    client.reset()
    left.open()
    assert "end=client_gone" in proxy.wait_lines("request", reply.id)[-1]


def test_half_close_is_no_leaving(proxy, backend):
    reply, events = leaving_stream(proxy, backend, lambda client: client.half_close())
    assert list(events)[-1] == sse.DONE
    assert billed(proxy, reply) == (70, 30)


def test_request_cut_inside_its_body_is_not_sent(proxy, backend):
    with proxy.connect() as client:
        client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer token2\r\n"
        )
        client.send(b'Content-Length: 100\r\n\r\n{"model": "m"')
    assert proxy.post().status == 200
    assert len(backend.requests) == 1
    assert len(proxy.settled_events()) == 1


# Events.


def test_event_has_exactly_the_contract(billing_proxy, backend, database):
    before = datetime.datetime.utcnow() - datetime.timedelta(milliseconds=1)
    reply = billing_proxy.post(token="token3", seed=4)
    event = billing_proxy.wait_events(1)[0]
    created = event.pop("date_created").replace(tzinfo=None)
    assert before <= created <= datetime.datetime.utcnow()
    assert event == {
        "id": reply.id,
        "user_id": "user3",
        "api_key_id": "66fd1d1de3a0c3eaae1b0c03",
        "model": "m",
        "prompt_n": 11,
        "completion_n": 11,
    }


def test_id_of_the_client_is_no_event_s(billing_proxy, backend):
    """Two requests under one id of the client's choice are two bills."""
    for prompt_n in (3, 4):
        backend.next(plain(sse.usage(prompt_n, 1)))
        reply = billing_proxy.post(headers=[("X-Request-Id", "66fd1d1de3a0c3eaae1b0cff")])
        assert reply.id != "66fd1d1de3a0c3eaae1b0cff"
    events = billing_proxy.wait_events(2)
    assert sorted(event["prompt_n"] for event in events) == [3, 4]


def test_event_is_dated_by_the_end_of_its_request(proxy, backend):
    gate = backend.gate()

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"))
        gate.wait()
        exchange.write(sse.chunk(finish="stop"), sse.usage_chunk(7, 3), sse.DONE)
        exchange.end()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream()
        events = client.events(reply)
        next(events)
        middle = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=1)
        gate.open()
        list(events)
    assert proxy.wait_event(reply.id)["date_created"] >= middle


def test_event_has_the_requested_model(make_proxy, backend):
    name = "meta-llama/Llama 3.1:70b@x \u00e9 \U0001f600"
    proxy = make_proxy({name: {"url": backend.url(), "token": "t"}})
    backend.next(plain(sse.usage(7, 3), model="other"))
    assert proxy.post(model=name).status == 200
    assert proxy.wait_events(1)[0]["model"] == name


def test_default_settings_ship_unasked(make_proxy, backend):
    proxy = make_proxy({"m": backend}, ledger=None)
    proxy.post()
    proxy.wait_events(1)


def test_stop_ships_what_is_settled(make_proxy, backend):
    proxy = make_proxy({"m": backend}, ledger={"ship_interval": 60})
    assert [proxy.post().status for _ in range(3)] == [200] * 3
    assert len(proxy.settled_events()) == 3


def test_500_requests_of_which_a_third_leave_make_exactly_500_events(billing_proxy, backend):
    """50 connections, half of the requests streamed, a third of the clients leave inside the
    answer."""
    proxy, total = billing_proxy, 500
    gates = {seed: backend.gate(f"client {seed}") for seed in range(total) if seed % 3 == 0}
    arrived = {seed: backend.gate(f"call {seed}") for seed in gates}

    def script(exchange):
        call = exchange.request.json()
        seed = call["seed"]
        figure = sse.usage(1000 + seed, seed)
        if call.get("stream"):
            exchange.open()
            exchange.write(sse.chunk("first"))
        if seed in gates:
            arrived[seed].open()
            gates[seed].wait()
        if not call.get("stream"):
            exchange.reply(body=sse.completion(usage=figure))
            return
        for _ in range(5):
            exchange.write(sse.chunk("more"))
        exchange.write(sse.chunk(finish="stop"))
        exchange.write(sse.chunk(choices=[], usage=figure))
        exchange.write(sse.DONE)
        exchange.end()

    backend.script = script
    numbers = itertools.count()

    def customer():
        ids = []
        client = proxy.connect()
        while (seed := next(numbers)) < total:
            token = f"token{2 + seed % 2}"
            is_stream = seed % 2 == 0 if seed % 6 else seed % 4 == 0
            if seed not in gates:
                reply = client.post(seed=seed, stream=is_stream, token=token)
                assert reply.status == 200, reply
                assert not is_stream or reply.body.endswith(sse.DONE)
                ids.append(reply.id)
                continue
            client.start_post(seed=seed, stream=is_stream, token=token)
            arrived[seed].wait()
            if is_stream:
                reply = client.read_head()
                assert next(client.events(reply)) == sse.chunk("first")
                ids.append(reply.id)
            client.reset()
            gates[seed].open()
            client = proxy.connect()
        client.close()
        return ids

    ids = sum(run_all([customer] * 50, threads=50), [])
    events = proxy.settled_events()
    assert counts(events) == sorted(
        (f"user{2 + seed % 2}", "m", 1000 + seed, seed) for seed in range(total)
    )
    assert len({event["id"] for event in events}) == total
    assert set(ids) <= {event["id"] for event in events}
