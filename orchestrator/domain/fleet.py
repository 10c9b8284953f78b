"""The whole fleet: stopped or not. ``decide`` and ``evolve`` are pure; both commands are idempotent."""

from __future__ import annotations

from msgspec import Struct

from schemas.fleet_events import FleetEvent, FleetReleased, FleetStopped


class Fleet(Struct, frozen=True, kw_only=True):
    """State after ``version`` events of the stream ``fleet``."""

    version: int = 0
    stop: FleetStopped | None = None
    """The stop that is in force."""


class StopFleet(Struct, frozen=True, kw_only=True):
    actor: str
    reason: str
    ledger_position: int


class ReleaseFleet(Struct, frozen=True, kw_only=True):
    actor: str
    reason: str
    ledger_position: int


def decide(fleet: Fleet, command: StopFleet | ReleaseFleet) -> list[FleetEvent]:
    """The events that ``command`` causes; none if it has nothing left to do."""
    match command:
        case StopFleet():
            if fleet.stop is not None:
                return []
            return [FleetStopped(actor=command.actor, reason=command.reason, ledger_position=command.ledger_position)]
        case ReleaseFleet():
            if fleet.stop is None:
                return []
            return [FleetReleased(actor=command.actor, reason=command.reason, ledger_position=command.ledger_position)]


def evolve(fleet: Fleet, event: FleetEvent) -> Fleet:
    """The state after ``event``."""
    return Fleet(version=fleet.version + 1, stop=event if isinstance(event, FleetStopped) else None)


def fold(events: list[FleetEvent]) -> Fleet:
    """The state after all ``events``, oldest first."""
    fleet = Fleet()
    for event in events:
        fleet = evolve(fleet, event)
    return fleet
