"""The infrastructure breaker: a plain share with a minimum over a sliding window, apart from the verdict on the release.

Downloads that fail, bytes that arrive broken and devices that fall silent before they installed anything say something about networks
and servers, not about the image. When they are many, the breaker opens: nothing more is offered or started, nothing is promoted, and
deadlines stand still. After a while a few probes go out; when they arrive it closes, otherwise it opens again and waits longer. When
nothing was heard from devices it opens too, because every device looks silent then.

Invariants
- It never opens for failures on fewer outcomes than the minimum, and one failure more never keeps it closed.
- It closes by itself, whatever happens: by what the probes show, or after their time when there are none to show anything.
- It blames nobody, spends no alpha, and leaves no sticky state; halt rules are asked as ever while it is open.

Not here: counting (:mod:`orchestrator.domain.delivery`), the clock that stands still (``running``), carrying it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from math import ceil
from typing import Annotated, Any, Final

from msgspec import Struct
from msgspec.structs import replace
from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from orchestrator.domain.assignment import Assignment
from orchestrator.domain.delivery import Delivery, delivered
from orchestrator.domain.plan_fields import MAX_COUNT, Deadline, Integer, Number, PlanModel, between, exact
from orchestrator.domain.running import FOREVER, Pauses
from schemas import campaign_events as e

BUCKETS: Final = 20
"""Parts of the window that counts are filed in: its beginning is off by 5 % at most."""

MIN_BUCKET_MS: Final = 250
"""Shortest part of a window."""

MAX_DOUBLINGS: Final = 4
"""The wait doubles with each failed probing, up to 16 times: an outage of a day is noticed to be over within 80 minutes by default."""

MAX_PROBES: Final = 1_000
"""More than that is no probe."""


def _share(value: float) -> float:
    if not 0.0 < value <= 1.0:
        raise PydanticCustomError("plan.breaker.share", "A share lies in (0, 1], got {value}.", {"value": value})
    return value


class BreakerSpec(PlanModel):
    """When a campaign's breaker opens, and how it closes. Durations are in milliseconds."""

    share: Annotated[Number, AfterValidator(_share)] = 0.3
    """Infrastructure failures among outcomes that open it. Field networks lose a few percent; an outage loses most."""
    minimum: Annotated[Integer, between("plan.field.value", 1, MAX_COUNT)] = 20
    """Fewest outcomes in the window: six failures of twenty are rarer than one in a thousand where one in twenty fails."""
    window: Deadline = 600_000
    """How far back outcomes count: longer than most downloads, so that successes show beside the failures, which come first."""
    cool_down: Deadline = 300_000
    """From opening to the first probes; twice as long after each probing that failed."""
    probes: Annotated[Integer, between("plan.field.value", 1, MAX_PROBES)] = 10
    """Offers that go out to see whether it works again."""
    stale: Deadline = 300_000
    """How long nothing may have been heard from devices: far beyond a projector's restart, far below a confirm deadline."""


def _off(value: object) -> object:
    # YAML reads ``off`` as false.
    return None if value is False or value == "off" else value


BreakerField = Annotated[
    BreakerSpec | None, BeforeValidator(_off, json_schema_input_type=BreakerSpec | bool | str | None)
]


def bucket_ms(spec: BreakerSpec) -> int:
    """Width of the parts in which outcomes are filed, ms."""
    return max(MIN_BUCKET_MS, spec.window // BUCKETS)


class Stage(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"
    """Half open: a few offers go out."""


class Cause(StrEnum):
    """Why it opened, or closed."""

    FAILURES = "failures"
    STALE = "stale"
    DELIVERED = "delivered"
    HEARD = "heard"
    NO_PROBES = "no_probes"
    """Nobody took a probe in time, or there was nobody to offer one to: nothing speaks for trouble any more."""
    STOPPED = "stopped"
    """The campaign was halted or has ended: there is nothing left to hold."""


class Breaker(Struct, frozen=True, kw_only=True):
    """State of a campaign's breaker."""

    stage: Stage = Stage.CLOSED
    openings: int = 0
    """Times that it opened so far, failed probings among them."""
    cause: str | None = None
    """Of the last opening, while it is not closed."""
    repeats: int = 0
    """Failed probings since it was last closed."""
    at: int = 0
    """Of the last change, ms."""
    until: int = 0
    """While open: no probe before this moment, ms."""
    position: int = 0
    """Head of the ledger at the last change: probes are the offers beyond it."""
    pauses: Pauses = ()
    """When deadlines stood still."""

    @property
    def held(self) -> bool:
        """It holds offers and promotions, and deadlines stand still."""
        return self.stage is not Stage.CLOSED


class Probes(Struct, frozen=True, kw_only=True):
    """What has become of the offers of a probing."""

    offered: int = 0
    delivered: int = 0
    failed: Mapping[str, int] = {}
    """By class."""
    pending: int = 0
    """Offered or under way."""


class Reading(Struct, frozen=True, kw_only=True):
    """What the breaker is judged on, of one snapshot."""

    counts: Mapping[str, int]
    """Outcomes in the window by ``Delivery``, none from before the last closing."""
    probes: Probes = Probes()
    waiting: bool = True
    """Devices wait for an offer."""


class Open(Struct, frozen=True, kw_only=True):
    cause: Cause
    outcomes: int
    failures: int
    classes: dict[str, int]
    since: int
    """Deadlines stand still from here, ms."""
    until: int


class Probe(Struct, frozen=True, kw_only=True):
    pass


class Close(Struct, frozen=True, kw_only=True):
    cause: Cause
    delivered: int
    failures: int
    resumes_at: int
    """Deadlines run on from here, ms."""


class Moment(Struct, frozen=True, kw_only=True):
    """The world at a look. Times in ms."""

    now: int
    heard_until: int
    """Everything stated up to here has been projected."""
    listening_since: int
    """Since when somebody listens without a break: before that, silence says nothing."""
    running: bool
    """The campaign runs, so probes could go out."""
    stopped: bool
    """It is halted or has ended."""


def trips(spec: BreakerSpec, outcomes: int, failures: int) -> bool:
    """Whether so many failures among so many outcomes open it."""
    return outcomes >= spec.minimum and failures >= exact(spec.share) * outcomes


def failures_that_reopen(spec: BreakerSpec) -> int:
    """Failures among the probes that open it again; as soon as so many cannot be reached any more it closes."""
    return ceil(exact(spec.share) * spec.probes)


def judge(
    spec: BreakerSpec, breaker: Breaker, reading: Reading, at: Moment, offer_ttl: int
) -> Open | Probe | Close | None:
    """What happens to the breaker at this moment, if anything."""
    now = at.now
    if at.stopped:
        return _close(Cause.STOPPED, reading, now) if breaker.held else None
    if not breaker.held:
        return _may_open(spec, reading, at)
    if now - at.heard_until > spec.stale:
        return None  # what became of the probes has not been heard either
    if breaker.stage is Stage.OPEN:
        if breaker.cause == Cause.STALE:
            # What devices could not say meanwhile they say now: they get as long as they were not missed.
            return _close(Cause.HEARD, reading, now + spec.stale)
        return Probe() if at.running and now >= breaker.until else None
    return _probed(spec, breaker, reading, now, offer_ttl)


def _may_open(spec: BreakerSpec, reading: Reading, at: Moment) -> Open | None:
    heard = max(at.heard_until, at.listening_since)
    classes = {name: n for name, n in reading.counts.items() if name != Delivery.DELIVERED and n}
    failures, outcomes = sum(classes.values()), sum(reading.counts.values())
    if at.now - heard > spec.stale:
        cause, since = Cause.STALE, heard
    elif trips(spec, outcomes, failures):
        cause, since = Cause.FAILURES, at.now
    else:
        return None
    until = at.now + spec.cool_down
    return Open(cause=cause, outcomes=outcomes, failures=failures, classes=classes, since=since, until=until)


def _probed(spec: BreakerSpec, breaker: Breaker, reading: Reading, now: int, offer_ttl: int) -> Open | Close | None:
    probes = reading.probes
    failed, limit = sum(probes.failed.values()), failures_that_reopen(spec)
    over = not reading.waiting and not probes.pending  # nobody is left who could still show anything
    late = now - breaker.at >= (offer_ttl if probes.offered else spec.cool_down)
    known = probes.delivered + failed
    if failed >= limit or ((over or late) and failed and failed >= exact(spec.share) * known):
        repeats = breaker.repeats + 1
        until = now + (spec.cool_down << min(repeats, MAX_DOUBLINGS))
        classes = {name: n for name, n in probes.failed.items() if n}
        return Open(
            cause=Cause.FAILURES,
            outcomes=known,
            failures=failed,
            classes=classes,
            since=breaker.pauses[-1][0],
            until=until,
        )
    if probes.delivered > spec.probes - limit or ((over or late) and probes.delivered):
        return _close(Cause.DELIVERED, reading, now)
    return _close(Cause.NO_PROBES, reading, now) if over or late else None


def _close(cause: Cause, reading: Reading, resumes_at: int) -> Close:
    failures = sum(reading.probes.failed.values())
    return Close(cause=cause, delivered=reading.probes.delivered, failures=failures, resumes_at=resumes_at)


def probe_outcome(row: Assignment, attempt: int, heard_until: int, confirm_deadline: int) -> str | None:
    """``Delivery`` of a probe, empty if its offer ended without saying anything; None while it may still arrive.

    Its deadline stands still like every other, so one that started and fell silent is told by the clock on the wall.
    """
    if row.attempt > attempt:
        # Only what failed is offered again; it was the release's fault if that is on record.
        return Delivery.TRANSPORT if row.failed_at is None else Delivery.DELIVERED
    found = delivered(row)
    if found is not None:
        return found
    if row.state not in _UNDER_WAY:
        return ""
    silent = row.started_at is not None and row.started_at + confirm_deadline <= heard_until
    return Delivery.SILENCE if silent else None


_UNDER_WAY: Final = frozenset({"offered", "accepted", "downloading", "unknown"})


# --------------------------------------------------------------------------- events


def evolve(breaker: Breaker, event: e.BreakerOpened | e.BreakerProbing | e.BreakerClosed) -> Breaker:
    """The breaker after ``event``."""
    changes: dict[str, Any] = {"at": event.at, "position": event.ledger_position}
    match event:
        case e.BreakerOpened():
            changes |= {"stage": Stage.OPEN, "openings": event.opening, "cause": event.cause, "until": event.until}
            if breaker.held:
                changes["repeats"] = breaker.repeats + 1
            else:
                changes |= {"repeats": 0, "pauses": _with_pause(breaker.pauses, event.since)}
        case e.BreakerProbing():
            changes["stage"] = Stage.PROBING
        case e.BreakerClosed():
            *before, (begin, _) = breaker.pauses
            changes |= {"stage": Stage.CLOSED, "cause": None, "pauses": (*before, (begin, event.resumes_at))}
    return replace(breaker, **changes)


def _with_pause(pauses: Pauses, since: int) -> Pauses:
    # Deadlines of the pause before may not have run on yet.
    begin = max(since, pauses[-1][1]) if pauses else since
    return (*pauses, (begin, FOREVER))
