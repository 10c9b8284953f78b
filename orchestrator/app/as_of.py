"""What ran where at a moment, from the logs alone: of the whole fleet in counts, of one device in full.

The same moment has the same answer whenever it is asked. So nothing is said of a moment before everything recorded up to it is in the
logs and has been projected. Times are milliseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from orchestrator.app.backtest import Basis
from orchestrator.app.process import Facts
from orchestrator.domain.as_of import Ran
from orchestrator.errors import ConflictError

SETTLED_MS: Final = 60_000
"""From a record's time to when it stands in its log, at most: a gateway gives a report up, and a transaction is ended, long before."""


class NotHeardError(ConflictError):
    """Not everything that was recorded up to that moment has been heard."""

    code = "history.not_heard"
    remedy = f"Ask for a moment at least {SETTLED_MS // 1_000} s ago; if that is refused too, look at `ota doctor`."


class RanCount(Struct, frozen=True, kw_only=True):
    """Devices of one hardware model that ran the same."""

    hardware_model: str
    release_id: str | None
    """None where it is no known release, or nothing is known."""
    version: str | None
    digest: str | None
    source: str
    """confirmed, reported or unknown."""
    devices: int


class CampaignAsOf(Struct, frozen=True, kw_only=True):
    """A campaign as it stood."""

    campaign_id: str
    name: str
    release_id: str
    state: str
    since: int
    """When it came into that state."""
    position: int
    """Of the event that brought it there."""
    in_flight: int
    """Devices that had an offer or were under way."""
    in_trial: int
    """Those of them that had installed, or may have."""
    devices: dict[str, int]
    """Devices by assignment state; those without an offer are not among them."""


class FleetAsOf(Struct, frozen=True, kw_only=True):
    """What ran where."""

    at: int
    devices: int
    """Registered by then."""
    ran: list[RanCount]
    """By hardware model, the largest count first."""
    other: int
    """Devices in counts that are too many to list."""
    campaigns: list[CampaignAsOf]
    """The newest first."""
    campaigns_left_out: int
    """Older ones that are too many to list."""
    basis: Basis
    """Last positions that the logs held by then."""


class AssignmentAsOf(Struct, frozen=True, kw_only=True):
    """A device in one campaign, as it stood."""

    campaign_id: str
    campaign_name: str
    release_id: str
    phase: int
    stratum: str
    attempt: int
    action_id: int
    state: str
    changed_at: int
    offered_at: int
    started_at: int | None
    failure_class: str | None
    reason: str | None


class DeviceAsOf(Struct, frozen=True, kw_only=True):
    """One device."""

    at: int
    device_no: int
    device_id: str
    hardware_model: str
    registered_at: int
    version: str | None
    """As it last reported."""
    version_at: int | None
    digest: str | None
    digest_at: int | None
    confirmed_campaign_id: str | None
    """Of the release that it confirmed last."""
    confirmed_at: int | None
    ran: Ran
    assignments: list[AssignmentAsOf]
    """The newest campaign first."""
    basis: Basis


class Archive(Protocol):
    """The logs, read up to a moment."""

    async def fleet(self, at: int) -> FleetAsOf: ...

    async def device(self, device_id: str, at: int) -> DeviceAsOf:
        """Raises DeviceNotFoundError also for a device that was registered later."""
        ...


class AsOf:
    """The use case."""

    def __init__(self, archive: Archive, facts: Facts, *, now: Callable[[], int]) -> None:
        self._archive = archive
        self._facts = facts
        self._now = now

    async def fleet(self, at: int) -> FleetAsOf:
        """What ran where at ``at``. Raises NotHeardError."""
        await self._heard(at)
        return await self._archive.fleet(at)

    async def device(self, device_id: str, at: int) -> DeviceAsOf:
        """One device at ``at``. Raises NotHeardError and DeviceNotFoundError."""
        await self._heard(at)
        return await self._archive.device(device_id, at)

    async def _heard(self, at: int) -> None:
        if at > self._now() - SETTLED_MS:
            raise NotHeardError("That moment is too young: what was recorded then may not be in the logs yet.")
        if await self._facts.until(at) < at:
            raise NotHeardError("Reports of devices up to that moment have not all been projected.")
