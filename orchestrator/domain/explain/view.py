"""What is known of a campaign when people ask why it does not move, and what an answer is made of.

Plain data of one snapshot. Not here: the rules that find conditions in it (:mod:`orchestrator.domain.explain.table`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from msgspec import Struct

from orchestrator.domain.campaign import LIVE, Campaign, PhaseState
from orchestrator.domain.window import Shut

COUNTED: Final = 1_000
"""Queues are counted up to here; more is said as "at least"."""


class Condition(Struct, frozen=True, kw_only=True):
    """One thing that holds a campaign, or a device in it."""

    code: str
    detail: str
    """A sentence for people."""
    data: dict[str, Any] = {}
    """The numbers behind it; names that end in ``_at`` are moments in ms."""
    remedy: str | None = None
    """What people can do; None where waiting is all there is."""
    until: int | None = None
    """When it ends by itself, ms; None if it does not, or if nobody can know."""


class Stop(Struct, frozen=True, kw_only=True):
    """The fleet's stop, by whom and why."""

    by: str
    reason: str


class Line(Struct, frozen=True, kw_only=True):
    """Who waits for an offer, up to :data:`COUNTED` of each; strata that were halted alone left out."""

    queued: int = 0
    """First offers, and further ones that are due."""
    ready: int = 0
    """Those of them that a slice may look at now."""
    retries: int = 0
    """Next attempts that are not due yet, or still to be decided."""
    next_at: int | None = None
    """The first moment at which one of those that are not ready will be, ms."""
    looked_at: int = 0
    """Of the open phase: the first ones, that the rest is about."""
    busy: Mapping[str, int] = {}
    """Campaigns that have some of them in flight."""
    withheld: Mapping[str, int] = {}
    """Devices that their owners' will or the preconditions keep from being offered, by reason; in none of the above."""
    outranked: Mapping[str, int] = {}
    """Running campaigns of higher priority that some of them wait for."""


class Flow(Struct, frozen=True, kw_only=True):
    """The pace in force."""

    cap: int
    per_minute: int | None = None
    promoted: int = 0
    """Phases that the cap has doubled with."""
    growth: int = 0
    in_flight: int = 0
    tokens: int | None = None
    """Offers that the rate allows now; None without a rate."""
    token_at: int | None = None


class FullPlace(Struct, frozen=True, kw_only=True):
    """A value of the budget that has no room, and who fills it."""

    label: str
    value: str
    limit: int
    in_flight: int
    waiting: int
    """Of the devices that were looked at, those that it turns away."""
    campaigns: Mapping[str, int] = {}


class Evidence(Struct, frozen=True, kw_only=True):
    """What the open phase's gate has to go by."""

    matured: int = 0
    failures: int = 0
    uncovered: tuple[str, ...] = ()
    """Strata of which no device has matured."""
    outstanding: int = 0
    """Devices that may still mature."""


class Oldest(Struct, frozen=True, kw_only=True):
    """The device in flight whose time is over first."""

    device_id: str
    state: str
    due_at: int


class View(Struct, frozen=True, kw_only=True):
    """Everything that is asked about, of one snapshot."""

    campaign: Campaign
    now: int
    fleet: Stop | None = None
    release_halted_in: tuple[str, ...] = ()
    """Other campaigns in which the release was halted, once per halt."""
    shut: Shut | None = None
    line: Line = Line()
    flow: Flow | None = None
    """None before the enrolment."""
    full: tuple[FullPlace, ...] = ()
    unhindered: int = 0
    """Of the devices that were looked at, those that the budget lets pass."""
    evidence: Evidence = Evidence()
    under_way: Mapping[str, int] = {}
    """Devices in flight by state, of all phases."""
    oldest: Oldest | None = None
    waits_until: int | None = None
    """How long the campaign waits for what is withheld, ms; None before its last phase is promoted."""

    @property
    def phase(self) -> dict[str, Any]:
        return self.campaign.phases[self.campaign.phase]

    @property
    def is_open(self) -> bool:
        """A phase is open that is not promoted."""
        return self.campaign.phase >= 0 and self.campaign.phase_state is not PhaseState.PROMOTED

    @property
    def live(self) -> bool:
        return self.campaign.state in LIVE

    @property
    def last(self) -> bool:
        return self.campaign.phase == len(self.campaign.phases) - 1


class Found(NamedTuple):
    """A condition without its code."""

    detail: str
    data: dict[str, Any] = {}  # noqa: RUF012 (read only)
    remedy: str | None = None
    until: int | None = None
