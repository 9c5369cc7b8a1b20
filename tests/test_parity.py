"""What the Python original did, line by line (docs/migrate.md has the differences). Each line is a
test here or one named in ELSEWHERE."""

import pathlib
import re
import subprocess

import pytest

from rig import sse
from rig.database import ROOT
from rig.proxy import run
from rig.wait import DEADLINE, wait_until

# The query of the original's manual.
QUERY = (
    '{"messages": [{"role": "system", "content": "You are an assistant."}, '
    '{"role": "user", "content": '
    '"Write a limerick about python exceptions"}], "model": "llama31-70b", "stream": true}'
)

ELSEWHERE = {
    "start": "test_config.py::test_ready_line_names_the_port",
    "access log": "test_config.py::test_access_line_has_everything",
    "per-request log": "test_config.py::test_access_line_has_everything",
    "no config file": "test_config.py::test_missing_file",
    "bad TOML, missing key, bad level": "test_config.py::test_bad_config_is_told_with_its_place",
    "no [backends]": "test_config.py::test_without_backends_it_starts_with_a_warning",
    "backend without token / with bad url": "test_config.py::test_server_refuses_to_start_with_the_same_text",
    "database down at start": "test_auth.py::test_starts_without_the_database",
    "order of checks": "test_auth.py::test_checks_go_scheme_key_body_model",
    "no header, Basic, bearer": "test_auth.py::test_refused",
    "unknown, expired, empty key, two spaces": "test_auth.py::test_one_body_for_unknown_expired_and_revoked",
    "two Authorization headers": "test_auth.py::test_two_authorization_headers_are_400",
    "token not UTF-8": "test_auth.py::test_refused",
    "body not UTF-8, [], null, model an object": "test_endpoints.py::test_bad_body_is_400",
    "not JSON, empty body": "test_endpoints.py::test_bad_body_is_400",
    "no model, unknown model, model a number": "test_endpoints.py::test_unknown_model_is_404",
    "Content-Type": "test_forwarding.py::test_json_is_accepted_under_any_content_type_and_goes_out_as_json",
    "NaN; duplicate key in the body": "test_endpoints.py::test_bad_body_is_400",
    "body over the limit": "test_endpoints.py::test_body_over_the_limit_is_413",
    "other method, other path": "test_endpoints.py::test_wrong_method_is_405_with_allow",
    "choice of backend": "test_forwarding.py::test_model_selects_the_backend",
    "url": "test_forwarding.py::test_path_is_kept_under_the_url",
    "headers to the backend": "test_forwarding.py::test_call_is_framed_anew",
    "headers to the client": "test_forwarding.py::test_other_headers_of_the_reply_are_dropped",
    "backend's cookies": "test_forwarding.py::test_backend_cookies_are_not_replayed",
    "backend answers anything but 200": "test_forwarding.py::test_status_and_body_of_the_backend_pass",
    "redirects": "test_forwarding.py::test_redirect_is_not_followed",
    "backend down": "test_forwarding.py::test_refused_connection_is_502",
    "no connect within timeout_connect": "test_forwarding.py::test_no_connection_within_timeout_connect_is_504",
    "slow answer": "test_forwarding.py::test_silence_of_timeout_read_is_504",
    "more than 100 calls at once": "test_forwarding.py::test_more_than_100_calls_at_once",
    "stream not a boolean; duplicate members": "test_endpoints.py::test_bad_body_is_400",
    "_id of the event": "test_forwarding.py::test_request_id_is_the_same_everywhere",
    "key without user_id": "test_auth.py::test_mongodb_key_without_user_is_refused_and_named",
    "what is a stream": "test_stream.py::test_stream_is_what_the_reply_says_not_the_request",
    "stream cut by the backend": "test_stream.py::test_cut_by_the_backend_is_told_and_never_ended_cleanly",
    "client leaves": "test_billing.py::test_client_that_leaves_a_stream_is_billed_in_full",
    "database lost, then a request": "test_auth.py::test_known_key_works_without_the_database_and_unknown_is_503",
    "database lost before the event": "test_outage.py::test_database_lost_under_load",
    "SIGHUP, good file": "test_reload.py::test_log_names_what_changed",
    "SIGHUP, bad TOML, no backends, no file": "test_reload.py::test_broken_file_changes_nothing",
    "SIGTERM": "test_shutdown.py::test_50_open_streams_finish_and_are_billed",
    "event": "test_mongo.py::test_document_has_the_fields_in_order_with_their_types",
    "query": "test_mongo.py::test_key_query_is_the_original_s",
}


@pytest.mark.parametrize("line", ELSEWHERE)
def test_line_has_its_test(line):
    file, name = ELSEWHERE[line].split("::")
    assert re.search(
        rf"^def {name}\(", (pathlib.Path(__file__).parent / file).read_text(), re.MULTILINE
    )


def curl(proxy, *arguments):
    done = subprocess.run(
        ["curl", "-sS", "-v", *arguments, f"http://127.0.0.1:{proxy.port}/v1/chat/completions"],
        capture_output=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    status = re.findall(rb"< HTTP/1.1 (\d+)", done.stderr)[-1]
    return int(status), done.stdout


@pytest.fixture
def llama(make_proxy, backend, database):
    return make_proxy({"llama31-70b": backend}, database)


@pytest.mark.parametrize("token, status", [("token1", 401), ("token2", 200), ("token3", 200)])
def test_curl_of_the_manual(llama, token, status):
    found, body = curl(
        llama, "-HContent-Type: application/json", f"-HAuthorization: Bearer {token}", f"-d{QUERY}"
    )
    assert found == status
    if status == 401:
        assert b'"error"' in body
        assert llama.settled_events() == []
        return
    assert body.endswith(sse.DONE) and b"usage" not in body
    event = llama.wait_events(1)[0]
    assert (event["user_id"], event["model"]) == (f"user{token[-1]}", "llama31-70b")
    assert (event["prompt_n"], event["completion_n"]) == (7, 3)


def test_curl_without_content_type(llama):
    assert curl(llama, "-HAuthorization: Bearer token2", f"-d{QUERY}")[0] == 200


def test_curl_with_a_body_over_a_megabyte(llama, tmp_path):
    """curl then sends Expect: 100-continue, and would wait a second without the 100."""
    (tmp_path / "body").write_text(QUERY.replace("an assistant", "an assistant " * 200_000))
    status, body = curl(
        llama, "-HAuthorization: Bearer token2", "--data-binary", f"@{tmp_path}/body"
    )
    assert status == 200 and body.endswith(sse.DONE)


def test_sample_sql_has_the_three_keys(make_proxy, backend):
    proxy = make_proxy({"m": backend}, seed=False)
    wait_until(
        lambda: proxy.database.query("SELECT name FROM sqlite_master WHERE name = 'api_keys'"),
        "the tables",
    )
    with open(ROOT / "sample.sql", "rb") as script:
        subprocess.run(["sqlite3", "-bail", proxy.database.path], stdin=script, check=True)
    assert [proxy.post(token=token).status for token in ("token1", "token2", "token3")] == [
        401,
        200,
        200,
    ]


def test_sample_sql_twice_is_no_harm(make_proxy, backend):
    proxy = make_proxy({"m": backend}, seed=False)
    wait_until(
        lambda: proxy.database.query("SELECT name FROM sqlite_master WHERE name = 'api_keys'"),
        "the tables",
    )
    for _ in range(2):
        with open(ROOT / "sample.sql", "rb") as script:
            subprocess.run(["sqlite3", proxy.database.path], stdin=script, capture_output=True)
    assert proxy.database.query("SELECT count(*) AS n FROM api_keys") == [{"n": 3}]


def test_stream_with_usage_before_done_is_billed(llama, backend):
    """The original lost it."""
    backend.next(lambda exchange: exchange.stream(sse.chunk("a"), sse.usage_chunk(7, 3), sse.DONE))
    llama.post(model="llama31-70b", stream=True)
    assert llama.wait_events(1)[0]["completion_n"] == 3


def test_stream_whose_last_chunk_has_usage_is_billed(llama, backend):
    backend.next(
        lambda exchange: exchange.stream(
            sse.chunk("a"), sse.chunk(finish="stop", usage=sse.usage(7, 3))
        )
    )
    llama.post(model="llama31-70b", stream=True)
    assert llama.wait_events(1)[0]["completion_n"] == 3


def test_reply_other_than_200_without_usage_is_not_billed(llama, backend):
    backend.next(lambda exchange: exchange.reply(500, {"error": {"message": "x"}}))
    assert llama.post(model="llama31-70b").status == 500
    assert llama.settled_events() == []


def test_database_file_is_at_version_1(proxy):
    assert proxy.database.query("PRAGMA user_version") == [{"user_version": 1}]
    tables = {
        t: [c["name"] for c in proxy.database.query(f"PRAGMA table_info({t})")]
        for t in ("api_keys", "events_completion")
    }
    assert tables == {
        "api_keys": ["id", "access_level", "secret", "user_id", "date_expiry", "comment"],
        "events_completion": [
            "id",
            "date_created",
            "user_id",
            "api_key_id",
            "model",
            "prompt_n",
            "completion_n",
        ],
    }


def test_times_in_sqlite_have_one_form(proxy):
    proxy.post()
    proxy.wait_events(1)
    (row,) = proxy.database.query("SELECT id, date_created FROM events_completion")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["date_created"])
    assert re.fullmatch("[0-9a-f]{24}", row["id"])


def test_newer_database_file_is_refused(make_proxy, backend):
    proxy = make_proxy({"m": backend})
    proxy.stop()
    proxy.database.query("PRAGMA user_version = 2")
    done = run("-c", proxy.path, cwd=proxy.directory)
    assert done.returncode > 0 and "listening" not in done.stderr
