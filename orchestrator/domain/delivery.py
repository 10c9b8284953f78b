"""Deliveries: what an assignment says about the way between us and the device, which is what the breaker counts.

A function of the row, like every counter, so counts move by the difference of two rows. A device that is offered the image again
takes back what its earlier attempt said: the way is judged by the latest one.

Not here: the window, and when the breaker opens (:mod:`orchestrator.domain.breaker`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from orchestrator.domain.assignment import INFRASTRUCTURE, Assignment, FailureClass, State
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
    match row.state:
        case State.INSTALLED | State.TRIAL | State.CONFIRMED | State.REVERTED:
            return Delivery.DELIVERED
        case State.FAILED:
            if row.failure_class == FailureClass.OPERATOR:
                return None
            blamed = row.failure_class in INFRASTRUCTURE
            return Delivery(row.failure_class or "") if blamed else Delivery.DELIVERED
        case State.EXPIRED if row.reason == Cause.SILENT:
            return Delivery.SILENCE
        case State.EXPIRED if row.reason == Cause.SILENT_TRIAL:
            return Delivery.DELIVERED
        case _:
            return None


DeliveryKey = tuple[int, str]
"""(bucket, outcome): bucket = changed_at // bucket_ms."""


def delivery(row: Assignment, bucket_ms: int | None) -> DeliveryKey | None:
    """What the row adds one to among the breaker's counts, filed under the time of its state; None without a breaker."""
    if bucket_ms is None or row.state in _ON_ITS_WAY:
        return None
    found = delivered(row)
    return None if found is None else (row.changed_at // bucket_ms, found.value)


_ON_ITS_WAY: Final = frozenset({State.OFFERED, State.ACCEPTED, State.DOWNLOADING})
"""Not looked at more closely: most rows change between these."""
