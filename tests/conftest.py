"""Services as fixtures, a database per test, and the rules of the house: no network in unit tests, no lost exit status.

``postgres``, ``kafka`` and ``temporal`` start on first use, once per process (per worker under xdist), or are the servers that
``OTA_DATABASE_URL``, ``OTA_KAFKA_BOOTSTRAP`` and ``OTA_TEMPORAL_ADDRESS`` name. A service that cannot start skips its tests with the
reason; with ``--require-services`` it fails them.
"""

from __future__ import annotations

import atexit
import ipaddress
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.engine import make_engine
from orchestrator.adapters.sql.migrations import migrate
from orchestrator.config import Settings
from orchestrator.devstack.process import ComponentError
from orchestrator.devstack.stack import DevStack

TESTS = Path(__file__).parent
OFFLINE = frozenset({"unit", "property"})
SERVICES = frozenset({"OTA_DATABASE_URL", "OTA_KAFKA_BOOTSTRAP", "OTA_TEMPORAL_ADDRESS"})

_session = pytest.StashKey[pytest.Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-services",
        action="store_true",
        help="fail instead of skip where PostgreSQL, Kafka or Temporal cannot start",
    )


def pytest_configure() -> None:
    # What a developer has set for their own stack must not change what the tests see.
    for field in Settings.model_fields:
        if (name := f"OTA_{field.upper()}") not in SERVICES:
            os.environ.pop(name, None)


# --------------------------------------------------------------------------- services


@contextmanager
def _service(request: pytest.FixtureRequest, name: str) -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix=f"bellwether-{name}-"))
    stack = DevStack(folder, postgres=name == "postgres", kafka=name == "kafka", temporal=name == "temporal")
    try:
        try:
            stack.up()
        except ComponentError as why:
            if request.config.getoption("--require-services"):
                pytest.fail(f"{name}: {why.detail}", pytrace=False)
            pytest.skip(f"{name}: {why.detail.splitlines()[0]}")
        (address,) = stack.env().values()
        yield address
    finally:
        stack.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a real PostgreSQL, whose user may create databases."""
    with _service(request, "postgres") as url:
        yield url


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[str]:
    """host:port of a real Kafka broker; tests keep apart by topic prefix."""
    with _service(request, "kafka") as bootstrap:
        yield bootstrap


@pytest.fixture(scope="session")
def temporal(request: pytest.FixtureRequest) -> Iterator[str]:
    """host:port of a real Temporal frontend; tests keep apart by task queue and workflow ids."""
    with _service(request, "temporal") as address:
        yield address


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
async def migrated_template(postgres: str) -> AsyncIterator[str]:
    """Name of a database at the head revision that nobody is connected to."""
    name = f"template_{uuid4().hex[:12]}"
    await _execute(postgres, f"CREATE DATABASE {name}")
    await migrate(_database(postgres, name))
    yield name
    await _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database_url(postgres: str, migrated_template: str) -> AsyncIterator[str]:
    """URL of a migrated, empty database of this test alone."""
    name = f"test_{uuid4().hex[:12]}"
    await _execute(postgres, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield _database(postgres, name)
    await _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on ``database_url``."""
    engine = make_engine(database_url, pool_size=8, application="ota-tests")
    yield engine
    await engine.dispose()


# --------------------------------------------------------------------------- no network in unit tests


class NetworkUsedError(AssertionError):
    """A unit test tried to reach another machine."""


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a path: Unix sockets stay on the machine
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] == "localhost"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    if item.path.relative_to(TESTS).parts[0] not in OFFLINE:
        return (yield)
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if not _is_local(address):
            raise NetworkUsedError(f"unit tests reach nothing but this machine, not {address!r}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        return (yield)


# --------------------------------------------------------------------------- exit


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_session] = session


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    # Temporal's native threads abort the process while the interpreter shuts down, which would replace the exit status. Only a
    # process that loaded them leaves early; a worker of xdist has reported its results by now.
    session = config.stash.get(_session, None)
    if session is None or "temporalio.bridge" not in sys.modules:
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(session.exitstatus))
