"""Taking devices out of the offer queue, up to the room that a slice has.

A campaign that nobody stands before takes the next devices in one statement. One with a budget, with a campaign of higher priority
beside it, or one that takes offers over, looks at them first, page by page: whoever may not go now gets a later time in the queue,
so that a full site, or devices that wait for another campaign, cannot keep what is behind them from being reached.

Not here: slots. What is claimed may still turn out to be busy, and is put back then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from orchestrator.adapters.sql import budget, remediation, schedules, sieve
from orchestrator.adapters.sql.locks import own_budget
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.adapters.sql.selection import attribute_names, value_columns
from orchestrator.domain.budget import Candidate, Place, Usage, admit
from orchestrator.domain.conflict import freed_at_once, goes_first, look_again
from schemas.ledger import Cause

CHOICE: Final = 4
"""A slice chooses among so many times its devices: those seen recently go first, because a sleeping one would only occupy room until
its offer expires. More would let strata fall out of step."""

PAGE: Final = 4_000
"""Most entries that are looked at in one statement; each look is four times as long as the one before, up to here."""

LOOK: Final = 10_000
"""Entries after which a slice looks no further: what it passed over comes later, so the next one begins behind it."""

AT_ONCE: Final = 500
"""Devices that another campaign has or gets and that are looked at again in one step: as many as a worker's slice takes."""

# Materialized, because a plan may otherwise run the limited part again for each row, and claim more than the limit.
_CLAIM: Final = f"""WITH near AS MATERIALIZED (
    SELECT rank, device_no FROM offer_queue
    WHERE campaign_no = $1 AND phase = $2 AND not_before <= $3 AND stratum <> ALL($5::smallint[]) AND rank <= $7
    ORDER BY rank LIMIT $4 * {CHOICE} FOR UPDATE SKIP LOCKED),
c AS MATERIALIZED (
    SELECT rank FROM near LEFT JOIN presence USING (device_no)
    ORDER BY coalesce(last_seen_at, 0) < $6, rank LIMIT $4)
DELETE FROM offer_queue q USING c
WHERE q.campaign_no = $1 AND q.phase = $2 AND q.rank = c.rank RETURNING q.rank, q.device_no, q.stratum, q.attempt"""
_DUE: Final = """SELECT EXISTS (SELECT FROM offer_queue
WHERE campaign_no = $1 AND phase = $2 AND not_before <= $3 AND stratum <> ALL($4::smallint[]))"""
_LOOK: Final = """WITH near AS MATERIALIZED (
    SELECT rank, device_no, stratum, attempt FROM offer_queue
    WHERE campaign_no = $1 AND phase = $2 AND not_before <= $3 AND stratum <> ALL($5::smallint[]) AND rank <= $7
    ORDER BY rank LIMIT $4 FOR UPDATE SKIP LOCKED)
SELECT near.*, s.campaign_no AS holder{values} FROM near LEFT JOIN presence USING (device_no)
LEFT JOIN device_slot s USING (device_no) LEFT JOIN device USING (device_no) ORDER BY coalesce(last_seen_at, 0) < $6, rank"""
_TAKE: Final = "DELETE FROM offer_queue WHERE campaign_no = $1 AND phase = $2 AND rank = ANY($3::int[])"
_LATER: Final = """UPDATE offer_queue q SET not_before = u.t FROM unnest($3::int[], $4::bigint[]) u(r, t)
WHERE q.campaign_no = $1 AND q.phase = $2 AND q.rank = u.r"""
_RUNNING: Final = """SELECT c.campaign_no, c.phase FROM control k JOIN campaign c USING (campaign_no)
WHERE k.stratum = -1 AND k.state = 'running' AND c.phase >= 0 AND c.campaign_no <> $1"""
_WAITING: Final = """SELECT DISTINCT q.device_no FROM unnest($1::int[]) u(d) JOIN offer_queue q ON q.device_no = u.d
JOIN unnest($2::int[], $3::smallint[]) f(campaign_no, phase) ON q.campaign_no = f.campaign_no AND q.phase <= f.phase
WHERE q.not_before <= $4 AND NOT EXISTS (SELECT FROM control k
    WHERE k.campaign_no = q.campaign_no AND k.stratum = q.stratum AND k.state = 'halted')"""


@dataclass(slots=True)
class Claim:
    """Devices that are in the queue no more, and how many were sent back into it."""

    rows: list[asyncpg.Record] = field(default_factory=list[asyncpg.Record])
    """With ``rank``, ``device_no``, ``stratum``, ``attempt``."""
    held: dict[int, int] = field(default_factory=dict[int, int])
    """Those that hold a slot, and the campaign that may have to give it up."""
    dismissed: dict[int, Cause] = field(default_factory=dict[int, Cause])
    """Those that are let go, because a remediation is not for them any more."""
    over_budget: int = 0
    outranked: int = 0


@dataclass(frozen=True, slots=True)
class Asking:
    """A slice that asks for devices at ``now`` (ms), without the strata that were ``halted`` alone."""

    rules: CampaignRules
    phase: int
    now: int
    room: int
    halted: Sequence[int]

    @property
    def recently(self) -> int:
        return self.now - self.rules.offer_ttl


async def claim(conn: asyncpg.Connection, cache: RulesCache, asking: Asking) -> Claim:
    """Take up to ``room`` devices out of the queue."""
    rules = asking.rules
    plan = rules.dossier.plan
    before = await _before(conn, cache, rules, asking.now)
    if not plan.budget and not before and plan.supersede == "never":
        last = await _sieved(conn, asking, asking.room * CHOICE)
        rows = await conn.fetch(
            _CLAIM, rules.campaign_no, asking.phase, asking.now, asking.room, asking.halted, asking.recently, last
        )
        return Claim(rows=rows, dismissed=await remediation.dismissed(conn, plan, _firsts(rows)))
    if not await conn.fetchval(_DUE, rules.campaign_no, asking.phase, asking.now, asking.halted):
        return Claim()  # nothing to count for
    usage = Usage()
    if plan.budget:
        await own_budget(conn)
        usage = await budget.usage(conn, rules.dossier.budget)
    last = await _sieved(conn, asking, LOOK)
    return await _Look(conn, cache, asking, before, usage, last).all()


async def _sieved(conn: asyncpg.Connection, asking: Asking, wanted: int) -> int:
    """Put off those whom their owners or their last report withhold; nobody up to this rank is left that is due and withheld."""
    return await sieve.put_off(conn, asking.rules, asking.phase, asking.now, wanted, asking.halted)


async def _before(conn: asyncpg.Connection, cache: RulesCache, rules: CampaignRules, now: int) -> dict[int, int]:
    """Running campaigns of higher priority that may offer now, and the phase that each has opened."""
    own = rules.dossier.plan.priority
    phases = {row["campaign_no"]: row["phase"] for row in await conn.fetch(_RUNNING, rules.campaign_no)}
    others = await cache.get(conn, phases)
    return {
        no: phases[no]
        for no, other in others.items()
        if goes_first(other.dossier.plan.priority, own) and not schedules.shut(other, now)
    }


def _firsts(rows: Sequence[asyncpg.Record]) -> list[int]:
    return [row["device_no"] for row in rows if row["attempt"] == 1]


def passed_over(asking: Asking, device_no: int) -> int:
    """When to look again (ms) at a device that another campaign has or gets; its line is at most the phase."""
    return look_again(asking.now, device_no, asking.rules.dossier.phases[asking.phase].size, AT_ONCE)


class _Look:
    """One slice's look at the queue."""

    def __init__(
        self,
        conn: asyncpg.Connection,
        cache: RulesCache,
        asking: Asking,
        before: Mapping[int, int],
        usage: Usage,
        last: int,
    ) -> None:
        self._conn = conn
        self._cache = cache
        self._asking = asking
        self._before = before
        self._usage = usage
        self._last = last
        self._found = Claim()
        labels = [rule.label for rule in asking.rules.dossier.budget]
        self._names = attribute_names(labels)
        columns = value_columns(labels, 8)
        self._columns = [f"v{number}" for number, _ in enumerate(columns)]
        self._query = _LOOK.format(values="".join(f", {c} AS {n}" for c, n in zip(columns, self._columns, strict=True)))

    async def all(self) -> Claim:
        """Page after page, until the room is filled or there is nothing more to look at."""
        looked, size = 0, min(PAGE, self._asking.room * CHOICE)
        while looked < LOOK and len(self._found.rows) < self._asking.room:
            page = await self._conn.fetch(self._query, *self._key, self._asking.now, size, *self._rest)
            await self._sort(page)
            if len(page) < size:
                break
            looked, size = looked + size, min(PAGE, size * CHOICE)
        return self._found

    @property
    def _key(self) -> tuple[int, int]:
        return self._asking.rules.campaign_no, self._asking.phase

    @property
    def _rest(self) -> tuple[Any, ...]:
        return self._asking.halted, self._asking.recently, self._last, *self._names

    async def _sort(self, page: Sequence[asyncpg.Record]) -> None:
        """Take those of a page that may go, as far as there is room; the others get a later time."""
        devices = [row["device_no"] for row in page]
        asking = self._asking
        later = await schedules.outside(self._conn, asking.rules, devices, asking.now)
        outranked = await self._outranked([device for device in devices if device not in later])
        later |= {device: passed_over(asking, device) for device in outranked}
        self._found.outranked += len(outranked)
        lower = await self._lower({row["holder"] for row in page if row["holder"] is not None})
        gone = await remediation.dismissed(self._conn, asking.rules.dossier.plan, _firsts(page))
        later = {device: at for device, at in later.items() if device not in gone}
        candidates: list[Candidate] = []
        for row in page:
            device, holder = row["device_no"], row["holder"]
            if device in later or device in gone:
                continue
            if holder is not None and holder not in lower:
                later[device] = passed_over(asking, device)
                continue
            candidates.append(Candidate(device, tuple(row[name] for name in self._columns), holder is not None))
        room = max(0, asking.room - len(self._found.rows))
        admission = admit(candidates, self._usage, asking.rules.dossier.budget, room)
        self._usage = admission.usage
        self._found.over_budget += len(admission.refused)
        later |= {device: self._refused(device, place) for device, place in admission.refused.items()}
        admitted = set(admission.admitted)
        taken = [row for row in page if row["device_no"] in admitted or row["device_no"] in gone]
        self._found.rows += taken
        self._found.dismissed |= gone
        self._found.held |= {
            row["device_no"]: row["holder"]
            for row in taken
            if row["holder"] is not None and row["device_no"] not in gone
        }
        if taken:
            await self._conn.execute(_TAKE, *self._key, [row["rank"] for row in taken])
        put_off = [(row["rank"], later[row["device_no"]]) for row in page if row["device_no"] in later]
        if put_off:
            await self._conn.execute(_LATER, *self._key, *(list(column) for column in zip(*put_off, strict=True)))

    def _refused(self, device_no: int, place: Place) -> int:
        """When to look again at a device whose place is full: its line is at most as long as the place has devices."""
        number, value = place
        limits = self._asking.rules.dossier.budget[number]
        limit = limits.limit(value)
        return look_again(self._asking.now, device_no, limits.devices.get(value, limit), freed_at_once(limit))

    async def _outranked(self, devices: Collection[int]) -> set[int]:
        """Those that wait, due now, for a campaign that goes first."""
        if not self._before or not devices:
            return set()
        campaigns, phases = list(self._before), list(self._before.values())
        rows = await self._conn.fetch(_WAITING, list(devices), campaigns, phases, self._asking.now)
        return {row["device_no"] for row in rows}

    async def _lower(self, holders: Collection[int]) -> set[int]:
        """Those of the campaigns whose unstarted offers this one takes over."""
        plan = self._asking.rules.dossier.plan
        if plan.supersede == "never" or not holders:
            return set()
        others = await self._cache.get(self._conn, holders)
        return {no for no, other in others.items() if goes_first(plan.priority, other.dossier.plan.priority)}
