"""Stopping the whole fleet, and releasing it: one command that withholds every offer of every campaign.

It needs the database alone, so it works while Kafka, Temporal or every other role is down, and is in force at its commit.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from orchestrator.app.campaigns import require_reason
from orchestrator.app.ports import Meta
from orchestrator.app.registry import Traceparent, untraced


class FleetStatus(Struct, frozen=True, kw_only=True):
    """Whether the fleet is stopped, and what happened since: counted, not assumed."""

    stopped: bool
    by: str | None = None
    reason: str | None = None
    at: int | None = None
    """Milliseconds since the epoch."""
    position: int | None = None
    """Head of the ledger at the stop."""
    offers_after: int = 0
    """Devices offered beyond ``position``."""
    starts_after: int = 0


class FleetControl(Protocol):
    """The stop that every offer and start transaction asks for."""

    async def stop(self, reason: str, *, command_id: str, meta: Meta) -> None:
        """In force when this returns. A stopped fleet stays as it is."""
        ...

    async def release(self, reason: str, *, command_id: str, meta: Meta) -> None: ...

    async def status(self) -> FleetStatus: ...


class FleetCommands:
    """Commands of people."""

    def __init__(self, control: FleetControl, *, traceparent: Traceparent = untraced) -> None:
        self._control = control
        self._traceparent = traceparent

    async def stop(self, reason: str, *, actor: str, command_id: str) -> FleetStatus:
        """Withhold every offer and start of every campaign. Raises ReasonError without a reason."""
        require_reason(reason)
        await self._control.stop(reason, command_id=command_id, meta=self._meta(actor, reason))
        return await self._control.status()

    async def release(self, reason: str, *, actor: str, command_id: str) -> FleetStatus:
        """Let campaigns go on, each as its own state allows. Raises ReasonError without a reason."""
        require_reason(reason)
        await self._control.release(reason, command_id=command_id, meta=self._meta(actor, reason))
        return await self._control.status()

    async def status(self) -> FleetStatus:
        return await self._control.status()

    def _meta(self, actor: str, reason: str) -> Meta:
        return Meta(actor=actor, reason=reason, traceparent=self._traceparent())
