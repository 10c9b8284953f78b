from __future__ import annotations

import uuid

import pytest

from orchestrator.adapters.temporal.client import connect, register_search_attributes
from orchestrator.config import Settings
from tests.support.skipping import NoTemporalError, skipping_server
from tests.workflow.bench import DAYS, MOMENTS, Bench

SOON = "limit.historyCount.suggestContinueAsNew=60"
"""Instead of 4,096 events: so that workflows do what they do after months."""


@pytest.fixture(scope="package")
async def skipping():
    """Client of a server whose clock skips."""
    try:
        async with skipping_server(SOON) as client:
            yield client
    except NoTemporalError as why:
        pytest.skip(str(why))


@pytest.fixture
async def skipping_bench(skipping):
    """Workflows and activities on a fresh world, on a task queue of their own, under a clock that skips."""
    async with Bench(skipping, f"t-{uuid.uuid4().hex[:8]}", DAYS) as running:
        yield running


@pytest.fixture(scope="session")
async def client(temporal):
    connected = await connect(Settings(temporal_address=temporal), lazy=False)
    await register_search_attributes(connected)
    return connected


@pytest.fixture
async def bench(client):
    """The same under a clock that runs."""
    async with Bench(client, f"t-{uuid.uuid4().hex[:8]}", MOMENTS) as running:
        yield running
