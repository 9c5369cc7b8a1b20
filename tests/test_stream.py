"""How a streamed answer is relayed: event by event, byte for byte, and what is asked of the
backend."""

import json
import signal
import zlib

import pytest

from rig import sse
from rig.client import CHAT, Cut, chat_headers
from rig.proxy import memory
from rig.wait import stays, wait_until

END = [sse.chunk(finish="stop"), sse.usage_chunk(7, 3), sse.DONE]


def test_next_event_is_sent_only_after_the_client_confirmed_the_last(proxy, backend):
    gates = [backend.gate(f"event {n} confirmed") for n in range(20)]

    def script(exchange):
        exchange.open()
        for n, gate in enumerate(gates):
            exchange.write(sse.chunk(str(n)))
            gate.wait()
        exchange.write(*END)
        exchange.end()

    backend.next(script)
    with proxy.connect() as client:
        events = client.events(client.stream())
        for n, gate in enumerate(gates):
            assert next(events) == sse.chunk(str(n))
            gate.open()
        assert list(events) == [END[0], sse.DONE]


def test_head_is_relayed_before_the_first_event(proxy, backend):
    gate = backend.gate("head confirmed")

    def script(exchange):
        exchange.open()
        exchange.write(b": one moment\n\n")
        gate.wait()
        exchange.write(sse.chunk("a"), *END)
        exchange.end()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream()
        events = client.events(reply)
        assert next(events) == b": one moment\n\n"
        gate.open()
        assert next(events) == sse.chunk("a")


def test_complete_event_does_not_wait_for_the_half_that_follows(proxy, backend):
    gate = backend.gate("first event confirmed")
    second = sse.chunk("second")

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("first") + second[:10])
        gate.wait()
        exchange.write(second[10:], *END)
        exchange.end()

    backend.next(script)
    with proxy.connect() as client:
        events = client.events(client.stream())
        assert next(events) == sse.chunk("first")
        gate.open()
        assert next(events) == second


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("step", [1, 7, 4096])
def test_bytes_pass_untouched_whatever_the_chunking(proxy, backend, ending, step):
    text = (
        '\ufeff: hello\n\nevent: x\nid: 7\ndata: {"choices":[{"index":0,\n'
        'data: "delta":{"content":"\u00e9\U0001f600 \\"usage\\":{} data: [DONE]"}}]}\n\n'
        + END[0].decode()
        + END[1].decode()
        + "\n\n: bye\n\n"
        + sse.DONE.decode()
    )
    wire = text.replace("\n", ending).encode()

    def script(exchange):
        exchange.open()
        for begin in range(0, len(wire), step):
            exchange.write(wire[begin : begin + step])
        exchange.end()

    backend.next(script)
    reply = proxy.post(stream=True, stream_options={"include_usage": True})
    assert reply.body == wire
    assert proxy.wait_event(reply.id)["completion_n"] == 3


def test_event_of_two_megabytes_passes(proxy, backend):
    long = sse.chunk("x" * (2 << 20))
    backend.next(lambda exchange: exchange.stream(long, *END))
    reply = proxy.post(stream=True)
    assert reply.body == long + END[0] + sse.DONE
    assert proxy.wait_event(reply.id)["prompt_n"] == 7


def test_client_that_reads_slowly_gets_all_and_costs_no_memory(proxy, backend):
    event, count = sse.chunk("y" * 60_000), 500
    sent = []

    def script(exchange):
        exchange.open()
        for _ in range(count):
            exchange.write(event)
            sent.append(1)
        exchange.write(*END)
        exchange.end()

    proxy.post()
    before = memory(proxy.pid)
    backend.next(script)
    with proxy.connect(receive_buffer=8192) as client:
        reply = client.stream()
        seen = -1
        while seen != len(sent):  # until the backend can send no more
            seen = len(sent)
            try:
                wait_until(lambda: len(sent) > seen, "", seconds=0.3)
            except AssertionError:
                break
        assert seen < count, "the proxy took everything"
        assert memory(proxy.pid) - before < 8 << 10
        body = client.read_body(reply)
    assert len(body) == len(event) * count + len(END[0] + sse.DONE)


def test_client_that_takes_nothing_is_gone_and_billed(make_proxy, backend):
    proxy = make_proxy({"m": backend}, limits={"timeout_write": 0.3})

    def script(exchange):
        exchange.open()
        for _ in range(1000):
            exchange.write(sse.chunk("z" * 60_000))
        exchange.write(*END)
        exchange.end()

    backend.next(script)
    with proxy.connect(receive_buffer=8192) as client:
        reply = client.stream()
        assert proxy.wait_event(reply.id)["completion_n"] == 3


def test_client_that_the_proxy_cuts_has_not_left(make_proxy, backend):
    proxy = make_proxy({"m": backend}, shutdown_timeout=0.3)

    def script(exchange):
        exchange.open()
        for _ in range(1000):
            exchange.write(sse.chunk("z" * 60_000))

    backend.next(script)
    with proxy.connect(receive_buffer=8192) as client:
        reply = client.stream()
        proxy.signal(signal.SIGTERM)
        proxy.wait()
        assert "end=shutdown" in proxy.lines("request", reply.id)[-1]


# What the backend is asked.

CALL = (
    b'{ "model" : "m",\n "temperature":1e-7, "seed": 12345678901234567,'
    b'"messages":[{"role":"user","content":"\\u00e9 "}], "stream": true }'
)


def test_usage_is_asked_for_and_no_other_byte_changes(proxy, backend):
    proxy.post(CALL)
    body = backend.requests[0].body
    assert json.loads(body) == {**json.loads(CALL), "stream_options": {"include_usage": True}}
    spliced = body.find(b"stream_options")
    begin, tail = body[: spliced - 1].rstrip(b" ,\n"), CALL.rstrip(b" }")
    assert begin == tail


@pytest.mark.parametrize(
    "options, asked",
    [
        ({}, {"include_usage": True}),
        (None, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_obfuscation": False, "include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_usage": None, "other": [1e-7]}, {"include_usage": True, "other": [1e-7]}),
        (
            {"include_usage": True, "continuous_usage_stats": True},
            {"include_usage": True, "continuous_usage_stats": True},
        ),
    ],
)
def test_options_of_the_client_are_merged(proxy, backend, options, asked):
    assert proxy.post(stream=True, stream_options=options).status == 200
    assert backend.requests[0].json()["stream_options"] == asked


def test_client_that_asks_is_passed_on_byte_for_byte(proxy, backend):
    call = CALL.replace(
        b'"stream": true', b'"stream_options":{ "include_usage" :true}, "stream": true'
    )
    proxy.post(call)
    assert backend.requests[0].body == call


@pytest.mark.parametrize("stream", [False, None, "absent"])
def test_plain_call_is_passed_on_byte_for_byte(proxy, backend, stream):
    call = (
        CALL.replace(b', "stream": true', b"")
        if stream == "absent"
        else CALL.replace(b"true", json.dumps(stream).encode())
    )
    assert proxy.post(call).status == 200
    assert backend.requests[0].body == call


def test_as_is_backend_is_asked_for_nothing(make_proxy, backend):
    proxy = make_proxy({"m": {"url": backend.url(), "usage": "as_is"}})
    events = [sse.chunk("a"), sse.chunk(finish="stop", usage=sse.usage(7, 3)), sse.DONE]
    backend.next(lambda exchange: exchange.stream(*events))
    reply = proxy.post(CALL)
    assert backend.requests[0].body == CALL
    assert proxy.wait_event(reply.id)["completion_n"] == 3


def test_continuous_backend_is_asked_for_running_figures(make_proxy, backend):
    proxy = make_proxy({"m": {"url": backend.url(), "usage": "continuous"}})
    proxy.post(stream=True)
    assert backend.requests[0].json()["stream_options"] == {
        "include_usage": True,
        "continuous_usage_stats": True,
    }


# What the client sees of it.


def test_client_that_did_not_ask_sees_no_usage(proxy, backend):
    backend.next(
        lambda exchange: exchange.stream(
            sse.chunk("a", usage=None),
            sse.chunk(finish="stop", usage=None),
            sse.usage_chunk(7, 3),
            sse.DONE,
        )
    )
    reply = proxy.post(stream=True)
    assert reply.body == sse.chunk("a") + sse.chunk(finish="stop") + sse.DONE


def test_client_that_asked_for_no_usage_sees_none(proxy, backend):
    reply = proxy.post(stream=True, stream_options={"include_usage": False})
    assert b"usage" not in reply.body and reply.body.endswith(sse.DONE)


def test_client_that_asked_sees_every_byte(proxy, backend):
    events = [
        sse.chunk("a", usage=None),
        sse.chunk(finish="stop", usage=None),
        sse.usage_chunk(7, 3),
        sse.DONE,
    ]
    backend.next(lambda exchange: exchange.stream(*events))
    reply = proxy.post(stream=True, stream_options={"include_usage": True})
    assert reply.body == b"".join(events)


def test_running_figures_are_removed(make_proxy, backend):
    proxy = make_proxy({"m": {"url": backend.url(), "usage": "continuous"}})
    backend.next(
        lambda exchange: exchange.stream(
            sse.chunk("a", usage=sse.usage(7, 1)),
            sse.chunk(finish="stop", usage=sse.usage(7, 2)),
            sse.usage_chunk(7, 2),
            sse.DONE,
        )
    )
    assert proxy.post(stream=True).body == sse.chunk("a") + sse.chunk(finish="stop") + sse.DONE


def test_running_figures_are_removed_for_a_client_that_asked_for_the_final_one(make_proxy, backend):
    proxy = make_proxy({"m": {"url": backend.url(), "usage": "continuous"}})
    backend.next(
        lambda exchange: exchange.stream(
            sse.chunk("a", usage=sse.usage(7, 1)),
            sse.chunk(finish="stop", usage=sse.usage(7, 2)),
            *END[1:],
        )
    )
    reply = proxy.post(stream=True, stream_options={"include_usage": True})
    last = sse.chunk(finish="stop", usage=sse.usage(7, 2))  # it may be the only one
    assert reply.body == sse.chunk("a", usage=None) + last + sse.usage_chunk(7, 3) + sse.DONE


def test_figure_beside_the_finish_reason_stays_for_a_client_that_asked_for_it(make_proxy, backend):
    proxy = make_proxy({"m": {"url": backend.url(), "usage": "continuous"}})
    events = [sse.chunk("a"), sse.chunk(finish="stop", usage=sse.usage(7, 3)), sse.DONE]
    backend.next(lambda exchange: exchange.stream(*events))
    reply = proxy.post(stream=True, stream_options={"include_usage": True})
    assert reply.body == b"".join(events)
    assert proxy.wait_event(reply.id)["completion_n"] == 3


def test_usage_member_is_removed_wherever_it_stands(proxy, backend):
    backend.next(
        lambda exchange: exchange.stream(
            b'data: {"usage": null , "choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
            b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}], '
            b'"usage":{"prompt_tokens":7,"completion_tokens":3},"x":1e-7}\n\n',
            sse.DONE,
        )
    )
    reply = proxy.post(stream=True)
    assert b"usage" not in reply.body
    first, second, last = reply.body.split(b"\n\n")[:3]
    assert json.loads(first[6:]) == {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    assert second.endswith(b'"x":1e-7}') and last + b"\n\n" == sse.DONE


@pytest.mark.parametrize("choices", [{}, {"choices": None}, {"choices": []}])
def test_chunk_made_for_usage_is_not_seen_by_a_client_that_did_not_ask(proxy, backend, choices):
    end = sse.data({"id": "chatcmpl-1", **choices, "usage": sse.usage(7, 3)})
    backend.next(lambda exchange: exchange.stream(sse.chunk(finish="stop"), end, sse.DONE))
    reply = proxy.post(stream=True)
    assert reply.body == sse.chunk(finish="stop") + sse.DONE
    assert proxy.wait_event(reply.id)["completion_n"] == 3


def test_other_payload_of_the_usage_chunk_is_kept(proxy, backend):
    backend.next(
        lambda exchange: exchange.stream(
            sse.chunk("a"),
            sse.chunk(finish="stop"),
            sse.usage_chunk(7, 3, sglext={"hidden": [1]}),
            sse.DONE,
        )
    )
    reply = proxy.post(stream=True)
    assert b'"sglext":{"hidden":[1]}' in reply.body and b"usage" not in reply.body


# Ends.


def test_terminal_event_waits_for_the_end_of_the_body(proxy, backend):
    gate = backend.gate("end")
    before = sse.chunk("a") + sse.chunk(finish="stop")

    def script(exchange):
        exchange.open()
        exchange.write(before + sse.DONE)
        gate.wait()
        exchange.write(sse.usage_chunk(7, 3))
        exchange.end()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream()
        payload = client.payload(reply)
        body = b""
        while len(body) < len(before):
            body += next(payload)
        assert body == before
        stays(lambda: sse.DONE not in client.unread(), "the terminal event is held", 0.2)
        gate.open()
        assert b"".join(payload) == sse.DONE
    assert proxy.wait_event(reply.id)["completion_n"] == 3


def test_terminal_event_waits_a_second_at_most(proxy, backend):
    gate = backend.gate("never before the client has its end")

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"), *END)
        gate.wait()
        exchange.end()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream()
        assert client.read_body(reply).endswith(sse.DONE)
        assert proxy.wait_event(reply.id)["completion_n"] == 3
        gate.open()


def test_connection_serves_on_after_a_stream(proxy, backend):
    with proxy.connect() as client:
        for _ in range(3):
            assert client.post(stream=True).body.endswith(sse.DONE)
            assert client.post().status == 200
    assert backend.connections == 1


@pytest.mark.parametrize("how", ["close", "reset"])
def test_cut_by_the_backend_is_told_and_never_ended_cleanly(proxy, backend, how):
    first = backend.gate("first event confirmed")

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"))
        first.wait()
        getattr(exchange, how)()

    backend.next(script)
    with proxy.connect() as client:
        events = client.events(client.stream())
        assert next(events) == sse.chunk("a")
        first.open()
        error = json.loads(next(events).removeprefix(b"data: "))["error"]
        assert error["message"] and error["type"]
        with pytest.raises(Cut):
            list(events)


def test_cut_inside_an_event_sends_no_half_of_it(proxy, backend):
    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a") + sse.chunk("b")[:20])
        exchange.close()

    backend.next(script)
    with proxy.connect() as client:
        events = client.events(client.stream())
        assert next(events) == sse.chunk("a")
        assert "error" in json.loads(next(events).removeprefix(b"data: "))
        with pytest.raises(Cut):
            list(events)


def test_cut_inside_an_event_of_megabytes_ends_it_before_the_error(proxy, backend):
    """Its front went out unread, so a client must see where the error begins."""
    long = sse.chunk("x" * (2 << 20))
    first = backend.gate("the front of the event has come")

    def script(exchange):
        exchange.open()
        exchange.write(long[: 3 << 19])
        first.wait()
        exchange.close()

    backend.next(script)
    with proxy.connect() as client:
        payload = client.payload(client.stream())
        body = next(payload)
        first.open()
        with pytest.raises(Cut):
            for piece in payload:
                body += piece
    front, _, error = body.rpartition(b"\n\ndata: ")
    # But for its last bytes, which might begin the backend's token.
    assert len(front) > (1 << 20) - 256 and long.startswith(front)
    assert json.loads(error)["error"]["code"] == "upstream_error"


# An event at the end of a body that ends with the connection: is it whole?
TAILS = {
    "data: [DO": False,
    'data: {"choices":[{"index":0,"delta"': False,
    "da": False,
    "data: [DONE]": True,
    'data: {"x":1}': True,
    ": ping": True,
}


@pytest.mark.parametrize("tail", TAILS)
def test_half_an_event_at_the_end_of_the_connection_is_a_cut(proxy, backend, tail):
    events = sse.chunk(finish="stop", usage=sse.usage(7, 3))

    def script(exchange):
        exchange.open(chunked=False)
        exchange.write(events + tail.encode())
        exchange.close()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream(stream_options={"include_usage": True})
        if TAILS[tail]:
            assert client.read_body(reply) == events + tail.encode()
        else:
            received = client.events(reply)
            assert next(received) == events
            assert "error" in json.loads(next(received).removeprefix(b"data: "))
            with pytest.raises(Cut):
                list(received)
    assert proxy.wait_event(reply.id)["completion_n"] == 3


def test_silence_inside_a_stream_is_told(make_proxy, backend):
    proxy = make_proxy({"m": backend}, timeout_read=0.3)

    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"))
        exchange.wait_gone()

    backend.next(script)
    with proxy.connect() as client:
        events = client.events(client.stream())
        assert next(events) == sse.chunk("a")
        assert "error" in json.loads(next(events).removeprefix(b"data: "))
        with pytest.raises(Cut):
            list(events)


def test_bad_chunk_inside_a_stream_is_told(proxy, backend):
    def script(exchange):
        exchange.open()
        exchange.write(sse.chunk("a"))
        exchange.send(b"xyz\r\n")
        exchange.wait_gone()

    backend.next(script)
    with proxy.connect() as client:
        events = client.events(client.stream())
        assert next(events) == sse.chunk("a")
        assert "error" in json.loads(next(events).removeprefix(b"data: "))
        with pytest.raises(Cut):
            list(events)


def test_timeout_read_is_of_silence_not_of_the_whole(make_proxy, backend):
    proxy = make_proxy({"m": backend}, timeout_read=1.0)
    confirmed = [backend.gate(str(n)) for n in range(12)]

    def script(exchange):
        exchange.open()
        for n, gate in enumerate(confirmed):
            exchange.write(sse.chunk(str(n)))
            gate.wait()
        exchange.write(*END)
        exchange.end()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream()
        events = client.events(reply)
        for n, gate in enumerate(confirmed):
            assert next(events) == sse.chunk(str(n))
            stays(lambda: True, "silence shorter than timeout_read", 0.12)
            gate.open()
        assert list(events)[-1] == sse.DONE


# Streams under a Content-Encoding, though none was asked for.

GZIP = [("Content-Encoding", "gzip")]


def compressed(*events):
    """Each event as a server writes it that compresses and flushes; the last ends the coding."""
    packer = zlib.compressobj(wbits=31)
    pieces = [packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) for event in events]
    return [*pieces, packer.flush()]


@pytest.mark.parametrize("chunked", [True, False])
def test_compressed_stream_passes_untouched_as_it_comes(proxy, backend, chunked):
    pieces = compressed(sse.chunk("a"), *END)
    gates = [backend.gate(f"piece {n} confirmed") for n in range(len(pieces))]

    def script(exchange):
        exchange.open(headers=GZIP, chunked=chunked)
        for piece, gate in zip(pieces, gates, strict=True):
            exchange.write(piece)
            gate.wait()
        exchange.end()

    backend.next(script)
    with proxy.connect() as client:
        reply = client.stream()
        assert reply.header("Content-Encoding") == "gzip"
        payload = client.payload(reply)
        for piece, gate in zip(pieces, gates, strict=True):
            assert next(payload) == piece
            gate.open()
        assert list(payload) == []


def test_compressed_stream_that_is_cut_ends_without_a_word(proxy, backend):
    pieces = compressed(sse.chunk("a"))
    first = backend.gate("the first piece has come")

    def script(exchange):
        exchange.open(headers=GZIP)
        exchange.write(pieces[0])
        first.wait()
        exchange.close()

    backend.next(script)
    with proxy.connect() as client:
        payload = client.payload(client.stream())
        assert next(payload) == pieces[0]
        first.open()
        with pytest.raises(Cut):
            next(payload)


# What is a stream.


def test_stream_is_what_the_reply_says_not_the_request(proxy, backend):
    first = backend.gate("first event confirmed")

    def script(exchange):
        exchange.open(content_type="Text/Event-Stream")
        exchange.write(sse.chunk("a"))
        first.wait()
        exchange.write(*END)
        exchange.end()

    backend.next(script)
    with proxy.connect() as client:
        client.start_post()
        reply = client.read_head()
        assert reply.header("Content-Type") == "Text/Event-Stream"
        assert next(client.events(reply)) == sse.chunk("a")
        first.open()


def test_plain_reply_to_a_streamed_call_is_plain(proxy, backend):
    backend.next(lambda exchange: exchange.reply(body=sse.completion(usage=sse.usage(7, 3))))
    reply = proxy.post(stream=True)
    assert reply.header("Content-Type") == "application/json" and reply.header("Content-Length")
    assert proxy.wait_event(reply.id)["completion_n"] == 3


def test_head_of_a_stream(proxy, backend):
    with proxy.connect() as client:
        reply = client.stream()
        client.read_body(reply)
    assert reply.status == 200
    assert reply.header("Content-Type") == "text/event-stream; charset=utf-8"
    assert reply.header("Transfer-Encoding") == "chunked"
    assert reply.header("Cache-Control") == "no-cache"
    assert reply.header("X-Accel-Buffering") == "no"


def test_request_that_arrives_byte_by_byte_is_answered(proxy, backend):
    body = json.dumps({"model": "m", "messages": [], "stream": True}).encode()
    with proxy.connect() as client:
        head = "\r\n".join(
            [f"POST {CHAT} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}"]
            + [f"{name}: {value}" for name, value in chat_headers()]
        )
        for byte in (head + "\r\n\r\n").encode() + body:
            client.send(bytes([byte]))
        assert client.read().body.endswith(sse.DONE)
