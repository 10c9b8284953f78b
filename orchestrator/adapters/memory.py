"""The log and the campaigns in memory: the same contracts as on PostgreSQL, for tests and for trying things out.

One event loop, no threads. A transaction is a stretch of code without ``await``.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from msgspec import Struct, json, to_builtins

from orchestrator.adapters.clock import now_ms, uuid7
from orchestrator.adapters.sql.campaigns import CampaignNotFoundError, stream_of
from orchestrator.app.ports import Build, Executed, Meta, Recorded, Standing, VersionConflictError
from orchestrator.app.registry import Clock
from orchestrator.domain import campaign as c
from schemas.campaign_events import CampaignCreated, CampaignHalted, StratumHalted


class MemoryEventLog:
    """``orchestrator.app.ports.EventLog`` in a list."""

    def __init__(self, now: Clock = now_ms) -> None:
        self._now = now
        self._events: list[Recorded] = []
        self._hashes: list[bytes] = [b""]

    async def append(
        self, stream: str, expected_version: int, events: Sequence[Struct], *, command_id: str, meta: Meta
    ) -> list[Recorded]:
        if done := self.of_command(command_id):
            return done
        return self.append_now(stream, expected_version, events, command_id=command_id, meta=meta)

    async def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded]:
        return self.stream(stream, after_version)

    async def read_all(self, after_position: int, limit: int, stream: str | None = None) -> list[Recorded]:
        found = (item for item in self._events[after_position:] if stream is None or item.stream == stream)
        return [item for item, _ in zip(found, range(limit), strict=False)]

    async def verify_chain(self) -> tuple[int, int | None]:
        """(events checked, position of the first one whose hash does not follow, or None)."""
        for index, item in enumerate(self._events):
            if _chain(self._hashes[index], item) != self._hashes[index + 1]:
                return index, item.position
        return len(self._events), None

    def stream(self, stream: str, after_version: int = 0) -> list[Recorded]:
        """A stream's events, the oldest first."""
        return [item for item in self._events if item.stream == stream and item.version > after_version]

    def all(self) -> Sequence[Recorded]:
        """Every event, the oldest first."""
        return self._events

    def of_command(self, command_id: str) -> list[Recorded]:
        """What a command has caused."""
        return [item for item in self._events if item.command_id == command_id]

    def append_now(
        self, stream: str, expected_version: int, events: Sequence[Struct], *, command_id: str, meta: Meta
    ) -> list[Recorded]:
        """Append without looking whether the command has taken effect. Raises VersionConflictError."""
        current = len(self.stream(stream))
        if current != expected_version:
            raise VersionConflictError(f"Stream {stream} is at version {current}, expected {expected_version}.")
        at = self._now()
        appended = [
            Recorded(
                position=len(self._events) + ordinal + 1,
                stream=stream,
                version=expected_version + ordinal + 1,
                event_id=uuid7(),
                type=type(event).__name__,
                event=event,
                meta=meta,
                command_id=command_id,
                recorded_at=at,
            )
            for ordinal, event in enumerate(events)
        ]
        for item in appended:
            self._events.append(item)
            self._hashes.append(_chain(self._hashes[-1], item))
        return appended


class MemoryCampaignStore:
    """``orchestrator.app.ports.CampaignStore`` on a log in memory; its ledger is always empty."""

    def __init__(self, log: MemoryEventLog | None = None, now: Clock = now_ms) -> None:
        self.log = log or MemoryEventLog(now)
        self._now = now
        self._last_no = 0

    async def next_campaign_no(self) -> int:
        self._last_no += 1
        return self._last_no

    async def load(self, campaign_id: str) -> c.Campaign:
        campaign = self._fold(campaign_id)
        if campaign.state is None:
            raise CampaignNotFoundError(f"There is no campaign {campaign_id}.")
        return campaign

    async def execute(
        self, campaign_id: str, build: Build, *, command_id: str, meta: Meta, expected_version: int | None = None
    ) -> Executed:
        campaign = self._fold(campaign_id)
        if done := self.log.of_command(command_id):
            return Executed(campaign=campaign, events=done)
        if expected_version is not None and expected_version != campaign.version:
            raise VersionConflictError(
                f"Campaign {campaign_id} is at version {campaign.version}, the request was made for {expected_version}."
            )
        standing = Standing(
            ledger_position=0, ledger_digest="", now=self._now(), release_halts=self._release_halts(campaign)
        )
        command = build(campaign, standing)
        if campaign.state is None and not isinstance(command, c.Create):
            raise CampaignNotFoundError(f"There is no campaign {campaign_id}.")
        events = c.decide(campaign, command)
        if not events:
            return Executed(campaign=campaign, events=[])
        stream = stream_of(campaign_id)
        appended = self.log.append_now(stream, campaign.version, events, command_id=command_id, meta=meta)
        return Executed(campaign=self._fold(campaign_id), events=appended)

    def _release_halts(self, campaign: c.Campaign) -> tuple[str, ...]:
        own = stream_of(campaign.campaign_id)
        of_release = {
            stream_of(item.event.campaign_id): item.event.campaign_id
            for item in self.log.all()
            if isinstance(item.event, CampaignCreated) and item.event.release_id == campaign.release_id
        }
        return tuple(
            of_release[item.stream]
            for item in self.log.all()
            if isinstance(item.event, CampaignHalted | StratumHalted)
            and item.stream in of_release
            and item.stream != own
            and getattr(item.event, "by", None) != "orchestrator"
        )

    def _fold(self, campaign_id: str) -> c.Campaign:
        return c.fold([item.event for item in self.log.stream(stream_of(campaign_id))])


def _chain(prev: bytes, item: Recorded) -> bytes:
    return sha256(prev + json.encode(to_builtins(item), order="sorted")).digest()
