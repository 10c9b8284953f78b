"""Deliveries: what an assignment says about the way between us and the device, which is what the breaker counts.

A function of the row, like every counter, so counts move by the difference of two rows. A device that is offered the image again
takes back what its earlier attempt said: the way is judged by the latest one.

Not here: the window, and when the breaker opens (:mod:`orchestrator.domain.breaker`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from orchestrator.domain.assignment import Assignment, FailureClass, State
from schemas.ledger import Cause


class Delivery(StrEnum):
    """Whether the way to the device worked: what the breaker counts."""

    DELIVERED = "delivered"
    """The image arrived; whatever went wrong later is not the way's fault."""
    TRANSPORT = "transport"
    INTEGRITY = "integrity"
    SILENCE = "silence"
    """Silent past its deadline, last seen before it had installed."""


def delivered(row: Assignment) -> Delivery | None:
    """What the latest attempt says about the infrastructure; None if nothing yet, or nothing at all."""
    found = _BY_STATE.get(row.state)
    if found is not None:
        return found
    if row.state is State.FAILED:
        return _BY_CLASS.get(row.failure_class, Delivery.DELIVERED)
    return _BY_REASON.get(row.reason) if row.state is State.EXPIRED else None


# Tables, because this is asked of each row before and after each change.
_BY_STATE: Final[dict[State, Delivery]] = {
    State.INSTALLED: Delivery.DELIVERED,
    State.TRIAL: Delivery.DELIVERED,
    State.CONFIRMED: Delivery.DELIVERED,
    State.REVERTED: Delivery.DELIVERED,
}
_BY_CLASS: Final[dict[str | None, Delivery | None]] = {
    FailureClass.TRANSPORT: Delivery.TRANSPORT,
    FailureClass.INTEGRITY: Delivery.INTEGRITY,
    FailureClass.OPERATOR: None,
}
"""Of a failure; any other class is not the way's fault."""
_BY_REASON: Final[dict[str | None, Delivery]] = {
    Cause.SILENT: Delivery.SILENCE,
    Cause.SILENT_TRIAL: Delivery.DELIVERED,
}
"""Of an expiry; any other says nothing."""


DeliveryKey = tuple[int, str]
"""(bucket, outcome): bucket = changed_at // bucket_ms."""


def delivery(row: Assignment, bucket_ms: int | None) -> DeliveryKey | None:
    """What the row adds one to among the breaker's counts, filed under the time of its state; None without a breaker."""
    if bucket_ms is None or row.state in _ON_ITS_WAY:
        return None
    found = delivered(row)
    return None if found is None else (row.changed_at // bucket_ms, found)


_ON_ITS_WAY: Final = frozenset({State.OFFERED, State.ACCEPTED, State.DOWNLOADING})
"""Not looked at more closely: most rows change between these."""
