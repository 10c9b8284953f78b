"""Why a campaign, or a device, does not move, and when a campaign will be done: the domain's rules on what was read in one snapshot.

Not here: the rules (:mod:`orchestrator.domain.explain`, :mod:`orchestrator.domain.eta`) and the reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from orchestrator.domain.eta import Eta
from orchestrator.domain.explain import Condition, View, explain
from orchestrator.domain.explain.device import Seat, explain_device


class CampaignReading(Struct, frozen=True, kw_only=True):
    """A campaign of one snapshot."""

    view: View
    eta: Eta


class DeviceReading(Struct, frozen=True, kw_only=True):
    """A device and the campaigns that it could be about, the newest first."""

    device_id: str
    last_seen_at: int | None
    seats: list[Seat]


class ExplainReads(Protocol):
    """What is asked about, each of one snapshot; ``now`` in ms."""

    async def campaign(self, campaign_id: str, now: int) -> CampaignReading:
        """Raises NotFoundError."""
        ...

    async def device(self, device_id: str, campaign_id: str | None, now: int) -> DeviceReading:
        """In the campaigns that are not over, or in one. Raises NotFoundError."""
        ...


class CampaignWhy(Struct, frozen=True, kw_only=True):
    """What holds a campaign."""

    campaign_id: str
    state: str
    phase: int
    at: int
    """When it was read, ms."""
    why: Condition
    """The first condition."""
    further: list[Condition]
    """What would hold next."""
    eta: Eta


class Place(Struct, frozen=True, kw_only=True):
    """A device in one campaign."""

    campaign_id: str
    state: str
    """The campaign's."""
    member: bool
    why: Condition
    further: list[Condition]


class DeviceWhy(Struct, frozen=True, kw_only=True):
    """What holds a device, campaign by campaign."""

    device_id: str
    last_seen_at: int | None
    at: int
    campaigns: list[Place]


class CampaignEta(Struct, frozen=True, kw_only=True):
    """When a campaign will be done."""

    campaign_id: str
    state: str
    at: int
    eta: Eta


class Explanations:
    """The use cases."""

    def __init__(self, reads: ExplainReads, clock: Callable[[], int]) -> None:
        """``clock`` gives milliseconds since the epoch."""
        self._reads = reads
        self._clock = clock

    async def campaign(self, campaign_id: str) -> CampaignWhy:
        """Why the campaign does not move. Raises NotFoundError."""
        now = self._clock()
        read = await self._reads.campaign(campaign_id, now)
        first, *further = explain(read.view)
        campaign = read.view.campaign
        return CampaignWhy(
            campaign_id=campaign.campaign_id,
            state=str(campaign.state),
            phase=campaign.phase,
            at=now,
            why=first,
            further=further,
            eta=read.eta,
        )

    async def eta(self, campaign_id: str) -> CampaignEta:
        """When the campaign will be done. Raises NotFoundError."""
        now = self._clock()
        read = await self._reads.campaign(campaign_id, now)
        return CampaignEta(campaign_id=campaign_id, state=str(read.view.campaign.state), at=now, eta=read.eta)

    async def device(self, device_id: str, campaign_id: str | None = None) -> DeviceWhy:
        """Why the device is not updated, in each campaign that is not over, or in one. Raises NotFoundError."""
        now = self._clock()
        read = await self._reads.device(device_id, campaign_id, now)
        return DeviceWhy(
            device_id=read.device_id,
            last_seen_at=read.last_seen_at,
            at=now,
            campaigns=[_place(seat) for seat in read.seats],
        )


def _place(seat: Seat) -> Place:
    first, *further = explain_device(seat)
    return Place(campaign_id=seat.campaign_id, state=str(seat.state), member=seat.member, why=first, further=further)
