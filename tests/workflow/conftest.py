from __future__ import annotations

import shutil
import sys
import uuid
from pathlib import Path

import pytest
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from orchestrator.adapters.temporal.client import connect, register_search_attributes
from orchestrator.config import Settings
from tests.workflow.bench import DAYS, MOMENTS, Bench

SERVER_SETTINGS = (
    "frontend.WorkflowTimeSkippingEnabled=true",
    'history.timerProcessorMaxTimeShift="10ms"',
    "limit.historyCount.suggestContinueAsNew=60",  # instead of 4,096: so that workflows do what they do after months
)


@pytest.fixture(scope="package")
async def skipping():
    """A real server whose clock, one per workflow, jumps over what nobody waits for."""
    program = shutil.which("temporal", path=Path(sys.executable).parent) or shutil.which("temporal")
    if program is None:
        pytest.skip("there is no program temporal: install deploy/requirements/dev.txt")
    environment = await WorkflowEnvironment.start_time_skipping_v2(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=program,
        dev_server_extra_args=[arg for value in SERVER_SETTINGS for arg in ("--dynamic-config-value", value)],
        dev_server_log_level="error",
    )
    await register_search_attributes(environment.client)
    yield environment
    await environment.shutdown()


@pytest.fixture
async def skipping_bench(skipping):
    """Workflows and activities on a fresh world, on a task queue of their own, under a clock that skips."""
    async with Bench(skipping.client, f"t-{uuid.uuid4().hex[:8]}", DAYS) as running:
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
