"""Gauges of the whole fleet, read from the counter, gate and position tables by one process: the leader of the relays.

The numbers are those that the safety gate uses, read from the same tables; nothing is counted twice and nothing in the process. One
reading takes a few milliseconds at a million devices, because it sums counters and never rows.

A reading that fails empties the gauges: a number that is missing raises an alert, a number that is old looks healthy.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.engine import RETRYABLE, driver
from orchestrator.adapters.sql.facts import PROJECTION
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.domain.boundary import BoundaryExceededError, f_star
from orchestrator.domain.breaker import Stage
from orchestrator.domain.campaign import LIVE, TERMINAL
from orchestrator.domain.gate import Cell, RuleCount, tally
from orchestrator.errors import UnavailableError
from orchestrator.telemetry.instruments import MAX_CAMPAIGNS, Board, Instruments, Point

INTERVAL: Final = 5.0
"""Seconds between two readings: a third of Prometheus' usual scrape interval."""

AFTERLIFE_MS: Final = 24 * 3_600_000
"""How long a campaign that ended is still shown: a day covers the question of the next morning."""

_LIVE: Final = sorted(LIVE)
_ENDED: Final = sorted(TERMINAL)
_HELD: Final = frozenset({Stage.OPEN, Stage.PROBING})

_CAMPAIGNS: Final = """SELECT campaign_no, campaign_id, state, release_id, phase,
  breaker->>'stage' AS stage, breaker->>'cause' AS cause FROM campaign
WHERE NOT state = ANY($1::text[]) OR updated_at > (extract(epoch FROM clock_timestamp()) * 1000)::bigint - $2
ORDER BY state = ANY($3::text[]) DESC, campaign_no DESC LIMIT $4"""
_COUNTERS: Final = """SELECT campaign_no, phase, state, sum(n)::bigint AS n FROM counter
WHERE campaign_no = ANY($1::int[]) GROUP BY campaign_no, phase, state"""
_GATES: Final = """SELECT g.campaign_no, g.phase, g.stratum, sum(g.started)::bigint AS n, sum(g.failed)::bigint AS f
FROM gate_count g JOIN control k
  ON k.campaign_no = g.campaign_no AND k.stratum = -1 AND k.gate_epoch = g.gate_epoch
WHERE g.campaign_no = ANY($1::int[]) GROUP BY g.campaign_no, g.phase, g.stratum"""
_HALTS: Final = """SELECT position, data->>'by' AS by FROM event_log
WHERE type = 'CampaignHalted' AND position > $1 ORDER BY position"""
_OUTBOX: Final = """SELECT r.consumer, greatest(h.position - r.position, 0) AS depth,
  greatest(0, (extract(epoch FROM clock_timestamp()) * 1000)::bigint - (
    SELECT e.recorded_at FROM event_log e WHERE e.position > r.position ORDER BY e.position LIMIT 1)) AS age
FROM relay_position r, event_head h"""
_POSITIONS: Final = "SELECT projection, partition, next_offset FROM projection_position WHERE topic = $1"

CAUSES: Final = ("gate", "enrolment", "operator")
"""Who orders a halt: the gate, the enrolment of a fleet that no longer fits the dossier, or a person."""

_log = structlog.get_logger(__name__)


def cause_of(by: str | None) -> str:
    """The label for ``CampaignHalted.by``, which names a person when a person halted."""
    return {"gate": "gate", "orchestrator": "enrolment"}.get(by or "", "operator")


class FleetGauges:
    """Reads the tables now and then and shows what they held.

    Args:
        engine: the relay's database connections; one is used at a time.
        instruments: where the values go.
        topic: the device events topic, with its prefix.
        log_ends: offset of the next record by partition of that topic; without it the projection's lag is not shown.
        damaged: how many partitions of it lost facts before they were read; without it that is not shown.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        instruments: Instruments,
        topic: str,
        log_ends: Callable[[], Awaitable[Mapping[int, int]]] | None = None,
        damaged: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self._engine = engine
        self._show = instruments
        self._topic = topic
        self._log_ends = log_ends
        self._damaged = damaged
        self._rules = RulesCache()
        self._halts: dict[str, int] = dict.fromkeys(CAUSES, 0)
        self._halts_until = 0

    async def run(self) -> None:
        """Read for ever. Cancel it when the leadership ends: the gauges are empty then."""
        try:
            while True:
                try:
                    await self.read()
                except RETRYABLE as error:
                    _log.warning("telemetry.fleet_unread", error=repr(error))
                    self.clear()
                await asyncio.sleep(INTERVAL)
        finally:
            self.clear()

    async def read(self) -> None:
        """One reading. Raises what the database raises."""
        async with driver(self._engine) as conn:
            campaigns = await conn.fetch(_CAMPAIGNS, _ENDED, AFTERLIFE_MS, _LIVE, MAX_CAMPAIGNS)
            numbers = [row["campaign_no"] for row in campaigns]
            counters = await conn.fetch(_COUNTERS, numbers)
            gates = await conn.fetch(_GATES, numbers)
            rules = await self._rules.get(conn, numbers)
            halts = await conn.fetch(_HALTS, self._halts_until)
            outbox = await conn.fetch(_OUTBOX)
            positions = await conn.fetch(_POSITIONS, self._topic)
        self._show_campaigns(campaigns, counters)
        self._show_gates(campaigns, gates, rules)
        self._show_halts(halts)
        self._show.outbox_depth.replace((row["depth"], {"consumer": row["consumer"]}) for row in outbox)
        self._show.outbox_oldest_age.replace(
            ((row["age"] or 0) / 1_000, {"consumer": row["consumer"]}) for row in outbox
        )
        await self._show_lag(positions)
        await self._show_damage()

    def clear(self) -> None:
        """Show nothing."""
        for board in self._boards():
            board.replace(())

    def _boards(self) -> Sequence[Board]:
        show = self._show
        return (
            show.device_count,
            show.campaign_info,
            show.breaker_held,
            show.harm_ratio,
            show.harm_ratio_limit,
            show.halts,
            show.outbox_depth,
            show.outbox_oldest_age,
            show.position_lag,
            show.log_damaged,
        )

    def _show_campaigns(self, campaigns: Sequence[asyncpg.Record], counters: Sequence[asyncpg.Record]) -> None:
        ids = {row["campaign_no"]: row["campaign_id"] for row in campaigns}
        self._show.campaign_info.replace(
            (1, {"campaign.id": row["campaign_id"], "state": row["state"], "release": row["release_id"]})
            for row in campaigns
        )
        self._show.breaker_held.replace(
            (1, {"campaign.id": row["campaign_id"], "stage": row["stage"], "cause": row["cause"]})
            for row in campaigns
            if row["stage"] in _HELD
        )
        self._show.device_count.replace(
            (
                row["n"],
                {"campaign.id": ids[row["campaign_no"]], "phase": str(row["phase"]), "device.state": row["state"]},
            )
            for row in counters
        )

    def _show_gates(
        self, campaigns: Sequence[asyncpg.Record], gates: Sequence[asyncpg.Record], rules: Mapping[int, CampaignRules]
    ) -> None:
        cells: dict[int, list[Cell]] = defaultdict(list)
        for row in gates:
            known = rules.get(row["campaign_no"])
            if known is not None:
                cells[row["campaign_no"]].append(Cell(row["phase"], known.strata[row["stratum"]], row["n"], row["f"]))
        ratios: list[Point] = []
        limits: list[Point] = []
        for row in campaigns:
            no = row["campaign_no"]
            if no not in cells:
                continue
            counts = tally(rules[no].dossier.rules, cells[no])
            for (rule, phase), (count, bound) in _nearest(counts, max(row["phase"], 0)).items():
                labels = {"campaign.id": row["campaign_id"], "phase": str(phase), "rule": rule}
                ratios.append((count.f / count.n, labels))
                if bound is not None:
                    limits.append((bound / count.n, labels))
        self._show.harm_ratio.replace(ratios)
        self._show.harm_ratio_limit.replace(limits)

    def _show_halts(self, halts: Sequence[asyncpg.Record]) -> None:
        for row in halts:
            self._halts[cause_of(row["by"])] += 1
            self._halts_until = row["position"]
        self._show.halts.replace((n, {"cause": cause}) for cause, n in self._halts.items())

    async def _show_lag(self, positions: Sequence[asyncpg.Record]) -> None:
        if self._log_ends is None:
            return
        reached: dict[str, dict[int, int]] = defaultdict(dict)
        for row in positions:
            reached[row["projection"]][row["partition"]] = row["next_offset"]
        try:
            # Read after the positions: a lag that is too large for a moment is right, a negative one is not.
            ends = await self._log_ends()
        except UnavailableError as error:
            _log.warning("telemetry.lag_unread", error=error.detail)
            self._show.position_lag.replace(())
            return
        self._show.position_lag.replace(
            (sum(max(0, end - at.get(partition, 0)) for partition, end in ends.items()), {"projection": projection})
            for projection, at in reached.items()
        )

    async def _show_damage(self) -> None:
        if self._damaged is None:
            return
        try:
            self._show.log_damaged.replace([(await self._damaged(), {"projection": PROJECTION})])
        except UnavailableError as error:
            _log.warning("telemetry.damage_unread", error=error.detail)
            self._show.log_damaged.replace(())


def _nearest(counts: Sequence[RuleCount], running: int) -> dict[tuple[str, int], tuple[RuleCount, int | None]]:
    """Per rule and phase the process that is nearest to its bound, with that bound.

    Rules of other scopes than the phase count as the running phase's.
    """
    found: dict[tuple[str, int], tuple[RuleCount, int | None]] = {}
    nearness: dict[tuple[str, int], tuple[float, int]] = {}
    for count in counts:
        if not count.n:
            continue
        bound = _bound(count)
        kind, _, number = count.scope_key.partition("/")
        key = (count.table.name, int(number) if kind == "phase" else running)
        near = (count.f / bound if bound else 0.0, count.n)
        if key not in found or near > nearness[key]:
            found[key], nearness[key] = (count, bound), near
    return found


def _bound(count: RuleCount) -> int | None:
    try:
        needed = f_star(count.table.horizons, count.n)
    except BoundaryExceededError:
        return None
    return None if needed is None else max(needed, count.table.min_failures)
