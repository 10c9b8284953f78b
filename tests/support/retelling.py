"""The two logs, retold: what a record of the topic says, and what an assignment must be after all that was said and decided.

A fold of its own, over whole sets (maxima of rank, minima of time) and not record by record, so that no order can matter and no code
is shared with the product.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.witnesses import LogRecord

RANKS = [
    "offered",
    "accepted",
    "downloading",
    "installed",
    "trial",
    "expired",
    "cancelled",
    "superseded",
    "not_applicable",
    "confirmed",
    "rejected",
    "failed",
    "reverted",
]
ACTIVE = frozenset(RANKS[:5])
STARTED = frozenset({*RANKS[1:5], "confirmed", "failed", "reverted"})
NOT_THE_RELEASE = frozenset({"transport", "integrity", "operator"})
STATED = {
    "device.update.accepted": "accepted",
    "device.update.download_started": "downloading",
    "device.update.installed": "installed",
    "device.update.trial_started": "trial",
    "device.update.confirmed": "confirmed",
    "device.update.reverted": "reverted",
    "device.update.failed": "failed",
    "device.update.rejected": "rejected",
    "device.update.cancelled": "cancelled",
    "device.update.not_applicable": "not_applicable",
}
TYPES = frozenset({*STATED, "device.update.progressed", "device.attributes.reported", "device.health.reported"})
LARGEST_RECORD = 1 << 20


Key = tuple[int, int]
"""(campaign_no, device_no)"""


@dataclass(frozen=True, slots=True)
class Action:
    """What an action id stands for."""

    campaign: int
    device: int
    attempt: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Said:
    """One statement, of a device or of the ledger, about one attempt."""

    attempt: int
    state: str
    at: int
    blame: str | None = None
    reason: str | None = None


def _text(value: Any, limit: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value.replace("\0", "")[:limit]


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _sane(report: dict[str, Any]) -> None:
    """Raises ValueError, KeyError or TypeError for a report on health that nobody can have meant."""
    if not re.fullmatch(r"[a-z][a-z0-9_.-]{0,31}", report["signal"]):
        raise ValueError(report["signal"])
    week, limits = 7 * 24 * 3_600_000, {"period": (0, 2**53 - 1), "events": (0, 10_000)}
    for name, (low, high) in (limits | {"exposure_ms": (1, week)}).items():
        if not low <= _number(report[name]) <= high:
            raise ValueError(name)


@dataclass(frozen=True, slots=True)
class Fact:
    """A record that can be applied: its timeline row, and what it says of an assignment or of the device."""

    row: tuple[Any, ...]
    key: Key | None = None
    said: Said | None = None
    device: int = 0
    version: str | None = None


class RefusedError(Exception):
    """A record that belongs into the dead letters, under this code."""


def read_fact(record: LogRecord, actions: Mapping[int, Action]) -> Fact:
    """Raises RefusedError."""
    if record.value is None:
        raise RefusedError("event.empty")
    if len(record.value) > LARGEST_RECORD:
        raise RefusedError("event.too_large")
    try:
        event = json.loads(record.value)
        kind, data = event["type"], event["data"]
        device, at, version = _number(event["device_no"]), _number(event["recorded_at"]), _number(event.get("v", 1))
        event_id = _text(event["id"], 64)
        _ = event["source"] + event["subject"]
    except (ValueError, KeyError, TypeError) as why:
        raise RefusedError("event.malformed") from why
    if kind not in TYPES:
        raise RefusedError("event.unknown_type")
    if version != 1:
        raise RefusedError("event.unknown_version")
    if not 0 < device < 1 << 31 or not 0 < at < 1 << 53:
        raise RefusedError("event.out_of_range")
    try:
        if kind == "device.attributes.reported":
            row = (device, None, None, event_id, kind, at, None, None)
            return Fact(row, device=device, version=_text(data.get("version"), 1 << 20))
        if kind == "device.health.reported":
            _sane(data)
            return Fact((device, None, None, event_id, kind, at, None, None), device=device)
        action_id = _number(data["action_id"])
        blame, reason = _text(data.get("class"), 32), _text(data.get("reason"), 64)
    except (ValueError, KeyError, TypeError, AttributeError) as why:
        raise RefusedError("event.malformed") from why
    if not 0 < action_id < 1 << 31:
        raise RefusedError("event.out_of_range")
    action = actions.get(action_id)
    if action is None:
        raise RefusedError("event.unknown_action")
    if action.device != device:
        raise RefusedError("event.foreign_action")
    said = Said(action.attempt, STATED[kind], at, blame, reason) if kind in STATED else None
    row = (device, action.campaign, action.attempt, event_id, kind, at, blame, reason)
    return Fact(row, (action.campaign, device), said, device)


def blames_release(said: Said) -> bool:
    return (
        said.state == "reverted"
        or (said.state == "failed" and said.blame not in NOT_THE_RELEASE)
        or (said.state == "expired" and said.blame == "silence")
    )


@dataclass(slots=True)
class History:
    """Everything the two logs say about one device in one campaign."""

    phase: int
    stratum: int
    offers: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """Attempt to (action id, gate epoch, time)."""
    said: list[Said] = field(default_factory=list)
    cancels: list[tuple[int, int]] = field(default_factory=list)
    """(attempt, time)"""
    retries: set[int] = field(default_factory=set)
    closed: bool = False
    """The campaign ended without ever offering to it."""

    def row(self, campaign: int, device: int) -> dict[str, Any]:
        """What the assignment must be: maxima and minima over sets, so no order can matter."""
        attempt = max(self.offers)
        action, epoch, offered_at = self.offers[attempt]
        current = [Said(attempt, "offered", offered_at), *(said for said in self.said if said.attempt == attempt)]
        top = max(RANKS.index(said.state) for said in current)
        best = min(
            (said for said in current if said.state == RANKS[top]), key=lambda s: (s.at, s.blame or "", s.reason or "")
        )
        starts = [(said.at, self.offers[said.attempt][1], said.attempt) for said in self.said if said.state in STARTED]
        failures = [(said.at, said.blame or "", said.blame) for said in self.said if blames_release(said)]
        first, failure = min(starts, default=None), min(failures, key=lambda f: f[:2], default=None)
        return {
            "device_no": device,
            "campaign_no": campaign,
            "phase": self.phase,
            "stratum": self.stratum,
            "attempt": attempt,
            "action_id": action,
            "gate_epoch": epoch,
            "offered_at": offered_at,
            "state": best.state,
            "changed_at": best.at,
            "progress": RANKS[max(RANKS.index(said.state) for said in current if said.state in ACTIVE)],
            "failure_class": best.blame,
            "reason": best.reason,
            "started_at": min((at for at, _, of in starts if of == attempt), default=None),
            "cancel_requested_at": min((at for of, at in self.cancels if of == attempt), default=None),
            "first_started_at": first[0] if first else None,
            "first_started_epoch": first[1] if first else None,
            "failed_at": failure[0] if failure else None,
            "failed_class": failure[2] if failure else None,
        }


def holds_slot(row: Mapping[str, Any]) -> bool:
    ended_unheard = row["state"] in {"expired", "superseded"}
    return row["state"] in ACTIVE or (ended_unheard and row["progress"] in {"installed", "trial"})
