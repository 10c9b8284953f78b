"""What the use cases need from the world, as protocols.

Each port has one suite of contract tests that runs on every implementation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from orchestrator.domain import campaign as c
from orchestrator.domain.breaker import Breaker, BreakerSpec, Reading
from orchestrator.domain.visibility import Shown
from orchestrator.errors import ConflictError
from schemas.campaign_events import CampaignEvent


class VersionConflictError(ConflictError):
    """Somebody else changed this in the meantime."""

    code = "conflict.version"
    remedy = "Read it again and repeat the command."


class Meta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who and why, stored with every event."""

    actor: str
    reason: str | None = None
    traceparent: str | None = None


class Recorded(Struct, frozen=True, kw_only=True):
    """An event as the log holds it."""

    position: int
    stream: str
    version: int
    event_id: str
    type: str
    event: Any
    """An instance of the class named by ``type`` in ``schemas``."""
    meta: Meta
    command_id: str
    recorded_at: int


class EventLog(Protocol):
    """Append-only log with one version line per stream."""

    async def append(
        self, stream: str, expected_version: int, events: Sequence[Struct], *, command_id: str, meta: Meta
    ) -> list[Recorded]:
        """Append; a command id that has taken effect returns its first result. Raises VersionConflictError."""
        ...

    async def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded]:
        """A stream's events, oldest first."""
        ...

    async def read_all(self, after_position: int, limit: int, stream: str | None = None) -> list[Recorded]:
        """All events in the order of the log, from after ``after_position``."""
        ...


class Standing(Struct, frozen=True, kw_only=True):
    """What a decision about a campaign is made on, read while no offer or start of it can commit."""

    ledger_position: int
    ledger_digest: str
    now: int
    """Milliseconds since the epoch."""
    release_halts: tuple[str, ...] = ()
    """Other campaigns in which the release was halted, one entry per halt, oldest first."""


class Executed(Struct, frozen=True, kw_only=True):
    """Result of a command: the state after it and the events it caused (none if it had nothing left to do)."""

    campaign: c.Campaign
    events: list[Recorded]


Build = Callable[[c.Campaign, Standing], c.Command]


class CampaignStore(Protocol):
    """Campaign streams with their control row; one transaction per command."""

    async def next_campaign_no(self) -> int: ...

    async def load(self, campaign_id: str) -> c.Campaign:
        """Raises NotFoundError (``campaign.not_found``)."""
        ...

    async def execute(
        self, campaign_id: str, build: Build, *, command_id: str, meta: Meta, expected_version: int | None = None
    ) -> Executed:
        """Load, build the command, decide, append and set control, in one transaction under the exclusive control lock.

        A command id that has taken effect returns its first events. ``expected_version`` guards against a stale reader
        (VersionConflictError); an emergency halt passes None.
        """
        ...


class Member(Struct, frozen=True):
    """A device that a campaign could take in."""

    device_no: int
    device_id: str
    hardware_model: str
    attributes: dict[str, str]
    version: str | None = None
    digest: str | None = None
    outdated: bool = False
    """It has confirmed an update after it last said what it runs."""


class Fleet(Protocol):
    """Devices as cohorts see them."""

    def members(self, hardware_models: Sequence[str]) -> AsyncIterator[Sequence[Member]]:
        """All registered devices of these models, in pages."""
        ...


class DispatchedSlice(Struct, frozen=True, kw_only=True):
    """What one slice transaction did."""

    granted: int
    remaining: int
    """Queue entries of the phase that are left, due or not; those that are withheld are not among them."""
    state: str
    """Control state that the transaction saw."""
    room: int
    next_due_at: int | None = None
    """When the next queue entry may be offered (ms), if all that is left waits."""
    hold: str | None = None
    """Why nothing may be offered although the campaign runs."""
    over_budget: int = 0
    """Devices that were put back because as many of their site or model as may are in flight."""
    outranked: int = 0
    """Devices that were put back because a campaign of higher priority waits for them too."""
    superseded: int = 0
    """Offers of campaigns of lower priority that were taken over."""


class DeadlineSweep(Struct, frozen=True, kw_only=True):
    """What one sweep of a campaign's deadlines did."""

    expired: int
    silent: int
    requeued: int
    withdrawn: int
    cancels: int
    state: str
    halted: bool = False
    next_due_at: int | None = None


class GateReading(Struct, frozen=True, kw_only=True):
    """Counters of one phase, read in one snapshot for the promote test."""

    matured: int
    failures: int
    """Matured devices that failed or did not confirm by their deadline."""
    strata: dict[str, int]
    """Matured devices by stratum key, zero for strata that the phase has devices of and none matured."""
    in_flight: int
    queued: int
    """Devices that wait for their first offer, or for a further one that is due; late members apart."""
    confirmed: int
    failed: int
    outstanding: int = 0
    """Devices of the phase that may still mature: waiting, offered, or started less than a confirm deadline ago."""
    waiting: int = 0
    """Devices whose next attempt is not due yet, or is still to be decided."""
    withheld: int = 0
    """Devices of the queue that their owners' will or the preconditions keep from being offered; in none of the above."""
    ripening: int = 0
    """Devices of the phase that started less than a confirm deadline ago and will count."""
    late: int = 0
    """Late members that wait in the phase's queue: the gate does not wait for them, the end of the campaign does."""


class BreakerReading(Struct, frozen=True, kw_only=True):
    """What a campaign's breaker is judged on, read in one snapshot."""

    spec: BreakerSpec
    breaker: Breaker
    reading: Reading
    state: str
    """Of the campaign."""
    offer_ttl: int


class Decisions(Protocol):
    """Transactions that decide about devices. Each is idempotent by what it claims: repeating one repeats no device."""

    async def enrol(self, campaign_id: str, now: int) -> c.Campaign:
        """Freeze the cohort into the ledger and the offer queue, once; returns the campaign after ``CohortEnrolled``.

        A fleet that no longer fits the approved dossier halts the campaign instead; the returned state says so.
        """
        ...

    async def dispatch(self, campaign_id: str, phase: int, limit: int, now: int) -> DispatchedSlice:
        """Offer to at most ``limit`` devices of the phase's queue, as room and rate allow, if control says running."""
        ...

    async def sweep(self, campaign_id: str, now: int, facts_until: int) -> DeadlineSweep:
        """Expire what is overdue and, after a halt or abort, withdraw unstarted offers and ask started devices to cancel.

        Silence is decided only for deadlines up to ``facts_until`` (ms): the projection has passed the log ends sampled then.
        """
        ...

    async def judge_health(self, campaign_id: str, facts_until: int) -> bool:
        """Count what devices reported of their health up to ``facts_until`` (ms), and halt if a rule on it says so; True if it did."""
        ...

    async def close_withheld(self, campaign_id: str, now: int) -> dict[str, int]:
        """Take what is withheld out of the queues of a running campaign, in the ledger too; all that ever was, by reason."""
        ...

    async def join(self, campaign_id: str, now: int) -> int:
        """Take late members into a campaign with continuous membership, if a look at the fleet is due; how many joined."""
        ...

    async def read_gate(self, campaign_id: str, phase: int, now: int) -> GateReading:
        """The phase's counters in the running gate epoch, in one snapshot; matured at ``now``."""
        ...

    async def read_breaker(self, campaign_id: str, now: int, heard_until: int) -> BreakerReading | None:
        """Counts of the breaker's window at ``now`` and what became of its probes; None for a campaign without a breaker."""
        ...


class OfferedComponent(Struct, frozen=True, kw_only=True):
    """One of several components, with its artifact."""

    name: str
    kind: str
    sha256: str
    sha1: str
    md5: str
    size: int
    filename: str


class OfferView(Struct, frozen=True, kw_only=True):
    """What a gateway needs to answer a device about its current assignment; read in one snapshot, overlay applied."""

    campaign_no: int
    campaign_id: str
    device_no: int
    action_id: int
    attempt: int
    phase: int
    offered_at: int
    """Of this attempt, ms."""
    state: str
    """Assignment state, reports that are answered but not yet projected included; of an unknown one the state last seen."""
    shown: Shown
    release_id: str
    release_name: str
    release_version: str
    sha256: str
    sha1: str
    md5: str
    size: int
    filename: str
    owner_spoke: bool = False
    """The device's owner has stated a will."""
    components: list[OfferedComponent] = []
    """In the order of their installation; empty if the release has one artifact for the device, the one above."""


class Offers(Protocol):
    """The gateway's view of assignments. A positive answer always comes from the database, never from memory."""

    async def current(self, device_no: int) -> OfferView | None:
        """The assignment that holds the device's slot, whatever it shows; None if the slot is free."""
        ...

    async def start(self, device_no: int, action_id: int) -> OfferView | None:
        """Commit that the image is about to be revealed (group commit under the control check). None: answer "not found".

        Repeating it for a started, still shown assignment returns the view without a further ledger row.
        """
        ...

    async def owner(self, action_id: int) -> tuple[int, int, int] | None:
        """(campaign_no, attempt, device_no) that an action id was given to, of any age; None if never given."""
        ...

    async def components(self, action_id: int) -> Mapping[str, str]:
        """Component to its kind, of the release that an action brings to its device; empty if that is one artifact."""
        ...

    async def overlay(self, device_no: int, action_id: int, state: str, partition: int, offset: int) -> None:
        """Record a report that is answered before its projection, unless the projection has passed it meanwhile."""
        ...

    async def positions(self) -> Mapping[int, int]:
        """Next offset of the fleet projection by partition of the device events topic."""
        ...


__all__ = [
    "BreakerReading",
    "Build",
    "CampaignEvent",
    "CampaignStore",
    "DeadlineSweep",
    "Decisions",
    "DispatchedSlice",
    "EventLog",
    "Executed",
    "Fleet",
    "GateReading",
    "Member",
    "Meta",
    "OfferView",
    "OfferedComponent",
    "Offers",
    "Recorded",
    "Standing",
    "VersionConflictError",
]
