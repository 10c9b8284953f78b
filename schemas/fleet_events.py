"""Decisions about the whole fleet, in the stream ``fleet``. Times are milliseconds since the epoch."""

from __future__ import annotations

import msgspec


class FleetStopped(msgspec.Struct, frozen=True, kw_only=True):
    """No campaign offers or starts anything until the fleet is released; devices that started go on."""

    actor: str
    reason: str
    ledger_position: int
    """Head of the ledger at the stop: no offer and no start beyond it until the release."""


class FleetReleased(msgspec.Struct, frozen=True, kw_only=True):
    """Campaigns offer again, each as its own state allows."""

    actor: str
    reason: str
    ledger_position: int


FleetEvent = FleetStopped | FleetReleased

EVENT_TYPES: dict[str, type[msgspec.Struct]] = {cls.__name__: cls for cls in FleetEvent.__args__}
