"""What devices report of their health, as rows: one per device, signal and period.

Of two reports of one period the one recorded first stands, so repetition and order change nothing. Not here: what the rows mean for a
campaign (``health_gate``).
"""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg

from schemas.device_events import Health

Key = tuple[int, str, int]
"""(device_no, signal, period), the order in which rows are written."""

Reports = dict[Key, tuple[int, int, int]]
"""To (recorded_at, events, exposure_ms); of one key the least."""

_RECORD = """INSERT INTO health_report AS t (device_no, signal, period, recorded_at, events, exposure_ms)
SELECT * FROM unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[], $5::int[], $6::bigint[])
ON CONFLICT (device_no, signal, period) DO UPDATE
SET recorded_at = excluded.recorded_at, events = excluded.events, exposure_ms = excluded.exposure_ms
WHERE (excluded.recorded_at, excluded.events, excluded.exposure_ms) < (t.recorded_at, t.events, t.exposure_ms)"""


def keyed(device_no: int, recorded_at: int, report: Health) -> tuple[Key, tuple[int, int, int]]:
    """A report as an entry of ``Reports``."""
    return (device_no, report.signal, report.period), (recorded_at, report.events, report.exposure_ms)


async def record(conn: asyncpg.Connection, reports: Mapping[Key, tuple[int, int, int]]) -> None:
    """Write reports in one statement; nothing is sent where there are none."""
    if not reports:
        return
    rows = sorted((*key, *numbers) for key, numbers in reports.items())
    await conn.execute(_RECORD, *(list(column) for column in zip(*rows, strict=True)))
