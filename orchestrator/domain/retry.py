"""Retries: which outcomes of an attempt are followed by another offer, how often, and how much later.

Invariants
- A retry is asked of the row alone, so it can be asked again at any time: a late report may take the reason away, or give one.
- A device whose second slot holds, or may hold, an unconfirmed image is never offered anything, whatever the plan says. Nor is one
  that was asked to stop, or one that failed without saying of what.
- What a device failed of stays counted: an attempt more never changes the first start or the first release failure.
- The pause grows with the attempts and is capped; devices that failed together come back spread over the last tenth of it.

Not here: when the question is asked, and the queues (``adapters/sql/retrying``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Self

from msgspec import Struct
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.domain.assignment import IN_TRIAL, Assignment, FailureClass, State
from orchestrator.domain.plan_fields import Deadline, Integer, Number, PlanModel, between
from schemas.ledger import Cause

MAX_ATTEMPTS: Final = 10
"""Attempts per device: what has not worked by then needs a person."""

SPREAD: Final = 10
"""Devices come back within the last such part of their pause."""


class Outcome(StrEnum):
    """How an attempt ended, as far as another one may follow; the names under ``per_class`` in a plan."""

    OFFER = "offer"
    """The offer expired unstarted."""
    SILENCE = "silence"
    """Fell silent before anything was installed."""
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    """The device gave up by itself."""
    TRANSPORT = "transport"
    INTEGRITY = "integrity"
    COMPATIBILITY = "compatibility"
    INSTALL = "install"
    BOOT = "boot"
    HEALTH = "health"
    REVERTED = "reverted"


GENERAL: Final = frozenset({Outcome.SILENCE, Outcome.TRANSPORT, Outcome.INTEGRITY})
"""What the plan's own back-off is about: no release failures, and nothing that the device or its owner wanted."""

ENDED: Final = frozenset({State.EXPIRED, State.FAILED, State.REVERTED, State.REJECTED, State.CANCELLED})
"""States after which another attempt may follow."""

_EXPIRIES: Final = {str(Cause.OFFER_TTL): Outcome.OFFER, str(Cause.SILENT): Outcome.SILENCE}
_CAUSES: Final = {Outcome.OFFER: Cause.OFFER_TTL, Outcome.SILENCE: Cause.SILENT} | {
    each: Cause(each.value) for each in Outcome if each not in _EXPIRIES.values()
}
_FAILURES: Final = {
    str(each): Outcome(each.value)
    for each in (
        FailureClass.TRANSPORT,
        FailureClass.INTEGRITY,
        FailureClass.COMPATIBILITY,
        FailureClass.INSTALL,
        FailureClass.BOOT,
        FailureClass.HEALTH,
    )
}

_Attempts = Annotated[Integer, between("plan.field.value", 1, MAX_ATTEMPTS)]


class Backoff(PlanModel):
    """Pause before the second attempt, growing by ``factor`` with each further one."""

    initial: Deadline = 600_000
    factor: Annotated[Number, Field(ge=1.0, le=10.0)] = 2.0
    maximum: Deadline = 21_600_000

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.maximum < self.initial:
            raise PydanticCustomError("plan.retry.backoff", "The longest pause is shorter than the first one.")
        return self

    def pause(self, attempt: int) -> int:
        """Milliseconds after the end of ``attempt``, at most."""
        return round(min(self.initial * self.factor ** (attempt - 1), self.maximum))


class ClassRule(PlanModel):
    """Of one class of outcomes. What is left out is as in the general rule."""

    max_attempts: _Attempts | None = None
    backoff: Backoff | None = None


class PerClass(PlanModel):
    """Rules by class; a class that is not named here is tried again only as the general rule says."""

    offer: ClassRule | None = None
    silence: ClassRule | None = None
    rejected: ClassRule | None = None
    cancelled: ClassRule | None = None
    transport: ClassRule | None = None
    integrity: ClassRule | None = None
    compatibility: ClassRule | None = None
    install: ClassRule | None = None
    boot: ClassRule | None = None
    health: ClassRule | None = None
    reverted: ClassRule | None = None


class RetryPolicy(PlanModel):
    """Attempts per device, the first one included, whatever each of them ended in.

    ``max_attempts`` alone is about offers that expired unstarted, which wait for as long again as an offer lives. With ``backoff``
    it is also about transport, integrity and silence before the installation.
    """

    max_attempts: _Attempts = 1
    backoff: Backoff | None = None
    per_class: PerClass = PerClass()

    def rule(self, outcome: Outcome) -> tuple[int, Backoff | None]:
        """(attempts, back-off) of a class; without a back-off an offer's time to live is the pause."""
        own: ClassRule | None = getattr(self.per_class, outcome)
        if own is not None:
            return own.max_attempts or self.max_attempts, own.backoff or self.backoff or Backoff()
        if outcome is Outcome.OFFER:
            return self.max_attempts, None
        return (self.max_attempts if self.backoff is not None and outcome in GENERAL else 1), self.backoff

    def pauses(self, outcome: Outcome, offer_ttl: int) -> list[int]:
        """Milliseconds between the attempts that a class has; none if it is not tried again."""
        attempts, backoff = self.rule(outcome)
        return [offer_ttl if backoff is None else backoff.pause(attempt) for attempt in range(1, attempts)]


class Retry(Struct, frozen=True, kw_only=True):
    """The next attempt of a device."""

    attempt: int
    not_before: int
    """Milliseconds since the epoch, before :func:`spread`."""
    cause: Cause | None
    """None for one that waits for an offer's time to live, and is not spread."""


def outcome(row: Assignment) -> Outcome | None:
    """What the latest attempt ended in; None if it goes on, or if nothing may follow."""
    if row.cancel_requested_at is not None:
        return None
    match row.state:
        case State.EXPIRED if row.progress not in IN_TRIAL:
            return _EXPIRIES.get(row.reason or "")
        case State.FAILED:
            return _FAILURES.get(row.failure_class or "")
        case State.REVERTED:
            return Outcome.REVERTED
        case State.REJECTED:
            return Outcome.REJECTED
        case State.CANCELLED if row.failure_class != FailureClass.OPERATOR:
            return Outcome.CANCELLED
        case _:
            return None


def again(policy: RetryPolicy, row: Assignment, now: int, offer_ttl: int) -> Retry | None:
    """The next attempt after the row's latest one, as decided at ``now``; times in ms."""
    found = outcome(row)
    if found is None:
        return None
    attempts, backoff = policy.rule(found)
    if row.attempt >= attempts:
        return None
    pause = offer_ttl if backoff is None else backoff.pause(row.attempt)
    return Retry(attempt=row.attempt + 1, not_before=now + pause, cause=None if backoff is None else _CAUSES[found])


def stands(policy: RetryPolicy, row: Assignment) -> bool:
    """Whether a further attempt that was decided is still wanted: by the plan, or because a halt took an unstarted offer back."""
    withdrawn = row.state is State.CANCELLED and (row.failure_class, row.reason) == (
        FailureClass.OPERATOR,
        Cause.HALTED,
    )
    return withdrawn or again(policy, row, 0, 0) is not None


def spread(now: int, not_before: int, campaign_no: int, device_no: int) -> int:
    """When this one of the devices that wait until ``not_before`` since ``now`` is offered again; the same for all its attempts."""
    share = (device_no * 2_654_435_761 + campaign_no * 40_503) % (1 << 32)
    return not_before - (not_before - now) * share // (SPREAD << 32)
