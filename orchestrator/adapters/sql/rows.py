"""Assignment rows and everything that is counted from them.

Whoever changes assignments, projector or decision, does it in the same way: read ``FOR UPDATE`` in key order, fold with the domain's
functions, hand the old and the new row to :class:`Changes`, write. Counters move by the difference of what the two rows contribute,
so they always equal a recount of the rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import ne
from typing import Any, Final

import asyncpg
import msgspec
from msgspec.structs import astuple

from orchestrator.adapters.sql.rules import CampaignRules
from orchestrator.domain.assignment import (
    ACTIVE,
    IN_TRIAL,
    UNRESOLVED,
    Assignment,
    Claim,
    State,
    claim,
    contributions,
    maturity,
    shape,
    strength,
)
from orchestrator.domain.delivery import delivery

Key = tuple[int, int]
"""(device_no, campaign_no), the order in which rows are locked."""

_FIELDS = Assignment.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)
_TYPES = {
    "campaign_no": "int",
    "device_no": "int",
    "phase": "smallint",
    "stratum": "smallint",
    "attempt": "smallint",
    "gate_epoch": "smallint",
    "first_started_epoch": "smallint",
    "state": "text",
    "progress": "text",
    "failure_class": "text",
    "reason": "text",
    "failed_class": "text",
}
_KEY: Final = ("device_no", "campaign_no")
_MUTABLE: Final = tuple(name in {*_FIELDS} - {*_KEY, "phase", "stratum"} for name in _FIELDS)

QUEUED: Final = ("campaign_no", "phase", "rank", "device_no", "stratum", "attempt", "not_before")
"""Columns of ``offer_queue`` that an entry begins with."""

OWN_STATEMENT: Final = 64
"""Rows that change the same columns from which on they are written by a statement of their own: the driver looks at every element of
every array it sends, which costs more than a statement. Fewer rows go with the others, all their columns in one statement."""


def _arrays(names: Iterable[str]) -> str:
    return ", ".join(f"${i}::{_TYPES.get(name, 'bigint')}[]" for i, name in enumerate(names, 1))


@cache
def _update(changed: tuple[bool, ...]) -> tuple[tuple[int, ...], str]:
    """Which fields an UPDATE of the ``changed`` columns takes, key first, and its text."""
    names = tuple(name for name, differs in zip(_FIELDS, changed, strict=True) if differs)
    text = f"""UPDATE assignment a SET {", ".join(f"{name} = u.{name}" for name in names)}
FROM unnest({_arrays(_KEY + names)}) u({", ".join(_KEY + names)})
WHERE a.device_no = u.device_no AND a.campaign_no = u.campaign_no"""
    return tuple(_FIELDS.index(name) for name in _KEY + names), text


_READ = f"""SELECT {", ".join(f"a.{name}" for name in _FIELDS)} FROM unnest($1::int[], $2::int[]) u(d, c)
JOIN assignment a ON a.device_no = u.d AND a.campaign_no = u.c ORDER BY a.device_no, a.campaign_no FOR UPDATE OF a"""
_INSERT = f"INSERT INTO assignment ({_COLUMNS}) SELECT * FROM unnest({_arrays(_FIELDS)})"
_COUNTER = """INSERT INTO counter AS t (campaign_no, phase, stratum, state, shard, n)
SELECT c, p, s, st, $5, n FROM unnest($1::int[], $2::smallint[], $3::smallint[], $4::text[], $6::bigint[]) u(c, p, s, st, n)
ON CONFLICT (campaign_no, phase, stratum, state, shard) DO UPDATE SET n = t.n + excluded.n"""
_GATE_COUNT = """INSERT INTO gate_count AS t (campaign_no, gate_epoch, phase, stratum, shard, started, failed)
SELECT c, e, p, s, $5, n, f
FROM unnest($1::int[], $2::smallint[], $3::smallint[], $4::smallint[], $6::bigint[], $7::bigint[]) u(c, e, p, s, n, f)
ON CONFLICT (campaign_no, gate_epoch, phase, stratum, shard)
DO UPDATE SET started = t.started + excluded.started, failed = t.failed + excluded.failed"""
_MATURITY = """INSERT INTO maturity AS t (campaign_no, phase, gate_epoch, bucket, stratum, shard, started, good, excluded)
SELECT c, p, e, b, s, $6, n, g, x
FROM unnest($1::int[], $2::smallint[], $3::smallint[], $4::bigint[], $5::smallint[], $7::bigint[], $8::bigint[], $9::bigint[])
    u(c, p, e, b, s, n, g, x)
ON CONFLICT (campaign_no, phase, gate_epoch, bucket, stratum, shard)
DO UPDATE SET started = t.started + excluded.started, good = t.good + excluded.good, excluded = t.excluded + excluded.excluded"""
_DELIVERY = """INSERT INTO delivery AS t (campaign_no, bucket, outcome, shard, n)
SELECT c, b, o, $4, n FROM unnest($1::int[], $2::bigint[], $3::text[], $5::bigint[]) u(c, b, o, n)
ON CONFLICT (campaign_no, bucket, outcome, shard) DO UPDATE SET n = t.n + excluded.n"""


def _texts(states: Iterable[State]) -> str:
    return ", ".join(f"'{state}'" for state in sorted(states))


HOLDS: Final = f"""(a.state IN ({_texts(ACTIVE)})
    OR (a.state IN ({_texts(UNRESOLVED)}) AND a.progress IN ({_texts(IN_TRIAL)})))"""
"""What ``holds_slot`` says of a row ``a``; a test compares the two."""

_HOLDERS = f"""SELECT a.device_no, a.campaign_no, a.attempt, a.progress, a.action_id
FROM unnest($1::int[]) u(d) JOIN assignment a ON a.device_no = u.d WHERE {HOLDS}
ORDER BY a.device_no, a.campaign_no FOR UPDATE OF a"""
_FREE = "DELETE FROM device_slot WHERE device_no = ANY($1::int[])"
# A slot that is there for a row that this statement cannot see belongs to an offer that was committed meanwhile, and stays.
_HOLD = """INSERT INTO device_slot AS s (device_no, campaign_no, attempt)
SELECT * FROM unnest($1::int[], $2::int[], $3::smallint[]) ON CONFLICT (device_no)
DO UPDATE SET campaign_no = excluded.campaign_no, attempt = excluded.attempt
WHERE (s.campaign_no, s.attempt) <> (excluded.campaign_no, excluded.attempt) AND EXISTS (SELECT FROM assignment a
    WHERE a.device_no = s.device_no AND a.campaign_no = s.campaign_no AND a.attempt >= s.attempt)"""
_OTHERS = """SELECT u.d FROM unnest($1::int[], $2::int[]) u(d, c) LEFT JOIN device_slot s ON s.device_no = u.d
WHERE s.campaign_no IS DISTINCT FROM u.c"""
_DUE = """INSERT INTO due_queue (due_at, campaign_no, device_no, attempt, what)
SELECT * FROM unnest($1::bigint[], $2::int[], $3::int[], $4::smallint[], $5::text[]) ON CONFLICT DO NOTHING"""


def parse(rows: Iterable[Sequence[Any] | asyncpg.Record]) -> list[Assignment]:
    """Rows as selected in field order."""
    return msgspec.convert(list(map(tuple, rows)), list[Assignment])


async def lock(conn: asyncpg.Connection, keys: Iterable[Key]) -> dict[Key, Assignment]:
    """Read and lock these rows in key order; missing ones are absent."""
    ordered = sorted(set(keys))
    if not ordered:
        return {}
    rows = await conn.fetch(_READ, [key[0] for key in ordered], [key[1] for key in ordered])
    return {(row.device_no, row.campaign_no): row for row in parse(rows)}


async def read(conn: asyncpg.Connection, campaign_no: int, devices: Sequence[int]) -> dict[int, Assignment]:
    """Read a campaign's rows of these devices, without a lock; missing ones are absent."""
    found = await conn.fetch(
        f"SELECT {_COLUMNS} FROM assignment WHERE campaign_no = $1 AND device_no = ANY($2::int[])", campaign_no, devices
    )
    return {row.device_no: row for row in parse(found)}


def _columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


class Changes:
    """Differences that one transaction makes to assignments, written together in the lock order."""

    def __init__(self, rules: Mapping[int, CampaignRules], shard: int) -> None:
        self._rules = rules
        self._shard = shard
        self._inserted: dict[Key, Assignment] = {}
        self._updated: dict[Key, tuple[Assignment, Assignment]] = {}
        self._settle: set[int] = set()
        """Devices whose slot may change hands."""
        self._raised: set[Key] = set()
        """Rows that hold and claim more than they did: their device's slot changes hands if it is another one's."""
        self._shapes: dict[tuple[int, tuple[Any, ...], tuple[int, str] | None], list[Any]] = {}

    def add(self, old: Assignment | None, new: Assignment) -> None:
        """Take in one row's change. May be called for a row again, with the row as it stands then."""
        if old == new:
            return
        key = (new.device_no, new.campaign_no)
        if old is None or key in self._inserted:
            self._inserted[key] = new
        else:
            self._updated[key] = (self._updated[key][0] if key in self._updated else old, new)
        if old is not None:
            # One that was written off as silent may say that it is in trial, and hold its slot again.
            before, after = claim(old), claim(new)
            if before != after:
                if _is_raised(before, after):
                    self._raised.add(key)
                else:
                    self._settle.add(new.device_no)
            self._count(old, -1)
        self._count(new, 1)

    def _count(self, row: Assignment, n: int) -> None:
        """Rows are counted by shape, and what a shape adds to the counters is looked up once, when they are written."""
        rules = self._rules[row.campaign_no]
        key = (row.campaign_no, shape(row, rules.bucket), delivery(row, rules.delivery))
        found = self._shapes.get(key)
        if found is None:
            self._shapes[key] = [row, n]
        else:
            found[1] += n

    async def write(self, conn: asyncpg.Connection) -> None:
        """Rows, slots, counters: in this order, sorted by key within each."""
        if self._inserted:
            await conn.execute(_INSERT, *_columns([astuple(self._inserted[k]) for k in sorted(self._inserted)]))
        for changed, values in _by_change(self._updated[key] for key in sorted(self._updated)):
            fields, text = _update(changed)
            columns = list(zip(*values, strict=True))
            await conn.execute(text, *(columns[i] for i in fields))
        await settle_slots(conn, self._settle | await _held_by_others(conn, self._raised))
        await self._write_counters(conn)

    async def _write_counters(self, conn: asyncpg.Connection) -> None:
        by_state: dict[tuple[int, int, int, str], int] = defaultdict(int)
        by_epoch: dict[tuple[int, int, int, int], list[int]] = defaultdict(lambda: [0, 0])
        by_bucket: dict[tuple[int, int, int, int, int], list[int]] = defaultdict(lambda: [0, 0, 0])
        by_outcome: dict[tuple[int, int, str], int] = defaultdict(int)
        for (no, _, outcome), (row, rows) in self._shapes.items():
            if outcome is not None:
                by_outcome[no, *outcome] += rows
            for kind, phase, stratum, what in contributions(row):
                if kind == "state":
                    by_state[no, phase, stratum, str(what)] += rows
                else:
                    by_epoch[no, int(what), phase, stratum][kind == "failed"] += rows
            mature = maturity(row, self._rules[no].bucket)
            if mature is not None:
                (phase, stratum, epoch, number), counts = mature
                cell = by_bucket[no, phase, epoch, number, stratum]
                for i, count in enumerate(counts):
                    cell[i] += rows * count
        states = [(*key, n) for key, n in sorted(by_state.items()) if n]
        if states:
            c, p, s, st, n = _columns(states)
            await conn.execute(_COUNTER, c, p, s, st, self._shard, n)
        gate = [(*key, *n) for key, n in sorted(by_epoch.items()) if any(n)]
        if gate:
            c, e, p, s, n, f = _columns(gate)
            await conn.execute(_GATE_COUNT, c, e, p, s, self._shard, n, f)
        mature = [(*key, *n) for key, n in sorted(by_bucket.items()) if any(n)]
        if mature:
            c, p, e, b, s, n, g, x = _columns(mature)
            await conn.execute(_MATURITY, c, p, e, b, s, self._shard, n, g, x)
        outcomes = [(*key, n) for key, n in sorted(by_outcome.items()) if n]
        if outcomes:
            c, b, o, n = _columns(outcomes)
            await conn.execute(_DELIVERY, c, b, o, self._shard, n)


def _is_raised(before: Claim | None, after: Claim | None) -> bool:
    """Whether the same attempt holds on and claims more: every device that installs does, and has had its slot almost always."""
    return before is not None and after is not None and before < after and before[1] == after[1]


async def _held_by_others(conn: asyncpg.Connection, keys: Iterable[Key]) -> set[int]:
    """Devices whose slot is not that of the campaign they are named with."""
    ordered = sorted(keys)
    return {row["d"] for row in await conn.fetch(_OTHERS, *_columns(ordered))} if ordered else set()


async def settle_slots(conn: asyncpg.Connection, devices: Iterable[int]) -> None:
    """Give each of these devices' slots to the row that holds it, or free it.

    Two rows may hold: one campaign wrote the device off as silent, or gave it up to another, the next got it, and then it says that it
    is in trial of the first. The one in trial has the slot, so what the other offers is hidden; else the one that was offered last. It
    stays taken until both are over. Rows of other campaigns are locked out of order here; such a deadlock is retried.
    """
    left = await _settle(conn, devices)
    # An offer may have been committed while its slot was waited for: now its row is seen, and locked.
    await _settle(conn, left)


async def _settle(conn: asyncpg.Connection, devices: Iterable[int]) -> set[int]:
    """One look at the rows; the devices whose slot is that of a row which it did not see."""
    ordered = sorted(devices)
    if not ordered:
        return set()
    owners: dict[int, tuple[Claim, asyncpg.Record]] = {}
    for row in await conn.fetch(_HOLDERS, ordered):
        claims, known = strength(State(row["progress"]), row["action_id"]), owners.get(row["device_no"])
        if known is None or known[0] < claims:
            owners[row["device_no"]] = claims, row
    free = [device for device in ordered if device not in owners]
    if free:
        await conn.execute(_FREE, free)
    if not owners:
        return set()
    held = [owners[device][1] for device in sorted(owners)]
    await conn.execute(_HOLD, *_columns([row[:3] for row in held]))
    return await _held_by_others(conn, [(row["device_no"], row["campaign_no"]) for row in held])


def _by_change(
    pairs: Iterable[tuple[Assignment, Assignment]],
) -> list[tuple[tuple[bool, ...], list[tuple[Any, ...]]]]:
    """New values by the columns in which they differ from the old ones; small groups together, under all columns."""
    groups: dict[tuple[bool, ...], list[tuple[Any, ...]]] = defaultdict(list)
    for old, new in pairs:
        values = astuple(new)
        groups[tuple(map(ne, astuple(old), values))].append(values)
    large = [(changed, values) for changed, values in groups.items() if len(values) >= OWN_STATEMENT]
    rest = [value for values in groups.values() if len(values) < OWN_STATEMENT for value in values]
    return [*large, (_MUTABLE, rest)] if rest else large


async def queue_due(conn: asyncpg.Connection, entries: Iterable[tuple[int, int, int, int, str]]) -> None:
    """File (due_at, campaign_no, device_no, attempt, what) for the sweep; an entry that is filed already stays."""
    ordered = sorted(entries)
    if ordered:
        await conn.execute(_DUE, *_columns(ordered))
