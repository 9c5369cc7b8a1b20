"""The chunks of a streamed chat completion, as servers write them."""

import json

DONE = b"data: [DONE]\n\n"
ABSENT = object()


def data(value):
    """One event that carries `value` as compact JSON."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def usage(prompt_n, completion_n):
    return {
        "prompt_tokens": prompt_n,
        "completion_tokens": completion_n,
        "total_tokens": prompt_n + completion_n,
    }


def chunk(
    content=None, finish=None, usage=ABSENT, index=0, choices=ABSENT, model="echo", **members
):
    """One chunk. Without content it has an empty delta; `choices=[]` makes the chunk that is only
    usage."""
    delta = {} if content is None else {"content": content}
    value = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": model,
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}]
        if choices is ABSENT
        else choices,
        **members,
    }
    if usage is not ABSENT:
        value["usage"] = usage
    return data(value)


def usage_chunk(prompt_n, completion_n, **members):
    """The extra chunk that include_usage asks for."""
    return chunk(choices=[], usage=usage(prompt_n, completion_n), **members)


def completion(content="Hello world", usage=ABSENT, model="echo", **members):
    """A plain reply."""
    value = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "finish_reason": "stop",
            }
        ],
        **members,
    }
    if usage is not ABSENT:
        value["usage"] = usage
    return value


def asks_usage(call):
    """True if the body of a call asks for usage in its stream."""
    options = call.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
