"""Which devices run what a campaign brought them, what they ran before, and the plan that takes them away from it.

Invariants
- Membership follows from the device's assignments alone, in any order. Once the campaign is stopped, a device that started is a member
  until something says that it does not run the release. So a cohort that was counted for approval only shrinks until it is enrolled.
- A device in trial is a member and waits for its verdict: its slot is not free before. One that has gone back meanwhile, or fell
  silent with the image in its slot, is let go when its turn comes (:func:`dismissal`).

Not here: which release a person chooses, security counters, SQL (``adapters.sql.remediation`` says the same; a test compares them).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from orchestrator.domain.assignment import IN_TRIAL, Assignment, FailureClass, State
from orchestrator.domain.plan_fields import Line, PlanModel
from orchestrator.domain.sequential import clean_devices_needed
from schemas.ledger import Cause

CLEARED: Final = frozenset({State.REVERTED, State.REJECTED, State.CANCELLED, State.SUPERSEDED, State.NOT_APPLICABLE})
"""The device said, or the ledger decided, that it does not run the release."""

RAN: Final = frozenset({FailureClass.BOOT, FailureClass.HEALTH})
"""Failures of an image that was in: the device may still be on it."""

CANARY_PERCENT: Final = 10.0
"""Share of the first phase of a derived plan."""

CANARY_DEVICES: Final = 10
"""Devices of the first phase at least, as long as half of them are left for the second."""


class RemediationSpec(PlanModel):
    """What a plan foresees for the devices that it updated, if the campaign is stopped. People order it, and approve it on its own."""

    kind: Literal["none", "revert", "fallback"] = "none"
    """``revert``: each device to the release that it had confirmed before; ``fallback``: all of them to ``release``."""
    release: Line | None = None

    @model_validator(mode="after")
    def _one_release(self) -> Self:
        if (self.kind == "fallback") != (self.release is not None):
            raise PydanticCustomError(
                "plan.remediation.release", "A fallback names its release, and only a fallback does."
            )
        return self


@dataclass(frozen=True, slots=True)
class Run:
    """An assignment of a device and the release that it was about."""

    release_id: str
    row: Assignment


def may_run(row: Assignment) -> bool:
    """Whether the device got the release and nothing says that it does not run it."""
    if row.first_started_at is None:
        return False
    if row.state is State.FAILED:
        return row.progress in IN_TRIAL or row.failure_class in RAN
    return row.state not in CLEARED


def is_lost(row: Assignment) -> bool:
    """Whether the device fell silent with the image in its slot: nothing may be offered to it."""
    return row.state is State.EXPIRED and row.progress in IN_TRIAL


def is_updated(history: Iterable[Run], campaign_no: int) -> bool:
    """Whether the campaign updated the device, as far as is known, and no other one has confirmed on it since."""
    runs = list(history)
    own = _own(runs, campaign_no)
    if own is None or not may_run(own.row):
        return False
    return not any(_confirmed(run, campaign_no) and run.row.changed_at > _since(own) for run in runs)


def earlier_release(history: Iterable[Run], campaign_no: int) -> str | None:
    """The last other release that the device had confirmed before the campaign started it; None if it never confirmed one here."""
    runs = list(history)
    own = _own(runs, campaign_no)
    if own is None or own.row.first_started_at is None:
        return None
    before = [
        run
        for run in runs
        if _confirmed(run, campaign_no) and run.row.changed_at <= _since(own) and run.release_id != own.release_id
    ]
    last = max(before, key=lambda run: (run.row.changed_at, run.row.campaign_no), default=None)
    return None if last is None else last.release_id


def dismissal(row: Assignment | None) -> Cause | None:
    """Why a device whose turn has come is let go, by its assignment in the campaign that updated it; None if it is not."""
    if row is None or not may_run(row):
        return Cause.NOT_UPDATED
    return Cause.SILENT_TRIAL if is_lost(row) else None


def _own(runs: Sequence[Run], campaign_no: int) -> Run | None:
    return next((run for run in runs if run.row.campaign_no == campaign_no), None)


def _confirmed(run: Run, campaign_no: int) -> bool:
    return run.row.campaign_no != campaign_no and run.row.state is State.CONFIRMED


def _since(own: Run) -> int:
    return own.row.first_started_at or 0


# --------------------------------------------------------------------------- the plan


_KEPT: Final = (
    "confirm_deadline",
    "offer_ttl",
    "max_in_flight",
    "approvals",
    "retry",
    "breaker",
    "budget",
    "priority",
    "owner",
    "preconditions",
)


def derived_plan(parent: dict[str, Any], devices: int) -> dict[str, Any]:
    """A plan for so many devices that a campaign with the plan ``parent`` updated: its strata, rules and limits, phases of its own.

    A canary and the rest; no holdback, because nobody is to stay. The caller adds the release and whom it takes.
    """
    first, last = parent["phases"][0], parent["phases"][-1]

    def paced(phase: dict[str, Any]) -> dict[str, Any]:
        return {name: phase[name] for name in ("soak", "rate", "max_in_flight", "jitter") if name in phase}

    rest = {"name": "rest", "percent": 100.0} | paced(last)
    phases = [rest]
    if devices > 1:
        least = min(CANARY_DEVICES, devices // 2)
        canary: dict[str, Any] = {"name": "canary", "percent": CANARY_PERCENT} | paced(first)
        test = first.get("promote")
        if test is not None:
            needed = clean_devices_needed(test["p1"], test["beta"])
            if needed <= devices // 2:
                least = max(least, needed)
                canary["promote"] = test
        phases = [canary | {"min_count": least}, rest]
    plan = {name: parent[name] for name in _KEPT if name in parent}
    # A comparison with a holdback needs one.
    plan["halt"] = [rule for rule in parent["halt"] if rule.get("test") != "canary-vs-holdback"]
    schedule = {**parent.get("schedule", {}), "start_at": None, "end_at": None}
    cohort = {"stratify_by": parent["cohort"]["stratify_by"]}
    return plan | {"schedule": schedule, "cohort": cohort, "phases": phases}
