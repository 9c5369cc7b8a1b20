"""Fixtures: a backend, a proxy in front of it, both databases. Everything runs on free loopback
ports and ends with its test."""

import pytest

from rig import proxy as proxy_module
from rig.backend import Backend
from rig.database import Mongo, MongoServer, Sqlite


def pytest_configure(config):
    config.addinivalue_line("markers", "full: longer than a minute; run by `make test-full`")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run the tests marked `full`")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--full"):
        return
    long = [item for item in items if "full" in item.keywords]
    items[:] = [item for item in items if "full" not in item.keywords]
    config.hook.pytest_deselected(items=long)


@pytest.fixture
def make_backend():
    """Makes scripted backends; a script that raised fails the test."""
    made = []

    def make(**options):
        made.append(Backend(**options))
        return made[-1]

    yield make
    for backend in made:
        backend.close()
    for backend in made:
        assert not backend.failures, backend.failures


@pytest.fixture
def backend(make_backend):
    return make_backend()


@pytest.fixture
def make_proxy(request, tmp_path):
    """Starts proxies: make_proxy({"model": backend}, database, **config)."""
    for name in ("mongo", "database"):  # asked for first, so they outlive the proxies that use them
        if name in request.fixturenames:
            request.getfixturevalue(name)
    made = []

    def make(backends, database=None, start=True, **options):
        proxy = proxy_module.Proxy(tmp_path / f"proxy{len(made)}", backends, database, **options)
        made.append(proxy)
        return proxy.start() if start else proxy

    yield make
    failures = []
    for proxy in made:
        try:
            proxy.finish()
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


@pytest.fixture
def proxy(make_proxy, backend):
    """The ordinary case: model `m` on SQLite."""
    return make_proxy({"m": backend})


@pytest.fixture(scope="session")
def mongo_server(tmp_path_factory):
    server = MongoServer(tmp_path_factory.mktemp("mongo"))
    yield server
    server.close()


@pytest.fixture
def mongo(mongo_server):
    database = Mongo(mongo_server)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "mongo"])
def database(request, tmp_path):
    """Each of the two databases in turn."""
    if request.param == "mongo":
        yield request.getfixturevalue("mongo")
        return
    database = Sqlite(tmp_path / "test.db")
    yield database
    database.close()


@pytest.fixture
def billing_proxy(make_proxy, backend, database):
    """As `proxy`, on each database."""
    return make_proxy({"m": backend}, database)
