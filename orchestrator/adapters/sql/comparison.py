"""Live and rebuilt rows, compared column by column, in memory that does not grow with the fleet.

Both sides are walked in key order, a run of rows at a time, and each run is compared by count and hash in the database; only one that
differs is fetched, to name its first difference. Of each table only the declared columns count: not shards, epochs, the clocks of work
queues and whom they hold back, the overlay or presence, and not ``gate`` and ``health_reading``, whose rows are the last look, not a
fact. Counters are compared as sums over shards.

Both sides must stand still and at the same positions of both logs; that is the caller's part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final, Literal

import asyncpg

LIVE: Final = "public"
"""Schema of the live tables."""

SHADOW: Final = "rebuild"
"""Schema of the tables that a rebuild fills."""

Progress = Callable[[str, int, int], None]
"""Told what is counted, how far it is and how far it will go."""

Kind = Literal["whole", "campaign", "device", "record"]
"""How the rows that a few records of the logs can change are found: all, by campaign, by device, by place in the log of facts."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A table with its comparable columns."""

    table: str
    kind: Kind
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    """Beside the keys; sums if ``summed``."""
    summed: bool = False

    def rows(self, schema: str, changed: Changed | None) -> tuple[str, list[Any]]:
        """A query for the comparable rows, of ``changed`` only if given, and its arguments."""
        source, condition, args = f"{schema}.{self.table} t", "", []
        if changed is not None and self.kind == "record":
            source += ' JOIN unnest($1::int[], $2::bigint[]) u(p, o) ON t."partition" = u.p AND t."offset" >= u.o'
            args = [list(changed.offsets), list(changed.offsets.values())]
        elif changed is not None and self.kind == "device":
            condition, args = " WHERE t.device_no = ANY($1::int[])", [sorted(changed.devices)]
        elif changed is not None and self.kind == "campaign":
            condition, args = " WHERE t.campaign_no = ANY($1::int[])", [sorted(changed.campaigns)]
        keys = ", ".join(f't."{name}"' for name in self.keys)
        if not self.summed:
            columns = "".join(f', t."{name}"' for name in self.columns)
            return f"SELECT {keys}{columns} FROM {source}{condition}", args
        sums = "".join(f", sum(t.{name})::bigint AS {name}" for name in self.columns)
        counted = " OR ".join(f"sum(t.{name}) <> 0" for name in self.columns)
        return f"SELECT {keys}{sums} FROM {source}{condition} GROUP BY {keys} HAVING {counted}", args


def _of(table: str, kind: Kind, keys: str, columns: str, *, summed: bool = False) -> Compared:
    return Compared(table, kind, tuple(keys.split()), tuple(columns.split()), summed)


COMPARED: Final = (
    _of("hardware_model", "whole", "name", "profile created_at"),
    _of("trusted_key", "whole", "key_id hardware_model", "algorithm pem added_at"),
    _of("artifact", "whole", "sha256 hardware_model", "sha1 md5 size filename image stored_at"),
    _of("release", "whole", "release_id", "name version artifacts digest created_at components"),
    _of(
        "campaign",
        "campaign",
        "campaign_no",
        "campaign_id name release_id state version author digest plan dossier gate_epoch phase phase_state soak_until"
        " promoted_since_halt setbacks breaker brake enrolment halt created_at updated_at",
    ),
    _of("control", "campaign", "campaign_no stratum", "state version gate_epoch hold held_at"),
    _of("stratum", "campaign", "campaign_no stratum", "key"),
    _of(
        "device",
        "device",
        "device_no",
        "device_id hardware_model attributes version digest registered_at reported_at",
    ),
    _of(
        "owner_will",
        "device",
        "device_no",
        "opted_out postponed_until consents version stated_at actor on_behalf_of reason",
    ),
    _of("device_slot", "device", "device_no", "campaign_no attempt"),
    _of(
        "assignment",
        "device",
        "device_no campaign_no",
        "phase stratum attempt action_id gate_epoch offered_at state changed_at progress failure_class reason started_at"
        " cancel_requested_at first_started_at first_started_epoch failed_at failed_class",
    ),
    _of("component_state", "device", "device_no campaign_no name", "attempt outcome changed_at failure_class"),
    _of("offer_queue", "device", "campaign_no phase rank", "device_no stratum attempt"),
    _of("health_report", "device", "device_no signal period", "recorded_at events exposure_ms"),
    _of("counter", "campaign", "campaign_no phase stratum state", "n", summed=True),
    _of("component_count", "campaign", "campaign_no name outcome", "n", summed=True),
    _of("gate_count", "campaign", "campaign_no gate_epoch phase stratum", "started failed", summed=True),
    _of("maturity", "campaign", "campaign_no phase gate_epoch bucket stratum", "started good excluded", summed=True),
    _of("delivery", "campaign", "campaign_no bucket outcome", "n", summed=True),
    _of(
        "timeline",
        "record",
        "partition offset",
        "device_no campaign_no attempt event_id type recorded_at failure_class reason detail components version digest",
    ),
    _of("dead_letter", "record", "topic partition offset", "code event_id key value"),
)
"""Every table that a rebuild makes again, small ones first."""


@dataclass(slots=True)
class Changed:
    """What a few records of the logs may have changed: rows to compare once more."""

    devices: set[int] = field(default_factory=set[int])
    campaigns: set[int] = field(default_factory=set[int])
    offsets: Mapping[int, int] = field(default_factory=dict[int, int])
    """Partition to the first offset that counts."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference in a table: a row that one side lacks, or a column whose values differ."""

    table: str
    key: dict[str, Any]
    column: str | None
    """None if one side lacks the row; then the other side's value is the row without its key."""
    live: Any
    rebuilt: Any

    def __str__(self) -> str:
        key = ", ".join(f"{name} {value}" for name, value in self.key.items())
        if self.column is None:
            only = "the live table only" if self.rebuilt is None else "the rebuilt table only"
            return f"{self.table} ({key}) is in {only}"
        return f"{self.table} ({key}): {self.column} is {self.live!r}, rebuilt {self.rebuilt!r}"


@dataclass(frozen=True, slots=True)
class Sides:
    """A connection for each side; the same one if both are in one transaction."""

    live: asyncpg.Connection
    shadow: asyncpg.Connection

    async def both(self, fetch: str, queries: tuple[str, str], args: Sequence[Any]) -> tuple[Any, Any]:
        """Call ``fetch`` on both, at the same time if they are two connections."""
        live = getattr(self.live, fetch)(queries[0], *args)
        shadow = getattr(self.shadow, fetch)(queries[1], *args)
        if self.live is self.shadow:
            return await live, await shadow
        first, second = await asyncio.gather(live, shadow)
        return first, second


async def differences(
    sides: Sides, run: int, changed: Changed | None = None, progress: Progress | None = None
) -> list[Difference]:
    """The first difference of each table; empty if all are equal. ``run`` is how many rows are compared at a time."""
    found: list[Difference] = []
    for number, compared in enumerate(COMPARED, 1):
        first = await _first(sides, compared, run, changed)
        if first is not None:
            found.append(first)
        if progress is not None:
            progress("tables compared", number, len(COMPARED))
    return found


async def _first(sides: Sides, what: Compared, run: int, changed: Changed | None) -> Difference | None:
    live, args = what.rows(LIVE, changed)
    shadow, _ = what.rows(SHADOW, changed)
    keys = ", ".join(f'"{name}"' for name in what.keys)
    low: list[Any] = []
    while True:
        given = [*args, *low]
        above = f"({keys}) > ({_slots(len(args), len(low))})" if low else "true"
        last = await sides.live.fetchrow(
            f"SELECT {keys} FROM ({live}) r WHERE {above} ORDER BY {keys} OFFSET {run - 1} LIMIT 1", *given
        )
        within = above
        if last is not None:
            within += f" AND ({keys}) <= ({_slots(len(given), len(last))})"
            given += last
        hashed = f"SELECT count(*), bit_xor(hashtextextended(r::text, 0)) FROM ({{}}) r WHERE {within}"
        ours, theirs = await sides.both("fetchrow", (hashed.format(live), hashed.format(shadow)), given)
        if tuple(ours) != tuple(theirs):
            # One row more than a run holds: if only the rebuilt side has more, that is enough to see it.
            rows = f"SELECT *, r::text AS whole FROM ({{}}) r WHERE {within} ORDER BY {keys} LIMIT {run + 1}"
            return _named(what, *await sides.both("fetch", (rows.format(live), rows.format(shadow)), given))
        if last is None:
            return None
        low = list(last)


def _slots(after: int, count: int) -> str:
    return ", ".join(f"${number}" for number in range(after + 1, after + count + 1))


def _named(what: Compared, live: Sequence[Any], rebuilt: Sequence[Any]) -> Difference | None:
    """The first difference of two runs of rows, each in key order."""
    keys = len(what.keys)
    known = {tuple(row[:keys]) for row in live}
    for ours, theirs in zip_longest(live, rebuilt):
        if theirs is None or (ours is not None and ours[:keys] != theirs[:keys] and tuple(theirs[:keys]) in known):
            return _lone(what, ours, rebuilt=False)
        if ours is None or ours[:keys] != theirs[:keys]:
            return _lone(what, theirs, rebuilt=True)
        for name in what.columns:
            if ours[name] != theirs[name]:
                return Difference(what.table, _key(what, ours), name, ours[name], theirs[name])
        if ours["whole"] != theirs["whole"]:  # what is one number in Python can be two in JSONB: 1 and 1.0
            return Difference(what.table, _key(what, ours), "row", ours["whole"], theirs["whole"])
    return None


def _lone(what: Compared, row: Any, *, rebuilt: bool) -> Difference:
    rest = {name: row[name] for name in what.columns}
    return Difference(what.table, _key(what, row), None, None if rebuilt else rest, rest if rebuilt else None)


def _key(what: Compared, row: Any) -> dict[str, Any]:
    return {name: row[name] for name in what.keys}
