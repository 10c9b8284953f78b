"""Assignment rows and everything that is counted from them.

Whoever changes assignments, projector or decision, does it in the same way: read ``FOR UPDATE`` in key order, fold with the domain's
functions, hand the old and the new row to :class:`Changes`, write. Counters move by the difference of what the two rows contribute,
so they always equal a recount of the rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import asyncpg
from msgspec.structs import astuple

from orchestrator.adapters.sql.rules import CampaignRules
from orchestrator.domain.assignment import Assignment, State, contributions, holds_slot, maturity

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
_ARRAYS = ", ".join(f"${i}::{_TYPES.get(name, 'bigint')}[]" for i, name in enumerate(_FIELDS, 1))
_MUTABLE = tuple(name for name in _FIELDS if name not in {"campaign_no", "device_no", "phase", "stratum"})

_READ = f"""SELECT {", ".join(f"a.{name}" for name in _FIELDS)} FROM unnest($1::int[], $2::int[]) u(d, c)
JOIN assignment a ON a.device_no = u.d AND a.campaign_no = u.c ORDER BY a.device_no, a.campaign_no FOR UPDATE OF a"""
_INSERT = f"INSERT INTO assignment ({_COLUMNS}) SELECT * FROM unnest({_ARRAYS})"
_UPDATE = f"""UPDATE assignment a SET {", ".join(f"{name} = u.{name}" for name in _MUTABLE)}
FROM unnest({_ARRAYS}) u({_COLUMNS}) WHERE a.device_no = u.device_no AND a.campaign_no = u.campaign_no"""
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
_RELEASE = """DELETE FROM device_slot s USING unnest($1::int[], $2::int[]) u(d, c)
WHERE s.device_no = u.d AND s.campaign_no = u.c"""
_HOLD = """INSERT INTO device_slot (device_no, campaign_no, attempt)
SELECT * FROM unnest($1::int[], $2::int[], $3::smallint[]) ON CONFLICT DO NOTHING"""
_DUE = """INSERT INTO due_queue (due_at, campaign_no, device_no, attempt, what)
SELECT * FROM unnest($1::bigint[], $2::int[], $3::int[], $4::smallint[], $5::text[]) ON CONFLICT DO NOTHING"""


_STATES = {state.value: state for state in State}


def parse(row: Sequence[Any] | asyncpg.Record) -> Assignment:
    """A row as selected in field order."""
    values = dict(zip(_FIELDS, row, strict=True))
    values["state"] = _STATES[values["state"]]
    values["progress"] = _STATES[values["progress"]]
    return Assignment(**values)


async def lock(conn: asyncpg.Connection, keys: Iterable[Key]) -> dict[Key, Assignment]:
    """Read and lock these rows in key order; missing ones are absent."""
    ordered = sorted(set(keys))
    if not ordered:
        return {}
    rows = await conn.fetch(_READ, [key[0] for key in ordered], [key[1] for key in ordered])
    parsed = map(parse, rows)
    return {(row.device_no, row.campaign_no): row for row in parsed}


def _columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


class Changes:
    """Differences that one transaction makes to assignments, written together in the lock order."""

    def __init__(self, rules: Mapping[int, CampaignRules], shard: int) -> None:
        self._rules = rules
        self._shard = shard
        self._inserted: dict[Key, Assignment] = {}
        self._updated: dict[Key, Assignment] = {}
        self._released: set[Key] = set()
        self._held: dict[Key, int] = {}
        self._states: dict[tuple[int, int, int, str], int] = defaultdict(int)
        self._gate: dict[tuple[int, int, int, int], list[int]] = defaultdict(lambda: [0, 0])
        self._mature: dict[tuple[int, int, int, int, int], list[int]] = defaultdict(lambda: [0, 0, 0])
        self.new_failures: dict[int, list[Assignment]] = defaultdict(list)
        """Rows, by campaign, that got their first release failure here, in the order they were handed in."""

    def add(self, old: Assignment | None, new: Assignment) -> None:
        """Take in one row's change. May be called for a row again, with the row as it stands then."""
        if old == new:
            return
        key = (new.device_no, new.campaign_no)
        if old is None or key in self._inserted:
            self._inserted[key] = new
        else:
            self._updated[key] = new
        if old is not None and holds_slot(old) and not holds_slot(new):
            self._released.add(key)
        elif old is not None and old.attempt == new.attempt and holds_slot(new) and not holds_slot(old):
            self._held[key] = new.attempt  # written off as silent, and now it says that it is in trial
        if new.failed_at is not None and (old is None or old.failed_at is None):
            self.new_failures[new.campaign_no].append(new)
        bucket = self._rules[new.campaign_no].bucket
        for row, sign in ((old, -1), (new, 1)):
            if row is None:
                continue
            for kind, phase, stratum, what in contributions(row):
                if kind == "state":
                    self._states[row.campaign_no, phase, stratum, str(what)] += sign
                else:
                    self._gate[row.campaign_no, int(what), phase, stratum][kind == "failed"] += sign
            mature = maturity(row, bucket)
            if mature is not None:
                (phase, stratum, epoch, number), counts = mature
                cell = self._mature[row.campaign_no, phase, epoch, number, stratum]
                for i, count in enumerate(counts):
                    cell[i] += sign * count

    async def write(self, conn: asyncpg.Connection) -> None:
        """Rows, slots, counters: in this order, sorted by key within each."""
        if self._inserted:
            await conn.execute(_INSERT, *_columns([astuple(self._inserted[k]) for k in sorted(self._inserted)]))
        if self._updated:
            await conn.execute(_UPDATE, *_columns([astuple(self._updated[k]) for k in sorted(self._updated)]))
        if self._released:
            await conn.execute(_RELEASE, *_columns(sorted(self._released)))
        if self._held:
            await conn.execute(_HOLD, *_columns([(*key, self._held[key]) for key in sorted(self._held)]))
        states = [(*key, n) for key, n in sorted(self._states.items()) if n]
        if states:
            c, p, s, st, n = _columns(states)
            await conn.execute(_COUNTER, c, p, s, st, self._shard, n)
        gate = [(*key, *n) for key, n in sorted(self._gate.items()) if any(n)]
        if gate:
            c, e, p, s, n, f = _columns(gate)
            await conn.execute(_GATE_COUNT, c, e, p, s, self._shard, n, f)
        mature = [(*key, *n) for key, n in sorted(self._mature.items()) if any(n)]
        if mature:
            c, p, e, b, s, n, g, x = _columns(mature)
            await conn.execute(_MATURITY, c, p, e, b, s, self._shard, n, g, x)


async def queue_due(conn: asyncpg.Connection, entries: Iterable[tuple[int, int, int, int, str]]) -> None:
    """File (due_at, campaign_no, device_no, attempt, what) for the sweep; an entry that is filed already stays."""
    ordered = sorted(entries)
    if ordered:
        await conn.execute(_DUE, *_columns(ordered))
