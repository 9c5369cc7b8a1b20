"""A small, fixed share of `make torture`, and proof that its oracle and its harm are what they say."""

import datetime
import os
import pathlib
import random

import pytest

from rig.database import Sqlite
from torture import failures, faults, kills, ledger_files, oracle, scenarios
from torture.worker import Worker, fast_directory

SEED = 20
KILLS = 6  # of each scenario
FAULTS = 2  # of each way
# Only in `make torture`: they take a second and more each, or a server of their own.
SLOW = {"progress", "mongo", "mongo-outage", "mongo-replies"}


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    made = tmp_path_factory.mktemp("torture")
    directory = fast_directory(made)
    one = Worker(directory / "worker", made / "failures")
    yield one
    one.close()
    directory.rmdir()


def tell(result):
    return "\n".join([f"tools/torture {result.how}", *(f"{word}: {text}" for word, text in result.problems)])


@pytest.mark.parametrize("name", [name for name in scenarios.BY_NAME if name not in SLOW])
def test_no_bill_is_lost_doubled_or_wrong_when_the_proxy_is_killed_at_a_call(worker, name):
    drawn = random.Random(SEED)
    points = list(kills.points(kills.count(worker, name)))
    for number, how in drawn.sample(points, KILLS):
        result = kills.run(worker, name, number, how, drawn.randrange(1000))
        assert not result.problems, tell(result)


@pytest.mark.parametrize("way", [way for way in failures.WAYS if not way.endswith("ever")])
def test_no_bill_is_lost_doubled_or_wrong_when_a_call_fails(worker, way):
    drawn = random.Random(SEED)
    points = [point for point in failures.points(failures.count(worker, "mixed")) if point[1] == way]
    for number, _ in drawn.sample(points, FAULTS):
        result = failures.run(worker, "mixed", number, way, drawn.randrange(1000))
        assert not result.problems, tell(result)


# The rig itself.


@pytest.fixture
def small(make_proxy, backend, tmp_path):
    """A proxy whose calls are counted."""
    data = tmp_path / "data"
    data.mkdir()
    proxy = make_proxy({"m": backend}, Sqlite(data / "test.db"), start=False, data_dir=str(data))
    return proxy, data


def test_the_library_counts_kills_and_fails(small, tmp_path):
    proxy, data = small
    counting = faults.Faults(faults.build(), data, tmp_path / "report")
    proxy.start(env=counting.environment)
    assert proxy.post().status == 200
    assert proxy.stop() == 0
    seen = counting.kinds
    assert all(seen[kind] > 0 for kind in "wstnorl"), seen
    assert counting.calls == sum(seen.values()) == len(counting.order) and counting.hits == 0
    fatal = faults.Faults(faults.build(), data, tmp_path / "report", at=5, do="kill-before")
    proxy.launch(env=fatal.environment)
    assert proxy.wait() == -9 and fatal.calls >= 5 and fatal.hits == 1
    failing = faults.Faults(faults.build(), data, tmp_path / "report", at=1, until=faults.FOREVER, do="fail")
    proxy.launch(env=failing.environment)
    assert proxy.wait() > 0 and proxy.lines("Input/output error")


def test_without_syncs_nothing_is_synced(small, tmp_path):
    """The control of the power cuts takes away O_DSYNC and O_DIRECT too."""
    proxy, data = small
    nosync = faults.Faults(faults.build(), data, tmp_path / "report", do="nosync")
    proxy.start(env=nosync.environment)
    assert not any(flags & (os.O_DIRECT | os.O_DSYNC) for flags in flags_of_files(proxy.pid, data))
    proxy.stop()
    proxy.launch()
    proxy.wait_ready()
    assert any(flags & os.O_DSYNC for flags in flags_of_files(proxy.pid, data))


def flags_of_files(pid, below):
    """Of those that it has open there."""
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(link).startswith(str(below)):
            text = pathlib.Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
            yield int(text.split("flags:")[1].split()[0], 8)


NOW = datetime.datetime.now(datetime.timezone.utc)


def asked(kind, number=5000, **seen):
    request = oracle.Request(number, kind)
    request.sent = NOW.timestamp()
    request.ids = {f"{number:024x}"}
    request.id = f"{number:024x}"
    request.status, request.began, request.whole, request.ended = 200, True, True, True
    for name, value in seen.items():
        setattr(request, name, value)
    return request


def billed(number=5000, **changed):
    event = {
        "id": f"{number:024x}",
        "date_created": NOW,
        "user_id": oracle.USER,
        "api_key_id": oracle.KEY,
        "model": "m",
        "prompt_n": number,
        "completion_n": oracle.completion_of(number),
    }
    return {**event, **changed}


def words(requests, events, unresolved=(), **options):
    return [word for word, _ in oracle.judge(requests, oracle.Truth(events, set(unresolved)), **options)]


ID = f"{5000:024x}"
LATER = NOW + datetime.timedelta(hours=1)


@pytest.mark.parametrize(
    "requests, events, unresolved, expected",
    [
        ([asked("plain")], [billed()], [], []),
        ([asked("plain")], [], [], [oracle.LOST]),
        ([asked("stream")], [], [ID], [oracle.LOST]),
        ([asked("stream", whole=False)], [], [], [oracle.LOST]),
        ([asked("stream", whole=False)], [], [ID], []),
        ([asked("stream", whole=False, began=False)], [], [], []),
        ([asked("stream")], [billed()], [ID], [oracle.WRONG]),
        ([asked("stream")], [billed(), billed(id="b" * 24)], [], [oracle.DOUBLE, oracle.WRONG]),
        ([asked("stream")], [billed(), billed(6000)], [], [oracle.WRONG]),
        ([asked("plain")], [billed(completion_n=7)], [], [oracle.WRONG]),
        ([asked("plain")], [billed(user_id="user1")], [], [oracle.WRONG]),
        ([asked("plain")], [billed(date_created=LATER)], [], [oracle.WRONG]),
        ([asked("plain", id="c" * 24)], [billed()], [], [oracle.WRONG]),
        ([asked("silent")], [], [], [oracle.LOST]),
        ([asked("silent")], [], [ID], []),
        ([asked("silent")], [billed()], [ID], [oracle.WRONG, oracle.WRONG]),
        ([asked("refused", status=500)], [billed()], [], [oracle.WRONG]),
        ([asked("running", whole=False)], [billed(model="continuous", completion_n=15001 // 4)], [], []),
        ([asked("running")], [billed(model="continuous", completion_n=15001 // 4)], [], [oracle.WRONG]),
        ([asked("plain")], [billed()], ["d" * 24], [oracle.WRONG]),
    ],
)
def test_the_oracle_sees_what_is_lost_double_and_wrong(requests, events, unresolved, expected):
    assert words(requests, events, unresolved) == expected


def test_the_oracle_wants_every_bill_when_nothing_died():
    gone = asked("gone", whole=False, began=False)
    assert words([gone], []) == [] and words([gone], [], all_lived=True) == [oracle.LOST]
    refused = asked("plain", status=503, whole=False, began=False)
    assert words([refused], [billed()]) == [] and words([refused], [billed()], all_lived=True) == [oracle.WRONG]


def test_the_rig_reads_unresolved_ids_from_the_files(make_proxy, backend):
    backend.script = lambda exchange: exchange.reply(body={"no": "usage"})
    proxy = make_proxy({"m": backend})
    reply = proxy.post()
    assert reply.status == 200 and proxy.stop() == 0
    assert ledger_files.read(proxy.directory / "data/ledger") == ({reply.id}, set())
