"""What the files of a stopped ledger say is unresolved. Written from the grammar in src/billing/segment.h and
record.h, and sharing nothing with the program: the oracle must not believe the one it judges."""

import struct

_BLOCK_AT, _HEADER_FIXED = 12, 24
_UNRESOLVED, _DEAD, _EVENT, _FREE, _CLOSED = 5, 7, 3, 4, 8
_SEGMENT = "[0-9a-f]" * 16 + ".segment"  # others are in quarantine


class Bad(AssertionError):
    """The files of a cleanly stopped ledger are not as the grammar says."""


def _padded(size, block):
    return -(-size // block) * block


def _header(data, name):
    """Its size with padding, block, number, and the last sequence that counts in each older segment."""
    if data[:8] != b"llmledg\x1a":
        raise Bad(f"{name}: no header")
    _, block, length = struct.unpack_from("<III", data, 8)
    number, _ = struct.unpack_from("<QQ", data, _HEADER_FIXED)
    at = _HEADER_FIXED + 16 + 32
    (text,) = struct.unpack_from("<I", data, at)
    at += 4 + text
    (count,) = struct.unpack_from("<I", data, at)
    cutoffs = dict(struct.unpack_from("<QQ", data, at + 4 + 16 * i) for i in range(count))
    return _padded(length, block), block, number, cutoffs


def _records(data, at, block):
    """(sequence, type, payload) of each record, up to what is no group."""
    while data[at : at + 4] == b"GRP\x1a":
        length, _, count = struct.unpack_from("<III", data, at + 4)
        inner = at + 32
        for _ in range(count):
            size, _, kind = struct.unpack_from("<IIB", data, inner)
            (sequence,) = struct.unpack_from("<Q", data, inner + 12)
            yield sequence, kind, data[inner + 20 : inner + 20 + size]
            inner += 20 + size
        at += _padded(length, block)


def _side(data):
    """(type, payload) of the records in the file `side`."""
    _, length, _ = struct.unpack_from("<QQI", data, 8)
    at, end = 28, 28 + length
    while at < end:
        kind, size = struct.unpack_from("<BI", data, at)
        yield kind, data[at + 5 : at + 5 + size]
        at += 5 + size


def read(directory):
    """The sets of unresolved and of dead ids, as hex."""
    records = []
    side = directory / "side"
    if side.exists():
        records += _side(side.read_bytes())
    segments = []
    for path in sorted(directory.glob(_SEGMENT)):
        data = path.read_bytes()
        if any(data[:4096]):  # else a spare one
            segments.append((*_header(data, path.name), data))
    if segments:
        cutoffs = {**segments[-1][3], segments[-1][2]: 2**64}
        for size, block, number, _, data in segments:
            last = cutoffs.get(number, 0)
            records += [(kind, payload) for sequence, kind, payload in _records(data, size, block) if sequence <= last]
    return _fold(records)


def _fold(records):
    unresolved, dead = set(), set()
    for kind, payload in records:
        id = payload[:12].hex()
        if kind == _UNRESOLVED:
            unresolved.add(id)
        elif kind in (_EVENT, _FREE):
            unresolved.discard(id)
        elif kind == _DEAD:
            dead.add(id)
        elif kind == _CLOSED:
            dead.discard(id)
    return unresolved, dead
