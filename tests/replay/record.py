"""Record the histories that the replay test plays: ``python -m tests.replay.record [SCENARIO…]`` writes them into ``histories/``.

To be run, and its result committed, when workflow code changes in a way that old histories do not cover; the old files stay for as
long as campaigns that started under them may live. What would tell of the machine (host names, process ids, paths) is taken out.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from orchestrator.adapters.temporal.client import register_search_attributes
from orchestrator.domain import campaign as c
from tests.support.memory_process import DAY, phase
from tests.support.skipping import program, skipping_server
from tests.support.waiting import until
from tests.workflow.bench import DAYS, MOMENTS, Bench
from workflows.messages import Options

HISTORIES: Final = Path(__file__).parent / "histories"

VERSION: Final = "2026-11"
"""Prefix of new files: the version of the workflow code they were recorded with."""

_TELLING: Final = {"identity": "worker", "stackTrace": "", "historySizeBytes": "0"}
_SOAK: Final = 50


def scrub(value: Any) -> Any:
    """The history without what identifies a machine or a person's folders; replay does not read any of it."""
    if isinstance(value, dict):
        if value.get("kind") == "TASK_QUEUE_KIND_STICKY":
            value = value | {"name": "sticky"}
        return {key: _TELLING.get(key, scrub(item)) for key, item in value.items()}
    return [scrub(item) for item in value] if isinstance(value, list) else value


async def _save(bench: Bench, name: str, *ids: str) -> None:
    for workflow_id in ids:
        history = (await bench.client.get_workflow_handle(workflow_id).fetch_history()).to_json_dict()
        kind = "phase" if "/phase/" in workflow_id else "campaign"
        text = json.dumps({"workflow_id": workflow_id, "history": scrub(history)}, indent=1)
        (HISTORIES / f"{VERSION}-{name}-{kind}.json").write_text(text + "\n", encoding="utf-8")


async def _good(bench: Bench) -> None:
    await bench.campaigns.launch(bench.campaign_id, [phase("canary", _SOAK), phase("rest", _SOAK)])
    handle = await bench.start()
    await handle.result()
    await _save(bench, "good", handle.id, f"{handle.id}/phase/1")


async def _stopped(bench: Bench) -> None:
    """Paused, resumed, halted, resumed with approval, aborted."""
    bench.decisions.confirm = False
    await bench.campaigns.launch(bench.campaign_id, [phase("canary", _SOAK), phase("rest", _SOAK)])
    handle = await bench.start()
    child = bench.client.get_workflow_handle(f"{handle.id}/phase/0")

    async def waits_in(step: str) -> None:
        async def met() -> bool:
            pending = (await child.describe()).raw_description.pending_activities
            return step in [activity.activity_type.name for activity in pending]

        await until(met)

    await bench.until("PhaseOpened", "SoakStarted")
    await bench.campaigns.order(bench.campaign_id, c.Pause(actor="ann", reason="lunch", ledger_position=0))
    await waits_in("await_running")
    await bench.campaigns.resume(bench.campaign_id)
    await bench.moved()
    await waits_in("evaluate_gate")
    await bench.campaigns.halt(bench.campaign_id)
    await waits_in("await_running")
    await bench.campaigns.resume(bench.campaign_id)
    await bench.moved()
    await bench.until("CampaignResumed", "SoakStarted")
    await bench.campaigns.order(bench.campaign_id, c.Abort(actor="ann", reason="no", ledger_position=0))
    await bench.moved()
    bench.decisions.in_flight = {}
    await handle.result()
    await _save(bench, "stopped", handle.id, child.id)


async def _week(bench: Bench) -> None:
    """Three phases that soak for seven days, under a clock that skips."""
    await bench.campaigns.launch(
        bench.campaign_id, [phase("canary", DAY), phase("early", 2 * DAY), phase("rest", 4 * DAY)]
    )
    handle = await bench.start()
    await handle.result()
    await _save(bench, "week", handle.id, f"{handle.id}/phase/2")


async def main(wanted: Sequence[str]) -> None:
    running, skipping = {"good": _good, "stopped": _stopped}, {"week": _week}
    environment = await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter, dev_server_existing_path=program(), dev_server_log_level="error"
    )
    try:
        await register_search_attributes(environment.client)
        await _record(environment.client, MOMENTS, [running[name] for name in running if name in wanted])
    finally:
        await environment.shutdown()
    async with skipping_server() as client:
        await _record(client, DAYS, [skipping[name] for name in skipping if name in wanted])


async def _record(client: Client, polls: Options, scenarios: Sequence[Callable[[Bench], Awaitable[None]]]) -> None:
    for scenario in scenarios:
        async with Bench(client, f"t-{uuid.uuid4().hex[:8]}", polls) as bench:
            await scenario(bench)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["good", "stopped", "week"]))
    sys.stdout.flush()
    os._exit(0)  # the SDK's native threads may abort the interpreter's shutdown
