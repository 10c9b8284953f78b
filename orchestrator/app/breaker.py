"""The breaker's look at a campaign, once a sweep: read, judge, and append what follows.

Command ids are made of the campaign and the number of the opening, so that two looks at once append once.

Not here: the rule (``domain.breaker``), and the hold itself, which is in force at the event's commit.
"""

from __future__ import annotations

from typing import Final

import structlog

from orchestrator.app.ports import BreakerReading, CampaignStore, Decisions, Meta, Standing
from orchestrator.domain import breaker as b
from orchestrator.domain import campaign as c
from schemas import campaign_events as e

ACTOR: Final = "breaker"
"""Who the log names."""

UNASKED_MS: Final = 60_000
"""A longer break between two looks says nothing about devices: nobody listened. Sweeps come every second."""

log = structlog.get_logger(__name__)


class Breakers:
    """Looks after the breakers of all campaigns of a worker."""

    def __init__(self, campaigns: CampaignStore, decisions: Decisions) -> None:
        self._campaigns = campaigns
        self._decisions = decisions
        self._asked_at: int | None = None
        self._listening_since = 0

    async def look(self, campaign_id: str, now: int, heard_until: int) -> None:
        """Open, probe or close the campaign's breaker if it is time. ``heard_until``: facts are projected up to here (ms)."""
        if self._asked_at is None or now - self._asked_at > UNASKED_MS:
            self._listening_since = now
        self._asked_at = max(now, self._asked_at or 0)
        found = await self._decisions.read_breaker(campaign_id, now, heard_until)
        if found is None:
            return
        at = b.Moment(
            now=max(now, found.breaker.at),
            heard_until=heard_until,
            listening_since=self._listening_since,
            running=found.state == c.CampaignState.RUNNING,
            stopped=found.state not in {c.CampaignState.RUNNING, c.CampaignState.PAUSED},
        )
        turn = b.judge(found.spec, found.breaker, found.reading, at, found.offer_ttl)
        if turn is not None:
            await self._append(campaign_id, found, turn, at.now)

    async def _append(
        self, campaign_id: str, found: BreakerReading, turn: b.Open | b.Probe | b.Close, now: int
    ) -> None:
        held, spec = found.breaker, found.spec

        def build(_: c.Campaign, standing: Standing) -> c.Command:
            position = standing.ledger_position
            match turn:
                case b.Open():
                    event = e.BreakerOpened(
                        opening=held.openings + 1,
                        cause=turn.cause,
                        outcomes=turn.outcomes,
                        failures=turn.failures,
                        classes=turn.classes,
                        share=spec.share,
                        minimum=spec.minimum,
                        window=spec.window,
                        at=now,
                        since=turn.since,
                        until=turn.until,
                        ledger_position=position,
                    )
                case b.Probe():
                    event = e.BreakerProbing(
                        opening=held.openings, probes=spec.probes, at=now, ledger_position=position
                    )
                case b.Close():
                    event = e.BreakerClosed(
                        opening=held.openings,
                        cause=turn.cause,
                        delivered=turn.delivered,
                        failures=turn.failures,
                        at=now,
                        resumes_at=turn.resumes_at,
                        ledger_position=position,
                    )
            return c.MoveBreaker(event=event)

        opening = held.openings + isinstance(turn, b.Open)
        done = await self._campaigns.execute(
            campaign_id,
            build,
            command_id=f"breaker/{campaign_id}/{opening}/{type(turn).__name__.lower()}",
            meta=Meta(actor=ACTOR),
        )
        for item in done.events:
            if isinstance(item.event, e.BreakerOpened):
                log.warning(
                    "breaker.opened",
                    campaign_id=campaign_id,
                    opening=opening,
                    cause=item.event.cause,
                    outcomes=item.event.outcomes,
                    failures=item.event.failures,
                )
            else:
                log.info("breaker.moved", campaign_id=campaign_id, opening=opening, move=item.type)
