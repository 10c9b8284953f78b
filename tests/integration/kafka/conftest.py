from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from orchestrator.devstack.stack import DevStack


@pytest.fixture(scope="package")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """A broker of these tests alone: they stop and kill it."""
    stack = DevStack(tmp_path_factory.mktemp("broker"), postgres=False, temporal=False, environ={})
    stack.up()
    yield stack
    stack.down()


@pytest.fixture
def bootstrap(broker: DevStack) -> str:
    """The address of the running broker, brought back if a test left it down."""
    broker.up()
    address = broker.status()[0].address
    assert address is not None
    return address


@pytest.fixture
def prefix() -> str:
    """Topics of one test."""
    return f"t{uuid.uuid4().hex[:8]}."
