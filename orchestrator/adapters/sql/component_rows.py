"""What became of each component of each device, and how many are in which outcome.

Written where facts are folded, by projector and rebuild alike; a fact without components costs nothing here. As for assignments, rows
are read ``FOR UPDATE`` in key order, joined with the domain's function, and the counts move by the difference of the rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

import asyncpg
import msgspec
from msgspec.structs import astuple

from orchestrator.domain.components import IN, MAX_COMPONENTS, MAX_NAME_CHARS, OUTCOMES, ComponentState, observe

Key = tuple[int, int, str]
"""(device_no, campaign_no, name), the order in which rows are locked."""

_FIELDS: Final = ComponentState.__struct_fields__
_COLUMNS: Final = ", ".join(_FIELDS)
_READ: Final = f"""SELECT {", ".join(f"s.{name}" for name in _FIELDS)} FROM unnest($1::int[], $2::int[], $3::text[]) u(d, c, n)
JOIN component_state s ON s.device_no = u.d AND s.campaign_no = u.c AND s.name = u.n
ORDER BY s.device_no, s.campaign_no, s.name FOR UPDATE OF s"""
_WRITE: Final = f"""INSERT INTO component_state ({_COLUMNS})
SELECT * FROM unnest($1::int[], $2::int[], $3::text[], $4::smallint[], $5::text[], $6::bigint[], $7::text[])
ON CONFLICT (device_no, campaign_no, name) DO UPDATE SET attempt = excluded.attempt, outcome = excluded.outcome,
    changed_at = excluded.changed_at, failure_class = excluded.failure_class"""
_COUNT: Final = """INSERT INTO component_count AS t (campaign_no, name, outcome, shard, n)
SELECT c, a, o, $4, n FROM unnest($1::int[], $2::text[], $3::text[], $5::bigint[]) u(c, a, o, n)
ON CONFLICT (campaign_no, name, outcome, shard) DO UPDATE SET n = t.n + excluded.n"""


def sound(said: Mapping[str, str]) -> dict[str, str]:
    """What can be kept of a report's components: outcomes that this version knows, of a device's number of components, by name."""
    kept = {name.replace("\0", "")[:MAX_NAME_CHARS]: said[name] for name in sorted(said) if said[name] in OUTCOMES}
    return dict(list(kept.items())[:MAX_COMPONENTS])


def states(
    device_no: int, campaign_no: int, attempt: int, at: int, failure_class: str | None, said: Mapping[str, str]
) -> Iterable[ComponentState]:
    """What one record says of each component; the failure's class belongs to those that failed."""
    for name, text in said.items():
        outcome = OUTCOMES[text]
        yield ComponentState(
            device_no=device_no,
            campaign_no=campaign_no,
            name=name,
            attempt=attempt,
            outcome=outcome,
            changed_at=at,
            failure_class=None if outcome in IN else failure_class or None,
        )


def collect(found: dict[Key, ComponentState], seen: Iterable[ComponentState]) -> None:
    """Join statements into those collected so far."""
    for each in seen:
        key = each.device_no, each.campaign_no, each.name
        found[key] = observe(found.get(key), each)


async def write(conn: asyncpg.Connection, seen: Mapping[Key, ComponentState], shard: int) -> None:
    """Join collected statements into the rows, and move the counts."""
    if not seen:
        return
    keys = sorted(seen)
    rows = await conn.fetch(_READ, *_arrays(keys))
    known = {(row.device_no, row.campaign_no, row.name): row for row in _parse(rows)}
    changed: list[ComponentState] = []
    counts: defaultdict[tuple[int, str, str], int] = defaultdict(int)
    for key in keys:
        old = known.get(key)
        new = observe(old, seen[key])
        if new == old:
            continue
        changed.append(new)
        counts[new.campaign_no, new.name, new.outcome.value] += 1
        if old is not None:
            counts[old.campaign_no, old.name, old.outcome.value] -= 1
    if changed:
        await conn.execute(_WRITE, *_arrays([astuple(row) for row in changed]))
    moved = [(*key, n) for key, n in sorted(counts.items()) if n]
    if moved:
        campaigns, names, outcomes, ns = _arrays(moved)
        await conn.execute(_COUNT, campaigns, names, outcomes, shard, ns)


def _parse(rows: Iterable[asyncpg.Record]) -> list[ComponentState]:
    return msgspec.convert([tuple(row) for row in rows], list[ComponentState])


def _arrays(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
