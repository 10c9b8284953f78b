"""An assignment: one device in one campaign, folded from what devices report and what the ledger decides.

Invariants
- The fold is a join. Within an attempt states are ranked and the highest wins; of equal ranks the earliest record wins; the row shows
  the latest attempt. So any permutation of the records, with duplicates, of both logs, gives the same row.
- ``unknown`` refines what was last seen instead of being a step of its own: it ranks just above that state and below the next one. So
  the device's next report that says more makes it known again, whichever of the two records is folded first.
- What feeds the gate is sticky over attempts: the first start and the first release failure. One device, one count.
- Every counter is a function of the row (:func:`contributions`), so counters move by the difference of two rows and can be
  recounted from the rows at any time.

Not here: deadlines by clock, SQL, the order in which locks are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.domain.running import Pauses, deadline
from schemas.ledger import Cause


class State(StrEnum):
    """States of an assignment, in order of rank but for ``unknown``; ``eligible`` is a queue entry, not a row."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    DOWNLOADING = "downloading"
    INSTALLED = "installed"
    TRIAL = "trial"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    NOT_APPLICABLE = "not_applicable"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    FAILED = "failed"
    REVERTED = "reverted"
    UNKNOWN = "unknown"
    """Reports of the device may have been destroyed with a part of the log; ``progress`` is where it was last seen."""


RANK: Final[dict[State, int]] = {state: 2 * rank for rank, state in enumerate(State) if state is not State.UNKNOWN}
"""``unknown`` has no rank of its own: see :func:`standing`."""

SEEN: Final = frozenset({State.OFFERED, State.ACCEPTED, State.DOWNLOADING, State.INSTALLED, State.TRIAL})
"""What an attempt passes through: values of ``progress``."""

ACTIVE: Final = SEEN | {State.UNKNOWN}
"""In flight: these occupy the in-flight cap and the device's slot."""

IN_TRIAL: Final = frozenset({State.INSTALLED, State.TRIAL, State.UNKNOWN})
"""The second slot holds, or may hold, the only way back: nothing may be offered, nothing interrupted."""

UNRESOLVED: Final = frozenset({State.EXPIRED, State.SUPERSEDED})
"""Ends that were decided without the device's word: one that is, or turns out to be, in trial holds its slot until it speaks."""

IMPLIES_START: Final = frozenset(
    {
        State.ACCEPTED,
        State.DOWNLOADING,
        State.INSTALLED,
        State.TRIAL,
        State.CONFIRMED,
        State.FAILED,
        State.REVERTED,
    }
)

EXCLUDED: Final = frozenset({State.CANCELLED, State.SUPERSEDED, State.NOT_APPLICABLE})
"""Outside the promote test's denominator."""


class FailureClass(StrEnum):
    """Who is to blame: the first five feed the release verdict, transport and integrity the breaker, operator nothing."""

    COMPATIBILITY = "compatibility"
    INSTALL = "install"
    BOOT = "boot"
    HEALTH = "health"
    SILENCE = "silence"
    TRANSPORT = "transport"
    INTEGRITY = "integrity"
    OPERATOR = "operator"


INFRASTRUCTURE: Final = frozenset({FailureClass.TRANSPORT, FailureClass.INTEGRITY, FailureClass.OPERATOR})


class Assignment(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """The row, its fields in the order of the table's columns.

    Times are milliseconds since the epoch, from records, never from a clock.
    """

    campaign_no: int
    device_no: int
    phase: int
    stratum: int
    attempt: int
    action_id: int
    gate_epoch: int
    """Gate epoch of the latest attempt's offer."""
    offered_at: int
    state: State = State.OFFERED
    changed_at: int
    """When ``state`` was first recorded."""
    progress: State = State.OFFERED
    """Highest active state of the attempt: where a device that fell silent was last seen."""
    failure_class: str | None = None
    reason: str | None = None
    started_at: int | None = None
    """Of the latest attempt."""
    cancel_requested_at: int | None = None
    """Of the latest attempt; also when another campaign took its offer over."""
    first_started_at: int | None = None
    first_started_epoch: int | None = None
    failed_at: int | None = None
    """First release failure of any attempt."""
    failed_class: str | None = None


class Observation(Struct, frozen=True, kw_only=True, gc=False):
    """What one record, of either log, says about one attempt."""

    attempt: int
    state: State
    at: int
    failure_class: str | None = None
    reason: str | None = None
    gate_epoch: int | None = None
    """Epoch of the attempt's offer, when it is not the row's latest attempt."""
    progress: State = State.OFFERED
    """For ``unknown``: where the device was last seen."""


class Offer(Struct, frozen=True, kw_only=True):
    """A new attempt, from a ledger row."""

    attempt: int
    action_id: int
    gate_epoch: int
    at: int


def offered(campaign_no: int, device_no: int, phase: int, stratum: int, offer: Offer) -> Assignment:
    """The row of a first offer."""
    return Assignment(
        campaign_no=campaign_no,
        device_no=device_no,
        phase=phase,
        stratum=stratum,
        attempt=offer.attempt,
        action_id=offer.action_id,
        gate_epoch=offer.gate_epoch,
        offered_at=offer.at,
        changed_at=offer.at,
    )


def offered_again(row: Assignment, offer: Offer) -> Assignment:
    """The row after a further offer; what feeds the gate stays. An offer that is not newer changes nothing."""
    if offer.attempt <= row.attempt:
        return row
    fresh = offered(row.campaign_no, row.device_no, row.phase, row.stratum, offer)
    return replace(
        fresh,
        first_started_at=row.first_started_at,
        first_started_epoch=row.first_started_epoch,
        failed_at=row.failed_at,
        failed_class=row.failed_class,
    )


def is_release_failure(state: State, failure_class: str | None) -> bool:
    """Whether a report blames the release (statistics: HALT's f). A failure without a class does: harm is assumed, not excused."""
    if state is State.REVERTED:
        return True
    if state is State.FAILED:
        return failure_class not in INFRASTRUCTURE
    return state is State.EXPIRED and failure_class == FailureClass.SILENCE


def standing(state: State, progress: State) -> int:
    """Rank within an attempt; ``unknown`` stands between what was last seen and the state after it."""
    return RANK[progress] + 1 if state is State.UNKNOWN else RANK[state]


def observe(row: Assignment, seen: Observation) -> Assignment:
    """Join one record into the row.

    Records of an earlier attempt move only what is sticky; records of a later attempt than the row's cannot exist, because
    the offer that opens an attempt precedes everything said about it.
    """
    changes: dict[str, object] = {}
    state, at = seen.state, seen.at
    current = seen.attempt == row.attempt
    if state in IMPLIES_START:
        since = row.first_started_at
        if since is None or at <= since:
            epoch = row.gate_epoch if current or seen.gate_epoch is None else seen.gate_epoch
            if since is None or (at, epoch) < (since, row.first_started_epoch):
                changes["first_started_at"], changes["first_started_epoch"] = at, epoch
        if current and (row.started_at is None or at < row.started_at):
            changes["started_at"] = at
    if is_release_failure(state, seen.failure_class):
        failure = (at, seen.failure_class or "")
        if row.failed_at is None or failure < (row.failed_at, row.failed_class or ""):
            changes["failed_at"], changes["failed_class"] = at, seen.failure_class
    if current:
        _raise_state(row, seen, changes)
    return replace(row, **changes) if changes else row


def _raise_state(row: Assignment, seen: Observation, changes: dict[str, object]) -> None:
    state = seen.state
    reached = seen.progress if state is State.UNKNOWN else state
    if reached in SEEN and RANK[reached] > RANK[row.progress]:
        changes["progress"] = reached
    new, old = standing(state, seen.progress), standing(row.state, row.progress)
    if new > old or (
        new == old
        and (seen.at, seen.failure_class or "", seen.reason or "")
        < (row.changed_at, row.failure_class or "", row.reason or "")
    ):
        changes["state"] = state
        changes["changed_at"] = seen.at
        changes["failure_class"] = seen.failure_class
        changes["reason"] = seen.reason


def cancel_requested(row: Assignment, attempt: int, at: int) -> Assignment:
    """The device is asked to stop; it stays in flight until it answers or its deadline passes."""
    if attempt != row.attempt or (row.cancel_requested_at is not None and row.cancel_requested_at <= at):
        return row
    return replace(row, cancel_requested_at=at)


def expiry(attempt: int, cause: Cause, at: int) -> Observation:
    """What an ``expire`` row says.

    Silence after the image was installed blames the release, before it the infrastructure, and after a loss of the log nobody.
    """
    silent = cause is Cause.SILENT_TRIAL
    return Observation(
        attempt=attempt,
        state=State.EXPIRED,
        at=at,
        failure_class=FailureClass.SILENCE if silent else None,
        reason=str(cause),
    )


def start(attempt: int, at: int, gate_epoch: int | None = None) -> Observation:
    """What a ``start`` row says: the image is about to be revealed, so the device counts as started from here."""
    return Observation(attempt=attempt, state=State.ACCEPTED, at=at, gate_epoch=gate_epoch)


def withdrawal(attempt: int, cause: Cause, at: int) -> Observation:
    """What a ``withdraw`` row says: an offer that was never started is taken back by a halt or an abort, or for another campaign."""
    state = State.SUPERSEDED if cause is Cause.SUPERSEDED else State.CANCELLED
    return Observation(attempt=attempt, state=state, at=at, failure_class=FailureClass.OPERATOR, reason=str(cause))


def withdrawn(row: Assignment, attempt: int, cause: Cause, at: int) -> Assignment:
    """The row after a ``withdraw`` row. An attempt that was taken over has ended for its campaign: its device is asked to stop.

    So a late report that outranks the end shows in the row, and gives no reason for another attempt.
    """
    row = observe(row, withdrawal(attempt, cause, at))
    return cancel_requested(row, attempt, at) if cause is Cause.SUPERSEDED else row


def loss(attempt: int, progress: State, at: int) -> Observation:
    """What an ``unknown`` row says: what the device reported after ``progress`` may have been destroyed."""
    return Observation(attempt=attempt, state=State.UNKNOWN, at=at, reason=str(Cause.LOG_LOSS), progress=progress)


def holds_slot(row: Assignment) -> bool:
    """Whether the device must not be offered anything else: in flight, or ended unheard with an unconfirmed image in its slots."""
    return row.state in ACTIVE or (row.state in UNRESOLVED and row.progress in IN_TRIAL)


Claim = tuple[bool, int]
"""How strong a row's claim to its device's slot is: in trial before not, then whichever was offered last. Never equal."""


def strength(progress: State, action_id: int) -> Claim:
    """The claim of a row that holds its device's slot. Of all such rows of a device the strongest has it."""
    return progress in IN_TRIAL, action_id


def claim(row: Assignment) -> Claim | None:
    """The row's claim to its device's slot; None if it does not hold it. The slot changes hands only when a claim changes."""
    return strength(row.progress, row.action_id) if holds_slot(row) else None


def due(row: Assignment, offer_ttl: int, confirm_deadline: int, pauses: Pauses = ()) -> tuple[str, int] | None:
    """What falls due next: ``("offer", t)`` for an offer not started, ``("confirm", t)`` for a started device; durations in ms.

    Without ``pauses`` it is the earliest moment at which it can fall due.
    """
    if row.state not in ACTIVE:
        return None
    if row.started_at is None:
        return "offer", deadline(pauses, row.offered_at, offer_ttl)
    return "confirm", deadline(pauses, row.started_at, confirm_deadline)


def overdue(row: Assignment, now: int, offer_ttl: int, confirm_deadline: int, pauses: Pauses = ()) -> Cause | None:
    """Why the attempt is over at ``now`` (ms), or None. Durations are running time: ``pauses`` are left out."""
    what = due(row, offer_ttl, confirm_deadline, pauses)
    if what is None or what[1] > now:
        return None
    if what[0] == "offer":
        return Cause.OFFER_TTL
    if row.state is State.UNKNOWN:
        return Cause.LOG_LOSS
    return Cause.SILENT_TRIAL if row.progress in IN_TRIAL else Cause.SILENT


# --------------------------------------------------------------------------- what the row adds to the counters

CounterKey = tuple[str, int, int, str | int]
"""(kind, phase, stratum, state | gate epoch), kind one of ``state``, ``started``, ``failed``."""

MaturityKey = tuple[int, int, int, int]
"""(phase, stratum, gate epoch, bucket): bucket = first_started_at // bucket_ms."""

MaturityCount = tuple[int, int, int]
"""(started, good, excluded)."""


def contributions(row: Assignment) -> Iterator[CounterKey]:
    """The counters that this row adds one to."""
    yield "state", row.phase, row.stratum, row.state.value
    if row.first_started_epoch is not None:
        yield "started", row.phase, row.stratum, row.first_started_epoch
        if row.failed_at is not None:
            yield "failed", row.phase, row.stratum, row.first_started_epoch


def maturity(row: Assignment, bucket_ms: int) -> tuple[MaturityKey, MaturityCount] | None:
    """The row's part in the promote test, filed under the time of its first start; None before that.

    Promotion looks at devices that started at least one confirm deadline ago: those of old enough buckets. Good is confirmed
    without any release failure; a device that was cancelled, superseded or not applicable is outside the denominator, and so is one
    whose silence a loss of the log explains.
    """
    if row.first_started_at is None or row.first_started_epoch is None:
        return None
    good = row.state is State.CONFIRMED and row.failed_at is None
    key = (row.phase, row.stratum, row.first_started_epoch, row.first_started_at // bucket_ms)
    return key, (1, int(good), int(row.state in EXCLUDED or _unheard(row)))


def _unheard(row: Assignment) -> bool:
    if row.failed_at is not None:
        return False  # one failure is known, whatever else was not heard
    return row.state is State.UNKNOWN or (row.state is State.EXPIRED and row.reason == Cause.LOG_LOSS)


def shape(row: Assignment, bucket_ms: int) -> tuple[int, int, State, int | None, bool, int | None, bool]:
    """All that :func:`contributions` and :func:`maturity` look at: rows of one campaign with equal shapes add the same."""
    since = row.first_started_at
    return (
        row.phase,
        row.stratum,
        row.state,
        row.first_started_epoch,
        row.failed_at is None,
        None if since is None else since // bucket_ms,
        row.state in _QUIET and _unheard(row),
    )


_QUIET: Final = frozenset({State.UNKNOWN, State.EXPIRED})


def bucket_ms(confirm_deadline: int) -> int:
    """Width of a maturity bucket in ms: 1/64 of the confirm deadline, at least 250 ms, so maturity lags by under 2 %."""
    return max(250, confirm_deadline // 64)
