"""Putting off the devices of an offer queue whose owners, or whose last report, do not let them go now.

What is put off gets a later time and the reason in the queue, in place, so that a slice reaches what is behind it, however many are
put off. Each slice looks at no more than :data:`LOOK` entries; the next one begins behind them. While nobody has stated a will and the
plan asks for nothing, a slice costs one look at an empty table more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

from orchestrator.adapters.sql import owners
from orchestrator.adapters.sql.rules import CampaignRules
from orchestrator.domain.owner import Withheld

PAGE: Final = 4_000
"""Most entries that are looked at in one statement; each look is four times as long as the one before, up to here."""

LOOK: Final = 10_000
"""Entries after which a slice looks no further."""

EVERYTHING: Final = 2**31 - 1
"""Above every rank."""

_SAID: Final = "SELECT EXISTS (SELECT FROM owner_will WHERE opted_out OR postponed_until > $1)"
_LOOK: Final = """SELECT rank, device_no, withheld FROM offer_queue
WHERE campaign_no = $1 AND phase = $2 AND not_before <= $3 AND stratum <> ALL($4::smallint[]) AND rank > $5
ORDER BY rank LIMIT $6 FOR UPDATE SKIP LOCKED"""
_LATER: Final = """UPDATE offer_queue q SET not_before = u.t, withheld = u.why
FROM unnest($3::int[], $4::bigint[], $5::text[]) u(r, t, why) WHERE q.campaign_no = $1 AND q.phase = $2 AND q.rank = u.r"""


async def put_off(
    conn: asyncpg.Connection, rules: CampaignRules, phase: int, now: int, wanted: int, halted: Sequence[int]
) -> int:
    """Look for ``wanted`` entries that may go at ``now`` (ms); up to the rank that is returned only such ones are due."""
    plan = rules.dossier.plan
    if plan.preconditions is None and plan.owner.consent == "not_required" and not await conn.fetchval(_SAID, now):
        return EVERYTHING
    after, looked, size = -1, 0, wanted
    while True:
        size = min(PAGE, size)
        page = await conn.fetch(_LOOK, rules.campaign_no, phase, now, halted, after, size)
        held = await owners.withheld(conn, rules, [row["device_no"] for row in page], now)
        later = [(row["rank"], *_placed(held.get(row["device_no"]), now)) for row in page if _news(row, held)]
        if later:
            await conn.execute(_LATER, rules.campaign_no, phase, *(list(column) for column in zip(*later, strict=True)))
        if len(page) < size:
            return EVERYTHING
        wanted, looked, after = wanted - len(page) + len(held), looked + len(page), page[-1]["rank"]
        if wanted <= 0 or looked >= LOOK:
            return after
        size *= 4


def _news(row: asyncpg.Record, held: Mapping[int, Withheld]) -> bool:
    return row["device_no"] in held or row["withheld"] is not None


def _placed(why: Withheld | None, now: int) -> tuple[int, str | None]:
    """When an entry is looked at again, and why not before; one that may go again is due now."""
    return (now, None) if why is None else (why.look_again(now), str(why.why))
