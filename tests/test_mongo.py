"""MongoDB as others see it: sample.js through the real mongosh, the raw bytes of documents, the
commands that are sent."""

import datetime
import os
import struct
import subprocess

import bson
import pytest
from bson.raw_bson import RawBSONDocument

from rig import sse
from rig.database import ROOT
from rig.wait import DEADLINE, wait_until

OBJECT_ID, DATE, STRING, INT32, INT64 = 0x07, 0x09, 0x02, 0x10, 0x12


def elements(raw):
    """(name, BSON type) of each element of a document of flat fields, in order."""
    sizes = {OBJECT_ID: 12, DATE: 8, INT32: 4, INT64: 8, 0x01: 8, 0x08: 1, 0x0A: 0}
    found, at = [], 4
    while raw[at]:
        end = raw.index(0, at + 1)
        kind, name = raw[at], raw[at + 1 : end].decode()
        at = end + 1
        at += 4 + struct.unpack_from("<i", raw, at)[0] if kind == STRING else sizes[kind]
        found.append((name, kind))
    return found


def raw_events(mongo):
    options = bson.codec_options.CodecOptions(document_class=RawBSONDocument)
    return [document.raw for document in mongo.documents.with_options(codec_options=options).find()]


@pytest.fixture
def sampled(make_proxy, backend, mongo, tmp_path):
    """A proxy whose keys came from sample.js by mongosh, as the manual says."""
    proxy = make_proxy({"llama31-70b": backend}, mongo, seed=False)
    with open(ROOT / "sample.js", "rb") as script:
        done = subprocess.run(
            [
                ROOT / "build/node/node_modules/.bin/mongosh",
                "--quiet",
                f"mongodb://127.0.0.1:{mongo.wire.port}",
            ],
            stdin=script,
            capture_output=True,
            text=True,
            timeout=DEADLINE * 4,
            env={**os.environ, "HOME": str(tmp_path), "MONGOSH_SKIP_NODE_VERSION_CHECK": "1"},
        )
    assert done.returncode == 0, done.stderr
    return proxy


def test_sample_keys_by_mongosh(sampled, mongo):
    assert mongo.keys.count_documents({}) == 3
    for document in mongo.keys.find():
        assert set(document) >= {"_id", "access_level", "secret", "user_id"}
        assert document["access_level"] == "COMPLETION" and isinstance(
            document["_id"], bson.ObjectId
        )
    statuses = [
        sampled.post(model="llama31-70b", token=token).status
        for token in ("token1", "token2", "token3")
    ]
    assert statuses == [401, 200, 200]
    for event in sampled.wait_events(2):
        key = mongo.keys.find_one({"_id": bson.ObjectId(event["api_key_id"])})
        assert event["user_id"] == key["user_id"] and isinstance(event["user_id"], str)


def test_document_has_the_fields_in_order_with_their_types(make_proxy, backend, mongo):
    proxy = make_proxy({"m": backend}, mongo)
    before = datetime.datetime.now(datetime.UTC).timestamp()
    id = proxy.post().id
    proxy.wait_events(1)
    (raw,) = raw_events(mongo)
    assert elements(raw) == [
        ("_id", OBJECT_ID),
        ("date_created", DATE),
        ("user_id", STRING),
        ("api_key_id", STRING),
        ("model", STRING),
        ("prompt_n", INT32),
        ("completion_n", INT32),
    ]
    document = bson.decode(raw)
    assert str(document["_id"]) == id
    assert abs(document["_id"].generation_time.timestamp() - before) < 30


@pytest.mark.parametrize(
    "prompt_n, completion_n, types",
    [
        (0, 2**31 - 1, [INT32, INT32]),
        (2**31, 1, [INT64, INT32]),
        (7, 2**53, [INT32, INT64]),
        (7.0, 2147483648.0, [INT32, INT64]),
    ],
)
def test_counts_are_int32_where_they_fit(make_proxy, backend, mongo, prompt_n, completion_n, types):
    proxy = make_proxy({"m": backend}, mongo)
    backend.next(
        lambda exchange: exchange.reply(
            200, sse.completion(usage=sse.usage(prompt_n, completion_n))
        )
    )
    proxy.post()
    proxy.wait_events(1)
    (raw,) = raw_events(mongo)
    assert [kind for _, kind in elements(raw)[-2:]] == types
    assert (
        bson.decode(raw)["prompt_n"] == prompt_n
        and bson.decode(raw)["completion_n"] == completion_n
    )


def test_key_query_is_the_original_s(make_proxy, backend, mongo):
    proxy = make_proxy({"m": backend}, mongo)
    proxy.post()
    finds = [c for c in mongo.wire.commands() if c.get("find") == "api_keys"]
    assert finds and finds[0]["$db"] == "cgc"
    query = finds[0]["filter"]
    assert set(query) == {"access_level", "secret", "$or"}
    assert query["access_level"] == "COMPLETION" and len(query["secret"]) == 64
    null, later = sorted(query["$or"], key=lambda branch: isinstance(branch["date_expiry"], dict))
    assert null == {"date_expiry": None}
    assert set(later["date_expiry"]) == {"$gt"}
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    assert abs(later["date_expiry"]["$gt"] - now) < datetime.timedelta(seconds=60)


def test_inserts_are_unordered_and_acknowledged_by_the_majority_s_journals(
    make_proxy, backend, mongo
):
    proxy = make_proxy({"m": backend}, mongo)
    proxy.post()
    proxy.wait_events(1)
    inserts = [c for c in mongo.wire.commands() if c.get("insert") == "events_completion"]
    assert inserts and all(c["$db"] == "billing" for c in inserts)
    for command in inserts:
        assert command["ordered"] is False
        assert command["writeConcern"]["w"] == "majority" and command["writeConcern"]["j"] is True


def test_write_concern_of_the_uri_is_not_weaker(make_proxy, backend, mongo):
    proxy = make_proxy({"m": backend}, mongo, db={"uri": mongo.uri + "&w=0&journal=false"})
    proxy.post()
    proxy.wait_events(1)
    for command in mongo.wire.commands():
        if "insert" in command:
            assert (
                command["writeConcern"]["w"] == "majority" and command["writeConcern"]["j"] is True
            )


def test_many_events_go_in_few_batches(make_proxy, backend, mongo):
    proxy = make_proxy({"m": backend}, mongo, ledger={"ship_interval": 0.5})
    with proxy.connect() as client:
        for _ in range(200):
            assert client.post().status == 200
    wait_until(lambda: mongo.count() == 200, "200 events")
    inserts = [c for c in mongo.wire.commands() if "insert" in c]
    assert len(inserts) < 60
    assert sum(len(c["documents"]) for c in inserts) == 200
