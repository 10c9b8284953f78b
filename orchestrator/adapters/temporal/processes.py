"""Campaign workflows as ``ProcessManager``, and the relay's consumer that starts them and tells them that the log moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opentelemetry import context, propagate
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.adapters.temporal.client import RPC_TIMEOUT, register_search_attributes
from orchestrator.app.ports import Recorded
from orchestrator.app.process import ProcessManager
from orchestrator.config import Settings
from schemas.campaign_events import (
    CampaignAborted,
    CampaignHalted,
    CampaignLaunched,
    CampaignPaused,
    CampaignResumed,
    PhaseApproved,
)
from workflows.messages import (
    CAMPAIGN_ID,
    CAMPAIGN_WORKFLOW,
    LOG_MOVED,
    CampaignInput,
    LogMoved,
    Options,
    workflow_id,
)

STREAM: Final = "campaign/"

STARTS: Final = (CampaignLaunched, CampaignResumed)
"""After these the process should run; a resumed one may have been lost while the campaign stood still."""

EDGES: Final = (CampaignPaused, CampaignResumed, CampaignHalted, CampaignAborted, PhaseApproved)
"""What a process learns early by signal. Few per campaign: a workflow takes 10,000 signals at most."""


class TemporalProcesses:
    """``orchestrator.app.process.ProcessManager`` on Temporal."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._queue = settings.task_queue
        self._options = Options(
            gate_poll_ms=settings.gate_poll_ms,
            sweep_poll_ms=settings.sweep_poll_ms,
            dispatch_poll_ms=settings.dispatch_poll_ms,
            heartbeat_ms=settings.worker_heartbeat_ms,
        )
        self._registered = False

    async def start(self, campaign_id: str) -> None:
        if not self._registered:
            await register_search_attributes(self._client)
            self._registered = True
        await self._client.start_workflow(
            CAMPAIGN_WORKFLOW,
            CampaignInput(campaign_id=campaign_id, options=self._options),
            id=workflow_id(campaign_id),
            task_queue=self._queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            search_attributes=TypedSearchAttributes([SearchAttributePair(CAMPAIGN_ID, campaign_id)]),
            static_summary=f"Campaign {campaign_id}",
            rpc_timeout=RPC_TIMEOUT,
        )

    async def signal_moved(self, campaign_id: str, position: int) -> None:
        handle = self._client.get_workflow_handle(workflow_id(campaign_id))
        try:
            await handle.signal(LOG_MOVED, LogMoved(position=position), rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    async def running(self, campaign_id: str) -> bool:
        handle = self._client.get_workflow_handle(workflow_id(campaign_id))
        try:
            found = await handle.describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return found.status is WorkflowExecutionStatus.RUNNING


class TemporalConsumer:
    """``orchestrator.app.relay.Consumer``: launches become workflows, changes of control become signals."""

    name = "temporal"

    def __init__(self, processes: ProcessManager) -> None:
        self._processes = processes

    async def deliver(self, events: Sequence[Recorded]) -> None:
        for item in events:
            if not item.stream.startswith(STREAM):
                continue
            campaign_id = item.stream.removeprefix(STREAM)
            carrier = {"traceparent": item.meta.traceparent} if item.meta.traceparent else {}
            token = context.attach(propagate.extract(carrier))
            try:
                if isinstance(item.event, STARTS):
                    await self._processes.start(campaign_id)
                if isinstance(item.event, EDGES):
                    await self._processes.signal_moved(campaign_id, item.position)
            finally:
                context.detach(token)
