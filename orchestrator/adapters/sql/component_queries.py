"""What people ask about components: of one device, and of a campaign in numbers."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import asyncpg
import msgspec

from orchestrator.app.queries import ComponentStatus
from orchestrator.domain.components import IN

# Of each component the latest campaign's outcome, and the latest in which it was in: what the device has of it now.
_COMPONENTS: Final = """SELECT DISTINCT ON (s.name) s.name, s.outcome, c.campaign_id, s.attempt, s.changed_at, s.failure_class,
    i.version, i.digest
FROM component_state s JOIN campaign c ON c.campaign_no = s.campaign_no
JOIN assignment a ON a.device_no = s.device_no AND a.campaign_no = s.campaign_no
LEFT JOIN LATERAL (SELECT r.version, p.part ->> 'sha256' AS digest
    FROM component_state t JOIN assignment b ON b.device_no = t.device_no AND b.campaign_no = t.campaign_no
    JOIN campaign d ON d.campaign_no = t.campaign_no JOIN release r ON r.release_id = d.release_id
    CROSS JOIN LATERAL jsonb_array_elements(r.components -> $2) p(part)
    WHERE t.device_no = s.device_no AND t.name = s.name AND t.outcome = ANY($3::text[]) AND p.part ->> 'name' = t.name
    ORDER BY b.action_id DESC LIMIT 1) i ON true
WHERE s.device_no = $1 ORDER BY s.name, a.action_id DESC"""


async def component_status(conn: asyncpg.Connection, device_no: int, hardware_model: str) -> list[ComponentStatus]:
    """What became of each component of a device, by name."""
    rows = await conn.fetch(_COMPONENTS, device_no, hardware_model, sorted(IN))
    return [msgspec.convert(dict(row), ComponentStatus) for row in rows]


async def component_counts(conn: asyncpg.Connection, campaign_no: int) -> dict[str, dict[str, int]]:
    """Component to devices by its outcome: sums of counters, not of rows."""
    rows = await conn.fetch(
        "SELECT name, outcome, sum(n)::bigint AS n FROM component_count WHERE campaign_no = $1 GROUP BY name, outcome"
        " HAVING sum(n) <> 0 ORDER BY name, outcome",
        campaign_no,
    )
    counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        counts[row["name"]][row["outcome"]] = row["n"]
    return dict(counts)
