"""Who may ask: the key query, its cache, and what happens when the database cannot be asked."""

import datetime

import bson
import pytest

from rig.client import CHAT, chat_body
from rig.database import digest
from rig.wait import run_all, wait_until


def utc_now():
    return datetime.datetime.utcnow()


def ask(proxy, *authorization):
    headers = [("Authorization", value) for value in authorization]
    return proxy.request("POST", CHAT, headers, chat_body())


def assert_refused(reply, status=401):
    assert reply.status == status, reply
    assert reply.error["type"] == "invalid_request_error"
    assert reply.header("WWW-Authenticate") == "Bearer"
    return reply


@pytest.mark.parametrize("token", ["token2", "token3"])
def test_good_key_is_served(billing_proxy, token):
    assert billing_proxy.post(token=token).status == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_scheme_in_any_case(proxy, scheme):
    assert ask(proxy, f"{scheme} token2").status == 200


REFUSED = {
    "no header": [],
    "empty": [""],
    "scheme only": ["Bearer"],
    "scheme and blank": ["Bearer "],
    "no scheme": ["token2"],
    "Basic": ["Basic dG9rZW4yOg=="],
    "other scheme": ["Token token2"],
    "unknown": ["Bearer token4"],
    "expired": ["Bearer token1"],
    "prefix": ["Bearer token"],
    "longer": ["Bearer token22"],
    "other case": ["Bearer Token2"],
    "quoted": ['Bearer "token2"'],
    "comma list": ["Bearer token2, Bearer token3"],
    "the hash itself": [f"Bearer {digest('token2')}"],
    "not UTF-8": ["Bearer token\xff\xfe"],
    "long": ["Bearer " + "x" * 20_000],
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(proxy, backend, name):
    assert_refused(ask(proxy, *REFUSED[name]))
    assert backend.requests == []
    assert ask(proxy, "Bearer token2").status == 200


def test_one_body_for_unknown_expired_and_revoked(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database, auth={"key_ttl": 0.2})
    assert proxy.post(token="token3").status == 200
    database.remove_key("token3")
    revoked = wait_until(
        lambda: (r := proxy.post(token="token3")).status == 401 and r, "the key revoked"
    )
    bodies = {
        assert_refused(reply).body
        for reply in (revoked, proxy.post(token="token1"), proxy.post(token="x"))
    }
    assert len(bodies) == 1
    assert revoked.error["code"] == "invalid_api_key"


def test_connection_is_kept_after_401(proxy):
    with proxy.connect() as client:
        assert client.post(token="x").status == 401
        assert client.post().status == 200


@pytest.mark.parametrize("second", ["Bearer token2", "Bearer x", "Basic x"])
def test_two_authorization_headers_are_400(proxy, backend, second):
    reply = ask(proxy, "Bearer token2", second)
    assert reply.status == 400 and reply.error
    assert backend.requests == []


def test_checks_go_scheme_key_body_model(proxy):
    with proxy.connect() as client:
        assert client.post(b"{", token="x").status == 401
        assert client.post(b'{"model": 1').status == 400
        assert client.post(model="nobody").status == 404


def test_other_access_level_is_refused(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database)
    database.add_key("llm-token", "user9", access_level="LLM")
    assert proxy.post(token="llm-token").status == 401


def test_access_level_is_configurable(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database, auth={"access_level": "LLM"})
    database.add_key("llm-token", "user9", access_level="LLM")
    assert proxy.post(token="llm-token").status == 200
    assert proxy.post(token="token2").status == 401


def test_key_added_beside_the_proxy_works_soon(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database, auth={"key_unknown_ttl": 0.2})
    assert proxy.post(token="fresh").status == 401
    database.add_key("fresh", "user9")
    wait_until(lambda: proxy.post(token="fresh").status == 200, "the new key")


def test_known_key_is_cached(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database, auth={"key_ttl": 3600})
    assert proxy.post().status == 200
    database.remove_key("token2")
    assert proxy.post().status == 200


def test_keys_with_a_long_common_prefix_are_told_apart(proxy):
    common = "k" * 80
    proxy.database.add_key(common + "1", "user8")
    proxy.database.add_key(common + "2", "user9")
    assert proxy.post(token=common + "1").status == 200
    assert proxy.post(token=common + "2").status == 200
    assert proxy.post(token=common + "3").status == 401
    assert sorted(e["user_id"] for e in proxy.wait_events(2)) == ["user8", "user9"]


def test_expiry_is_enforced_from_the_cached_key(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database, auth={"key_ttl": 3600})
    expires = utc_now().replace(microsecond=0) + datetime.timedelta(seconds=3)
    database.add_key("short", "user9", expires=expires)
    assert proxy.post(token="short").status == 200
    wait_until(lambda: proxy.post(token="short").status == 401, "the key expired")
    assert expires <= utc_now() < expires + datetime.timedelta(seconds=2)


@pytest.mark.parametrize(
    "text, status",
    [
        ("2099-01-01T00:00:00.000Z", 200),
        ("2099-01-01T00:00:00Z", 200),
        ("2020-01-01T00:00:00.000Z", 401),
        ("2020-01-01T00:00:00Z", 401),
        ("soon", 401),
    ],
)
def test_dates_of_sqlite(proxy, text, status):
    proxy.database.query(
        "INSERT INTO api_keys VALUES ('66fd1d1de3a0c3eaae1b0c99', 'COMPLETION', ?, 'u', ?, NULL)",
        digest("t"),
        text,
    )
    assert proxy.post(token="t").status == status


def test_missing_expiry_in_mongodb_is_none(make_proxy, backend, mongo):
    proxy = make_proxy({"m": backend}, mongo)
    mongo.keys.insert_one(
        {"access_level": "COMPLETION", "secret": digest("t"), "user_id": "u", "more": {"x": 1}}
    )
    assert proxy.post(token="t").status == 200


def test_mongodb_key_without_user_is_refused_and_named(make_proxy, backend, mongo):
    proxy = make_proxy({"m": backend}, mongo)
    id = mongo.keys.insert_one(
        {"access_level": "COMPLETION", "secret": digest("t"), "date_expiry": None}
    ).inserted_id
    assert_refused(proxy.post(token="t"))
    assert proxy.wait_lines("ERROR", str(id))
    assert proxy.settled_events() == []


@pytest.mark.parametrize(
    "id, text", [("my-key", "my-key"), (42, "42"), (7.5, "7.5"), (True, "True")]
)
def test_mongodb_key_id_of_another_type_is_written_as_python_would(
    make_proxy, backend, mongo, id, text
):
    proxy = make_proxy({"m": backend}, mongo)
    mongo.keys.insert_one(
        {"_id": id, "access_level": "COMPLETION", "secret": digest("t"), "user_id": "u"}
    )
    proxy.post(token="t")
    assert proxy.wait_events(1)[0]["api_key_id"] == text


MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5, 678000)


@pytest.mark.parametrize(
    "id",
    [
        bson.Decimal128("1.50"),
        bson.Decimal128("-1E+3"),
        MOMENT,
        b"it's\n\xff",
        {"a": 1, "b": "x", "c": {"d": [True, None, {}, []]}},
        {"it's": ["it's", "both'\"", "\\\t\x01\x7f", "Łódź 🦙"]},
        {"n": [1.5, 1e16, 1e-5, -0.0, float("inf"), bson.Int64(2**53 + 1)]},
        {"t": [MOMENT, MOMENT.replace(microsecond=0), datetime.datetime(1950, 1, 2)]},
        {"b": [b"'\xff", bson.Binary(bytes(range(16)), 4), bson.Timestamp(1, 2)]},
        {"o": bson.ObjectId("66fd1d1de3a0c3eaae1b0c77"), "d": bson.Decimal128("1E-7")},
    ],
)
def test_mongodb_key_id_is_written_as_pymongo_s_own_str(make_proxy, backend, mongo, id):
    proxy = make_proxy({"m": backend}, mongo)
    key = {"_id": id, "access_level": "COMPLETION", "secret": digest("t"), "user_id": "u"}
    mongo.keys.insert_one(key)
    proxy.post(token="t")
    assert proxy.wait_events(1)[0]["api_key_id"] == str(bson.decode(bson.encode(key))["_id"])


@pytest.mark.parametrize(
    "user", ["u", bson.ObjectId("66fd1d1de3a0c3eaae1b0c77"), 7, bson.Int64(7), 7.5, True]
)
def test_user_keeps_its_type_in_mongodb(make_proxy, backend, mongo, user):
    proxy = make_proxy({"m": backend}, mongo)
    mongo.keys.insert_one({"access_level": "COMPLETION", "secret": digest("t"), "user_id": user})
    proxy.post(token="t")
    written = proxy.wait_events(1)[0]["user_id"]
    assert (type(written), written) == (type(user), user)


def test_many_waiters_share_one_lookup(make_proxy, backend, mongo):
    proxy = make_proxy({"m": backend}, mongo)
    assert proxy.post(token="token3").status == 200
    mongo.wire.set("hold")
    clients = [proxy.connect() for _ in range(40)]
    for client in clients:
        client.start_post()
    wait_until(lambda: mongo.wire.held >= 1, "a look-up on its way")
    asked = mongo.wire.count(b"api_keys")
    mongo.wire.set("flow")
    assert [client.read().status for client in clients] == [200] * 40
    assert mongo.wire.count(b"api_keys") - asked <= 1
    for client in clients:
        client.close()


# Without the database.


def test_known_key_works_without_the_database_and_unknown_is_503(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database, auth={"key_ttl": 0.1})
    assert proxy.post().status == 200
    database.stop()
    with proxy.connect() as client:
        statuses = [client.post().status for _ in range(20)]
    assert statuses == [200] * 20
    unknown = proxy.post(token="token3")
    assert unknown.status == 503 and unknown.error and int(unknown.header("Retry-After")) > 0
    database.resume()
    wait_until(lambda: proxy.post(token="token3").status == 200, "the database again")
    assert len(proxy.settled_events()) == 22


def test_stale_key_is_refused_after_key_stale_max(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database, auth={"key_ttl": 0.1, "key_stale_max": 1.0})
    assert proxy.post().status == 200
    database.stop()
    wait_until(lambda: proxy.post().status == 503, "the key too old")
    database.resume()
    wait_until(lambda: proxy.post().status == 200, "the database again")


def test_stale_key_is_refused_once_expired(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database, auth={"key_ttl": 0.1})
    expires = utc_now() + datetime.timedelta(seconds=2)
    database.add_key("short", "user9", expires=expires)
    assert proxy.post(token="short").status == 200
    database.stop()
    wait_until(lambda: proxy.post(token="short").status != 200, "the key expired")
    assert proxy.post(token="short").status == 401
    assert utc_now() >= expires
    database.resume()


def test_starts_without_the_database(make_proxy, backend, mongo):
    mongo.stop()
    proxy = make_proxy({"m": backend}, mongo, seed=False)
    assert proxy.post().status == 503
    mongo.resume()
    mongo.seed()
    wait_until(lambda: proxy.post().status == 200, "the database")


def test_lookups_have_a_bound(make_proxy, backend, mongo):
    proxy = make_proxy({"m": backend}, mongo, auth={"lookups_max": 4})
    mongo.wire.set("hold")
    clients = [proxy.connect() for _ in range(12)]
    for number, client in enumerate(clients):
        client.start_post(token=f"unknown{number}")
    wait_until(lambda: proxy.lines("status=503"), "some refused at once")
    mongo.wire.set("flow")
    statuses = [client.read().status for client in clients]
    assert set(statuses) <= {401, 503} and 503 in statuses
    for client in clients:
        client.close()


def test_flood_of_unknown_tokens_leaves_good_keys_alone(make_proxy, backend, database):
    proxy = make_proxy({"m": backend}, database, auth={"keys_unknown_max": 10})
    assert proxy.post().status == 200

    def flood(number):
        with proxy.connect() as client:
            return [client.post(token=f"unknown-{number}-{n}").status for n in range(50)]

    found = run_all([lambda number=number: flood(number) for number in range(4)], threads=4)
    assert {status for statuses in found for status in statuses} <= {401, 503}
    assert proxy.post().status == 200
