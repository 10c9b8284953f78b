"""Which decisions people outside are told of, in which words, and how often it is tried.

A notification is made of one event of the log and of what of the campaign never changes, so it can be made again and is the same. It
carries the event's numbers, never a secret, a plan or a dossier.

Not here: who is told, and sending.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from msgspec import Struct, to_builtins

AWAITING_VERDICT: Final = "phase.awaiting_verdict"
HALTED: Final = "campaign.halted"
TEST: Final = "webhook.test"

_KINDS: Final[Mapping[str, str]] = {
    "CampaignSubmitted": "approval.wanted",
    "SoakStarted": AWAITING_VERDICT,
    "CampaignHalted": HALTED,
    "StratumHalted": "stratum.halted",
    "HoldOutlasted": "hold.outlasted",
    "BreakerOpened": "breaker.opened",
    "BreakerClosed": "breaker.closed",
    "CampaignCompleted": "campaign.completed",
    "RemediationDrafted": "remediation.drafted",
    "FleetStopped": "fleet.stopped",
    "FleetReleased": "fleet.released",
    "LogLossAccepted": "log_loss.accepted",
    "WebhookTested": TEST,
}
"""Event type to notification, by name: events of a type that this version does not have cannot occur."""

KINDS: Final = tuple(kind for kind in _KINDS.values() if kind != TEST)
"""What can be subscribed to."""

_OMITTED: Final = frozenset({"dossier", "counted_at", "fact", "ledger_digest"})
"""Too long, or of no use to a reader outside."""

_LISTED: Final = 20
"""Entries of a list that are told; the whole is in the log."""

ATTEMPTS_S: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds between one attempt and the next, as the Standard Webhooks specification proposes: three days and three hours in all."""

JITTER: Final = 0.2
"""Share by which a pause varies in either direction, so that receivers that come back are not asked by everybody at once."""


def kind_of(event_type: str, event: Struct) -> str | None:
    """The notification that an event makes; None if it makes none."""
    kind = _KINDS.get(event_type)
    if kind == AWAITING_VERDICT and not getattr(event, "external", ()):
        return None
    return kind


def content(event: Struct, subject: Mapping[str, Any]) -> dict[str, Any]:
    """The ``data`` of the notification: what it is about, then what the event says."""
    said: dict[str, Any] = {key: value for key, value in to_builtins(event).items() if key not in _OMITTED}
    return {**subject, **{key: _shortened(value) for key, value in said.items()}}


def _shortened(value: Any) -> Any:
    return cast("list[Any]", value)[:_LISTED] if isinstance(value, list) else value


def pause_ms(attempts: int, dice: float) -> int | None:
    """Until the next attempt after so many failed ones, ms; None if that was the last. ``dice`` is in [0, 1)."""
    if attempts > len(ATTEMPTS_S):
        return None
    return round(1_000 * ATTEMPTS_S[attempts - 1] * (1 - JITTER + 2 * JITTER * dice))
