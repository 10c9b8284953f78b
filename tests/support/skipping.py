"""A real Temporal server whose clock, one per workflow, jumps over what nobody waits for."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from orchestrator.adapters.temporal.client import register_search_attributes

SERVER_SETTINGS: Final = ("frontend.WorkflowTimeSkippingEnabled=true", 'history.timerProcessorMaxTimeShift="10ms"')

SKIPPED: Final = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIME_SKIPPING_TRANSITIONED
"""What the clock writes into a history when it jumps; no other server writes it."""


class NoTemporalError(RuntimeError):
    """There is no program temporal: install deploy/requirements/dev.txt."""


def program() -> str:
    """Path of the server. Raises NoTemporalError."""
    found = shutil.which("temporal", path=Path(sys.executable).parent) or shutil.which("temporal")
    if found is None:
        raise NoTemporalError(NoTemporalError.__doc__)
    return found


@asynccontextmanager
async def skipping_server(*settings: str) -> AsyncIterator[Client]:
    """A client of a fresh server that knows our search attributes; ``settings`` are further NAME=VALUE of its dynamic
    configuration. Raises NoTemporalError."""
    environment = await WorkflowEnvironment.start_time_skipping_v2(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=program(),
        dev_server_extra_args=[
            *("--output", "none"),  # it would greet on our standard output
            *(word for setting in (*SERVER_SETTINGS, *settings) for word in ("--dynamic-config-value", setting)),
        ],
        dev_server_log_level="error",
    )
    try:
        await register_search_attributes(environment.client)
        yield environment.client
    finally:
        await environment.shutdown()


async def history(client: Client, workflow_id: str, run_id: str | None = None) -> list[Any]:
    """Events of one run as any other server would have them: without the jumps of the clock."""
    found = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    return [event for event in found.events if event.event_type != SKIPPED]
