"""The dispatcher of ``halt``: slice after slice of the product's own transaction, without a pause and without Temporal in between.

Run as ``python -m tests.bench.offering`` with ``OTA_DATABASE_URL``; says ``ready`` and reads ``CAMPAIGN_ID SLICE`` lines,
offers until the campaign no longer runs, and answers each with one JSON line: when the last slice that granted something came
back from its commit.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import msgspec

from orchestrator.adapters.sql.decisions import SqlDecisions
from orchestrator.adapters.sql.engine import make_engine
from orchestrator.config import Settings


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """``last_at``: perf_counter seconds, one clock for all processes of a machine. ``starved``: slices that found no device."""

    last_at: float
    granted: int
    slices: int
    starved: int


async def offer(decisions: SqlDecisions, campaign_id: str, limit: int) -> Offered:
    """Offer until the campaign is stopped."""
    last_at, granted, slices, starved = 0.0, 0, 0, 0
    while True:
        done = await decisions.dispatch(campaign_id, 0, limit, time.time_ns() // 1_000_000)
        if done.granted:
            last_at = time.perf_counter()
            granted += done.granted
            slices += 1
        elif done.state != "running":
            return Offered(last_at=last_at, granted=granted, slices=slices, starved=starved)
        else:
            starved += 1
            await asyncio.sleep(0.005)


async def main() -> None:
    url = Settings().database_url  # pyright: ignore[reportCallIssue] (every field has a default)
    engine, ids = make_engine(url, pool_size=2), make_engine(url, pool_size=1)
    decisions = SqlDecisions(engine, ids)
    loop = asyncio.get_running_loop()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        campaign_id, limit = line.split()
        offered: Any = await offer(decisions, campaign_id, int(limit))
        sys.stdout.write(msgspec.json.encode(offered).decode() + "\n")
        sys.stdout.flush()
    await engine.dispose()
    await ids.dispose()


if __name__ == "__main__":
    asyncio.run(main())
