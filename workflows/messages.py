"""What workflows and activities say to each other, and the names they are known by. Fields are only added, with defaults.

Payloads stay small: ids, counters and poll intervals, never devices.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Final

from pydantic import BaseModel
from temporalio.common import SearchAttributeKey

CAMPAIGN_WORKFLOW: Final = "CampaignWorkflow"
PHASE_WORKFLOW: Final = "PhaseWorkflow"
LOG_MOVED: Final = "log_moved"

CAMPAIGN_ID: Final = SearchAttributeKey.for_keyword("OtaCampaignId")
STATE: Final = SearchAttributeKey.for_keyword("OtaState")
RELEASE: Final = SearchAttributeKey.for_keyword("OtaRelease")
SEARCH_ATTRIBUTES: Final = (CAMPAIGN_ID, STATE, RELEASE)
"""Registered before use: an upsert of an unknown attribute fails its workflow task for ever."""


def workflow_id(campaign_id: str) -> str:
    """Id of a campaign's workflow."""
    return f"campaign/{campaign_id}"


class Step(StrEnum):
    """Activities. Workflows name them, so that workflow code imports nothing that does I/O."""

    LOOK = "look"
    OPEN_PHASE = "open_phase"
    DISPATCH = "dispatch"
    EVALUATE_GATE = "evaluate_gate"
    AWAIT_RUNNING = "await_running"
    TEND = "tend"
    FINISH = "finish"


class Options(BaseModel):
    """Intervals, in milliseconds."""

    gate_poll_ms: int = 1_000
    sweep_poll_ms: int = 1_000
    dispatch_poll_ms: int = 250
    idle_poll_ms: int = 10_000
    """How often a stopped campaign is looked at: signals are quicker, this is for lost ones."""
    heartbeat_ms: int = 10_000
    """A worker that was killed is noticed after this long."""

    @property
    def heartbeat(self) -> timedelta:
        return timedelta(milliseconds=self.heartbeat_ms)


class CampaignInput(BaseModel):
    campaign_id: str
    options: Options = Options()


class CampaignResult(BaseModel):
    state: str


class PhaseInput(BaseModel):
    campaign_id: str
    phase: int
    options: Options = Options()


class PhaseResult(BaseModel):
    promoted: bool
    state: str


class LogMoved(BaseModel):
    """The event log holds something new about the campaign. Losing or repeating it does no harm."""

    position: int


class LookInput(BaseModel):
    campaign_id: str


class CampaignView(BaseModel):
    state: str
    release_id: str
    next_phase: int | None
    """The first phase that is not promoted; None when all are."""


class StepInput(BaseModel):
    """Input of an activity that looks again and again."""

    campaign_id: str
    poll_ms: int


class PhaseStepInput(BaseModel):
    campaign_id: str
    phase: int
    poll_ms: int


class DispatchInput(BaseModel):
    campaign_id: str
    phase: int
    poll_ms: int
    """Pause while there is no room."""
    idle_ms: int
    """Pause while nothing waits."""


class StateReport(BaseModel):
    """The campaign's state as a step left or found it."""

    state: str


class GateReport(BaseModel):
    promoted: bool
    state: str
