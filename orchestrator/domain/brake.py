"""The brake: what a running campaign may do less than its plan allows, at once and without an approval.

Whoever may halt may brake, because both only take away; taking the brake off again is a decision to go faster and asks
for the right to launch. Values above the approved ones are no brake: they need a revision
(:mod:`orchestrator.domain.revision`).

Not here: carrying it out (:mod:`orchestrator.domain.pacing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from orchestrator.errors import ConflictError, InvalidInputError


class Brake(Struct, frozen=True, kw_only=True):
    """Limits beside the plan's; the stricter ones hold. None is no limit."""

    per_minute: int | None = None
    max_in_flight: int | None = None


OFF = Brake()


class NoLimitError(InvalidInputError):
    """A brake limits the rate, the devices in flight, or both."""

    code = "campaign.brake.empty"
    remedy = "Give per_minute, max_in_flight or both."


class AboveApprovedError(ConflictError):
    """The approved plan does not allow so much."""

    code = "campaign.brake.above_approved"
    remedy = "Propose a revision of the plan with `ota campaign revise` and have somebody else approve it."


class LoosensError(ConflictError):
    """A brake only lowers what is in force."""

    code = "campaign.brake.loosens"
    remedy = "Loosen it with `ota campaign release-brake`, which asks for the right to launch."


class TightensError(ConflictError):
    """Releasing a brake only raises what is in force."""

    code = "campaign.brake.tightens"
    remedy = "Lower the pace with `ota campaign brake`."


def tightened(brake: Brake, asked: Brake, plan: Mapping[str, Any]) -> Brake:
    """The brake with the limits that are asked for; those that are not stay as they are.

    Raises:
        NoLimitError: nothing is asked for.
        AboveApprovedError: a limit is above what ``plan`` (canonical) allows anywhere.
        LoosensError: a limit is above the one in force.
    """
    if asked == OFF:
        raise NoLimitError
    _check_approved(asked, plan)
    if _above(asked.per_minute, brake.per_minute) or _above(asked.max_in_flight, brake.max_in_flight):
        raise LoosensError(f"In force is {said(brake)}; a brake cannot raise that to {said(asked)}.")
    return Brake(
        per_minute=brake.per_minute if asked.per_minute is None else asked.per_minute,
        max_in_flight=brake.max_in_flight if asked.max_in_flight is None else asked.max_in_flight,
    )


def released(brake: Brake, left: Brake, plan: Mapping[str, Any]) -> Brake:
    """The brake with exactly the limits ``left``, none of them stricter than the one in force.

    Raises:
        AboveApprovedError: a limit is above what ``plan`` (canonical) allows anywhere.
        TightensError: a limit is below the one in force, or is new.
    """
    _check_approved(left, plan)
    if _below(left.per_minute, brake.per_minute) or _below(left.max_in_flight, brake.max_in_flight):
        raise TightensError(f"In force is {said(brake)}; a release cannot lower that to {said(left)}.")
    return left


def approved(plan: Mapping[str, Any]) -> Brake:
    """The most that a plan (canonical) allows in any of its phases."""
    rates = [phase.get("rate") for phase in plan["phases"]]
    fastest = [_fastest(rate) for rate in rates if rate is not None]
    return Brake(
        per_minute=max(fastest) if len(fastest) == len(rates) else None,
        max_in_flight=plan["max_in_flight"]["maximum"],
    )


def said(brake: Brake) -> str:
    """The limits in words."""
    parts = [] if brake.per_minute is None else [f"{brake.per_minute} a minute"]
    parts += [] if brake.max_in_flight is None else [f"{brake.max_in_flight} in flight"]
    return " and ".join(parts) or "no brake"


def _fastest(rate: Mapping[str, Any]) -> int:
    ramp = rate.get("exponential")
    return rate["per_minute"] if ramp is None else ramp["maximum"]


def _check_approved(asked: Brake, plan: Mapping[str, Any]) -> None:
    most = approved(plan)
    if _above(asked.per_minute, most.per_minute) or _above(asked.max_in_flight, most.max_in_flight):
        raise AboveApprovedError(f"The approved plan allows {said(most)} at most, not {said(asked)}.")


def _above(asked: int | None, limit: int | None) -> bool:
    return asked is not None and limit is not None and asked > limit


def _below(left: int | None, limit: int | None) -> bool:
    return left is not None and (limit is None or left < limit)
