"""A campaign over the whole registered fleet: preview, then launch → first offers, with the real relay, Temporal and worker.

Enrolment is one transaction, so by the first offer every member is enrolled and queued. The devices stay silent. The whole campaign
is run afterwards in simulated time (``tests.bench.simulated``), over phases of the sizes that were enrolled, for its history.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import asyncpg
import msgspec

from orchestrator.bootstrap import local_services
from orchestrator.domain.plan import parse_plan
from tests.bench import fleet
from tests.bench.common import PATIENCE, Cpu, Say, bed, circumstances, peak_rss_mb, reached
from tests.bench.simulated import simulate
from tests.support.skipping import skipping_server

FIRST_OFFERS: Final = 500
"""In flight at first: one slice of the worker, or the whole canary of a small fleet."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    devices: int
    history: int = 1
    """0 leaves the simulated campaign out, which takes a quarter of a minute for a million devices."""


SIZES = {"small": Size(devices=100_000), "large": Size(devices=1_000_000)}


def plan() -> dict[str, Any]:
    """A canary of one percent, a tenth, everybody; strata by hardware model and revision; a holdback of one percent."""
    return fleet.plan(
        cohort={
            "stratify_by": ["hardware_model", "attribute.hw_revision"],
            "holdback_percent": 1.0,
            "salt": "salt",
        },
        phases=[
            {"name": "canary", "percent": 1.0, "soak": "1h", "promote": {"p1": 0.03, "beta": 0.05}},
            {"name": "tenth", "percent": 10.0, "soak": "1h"},
            {"name": "all", "percent": 100.0, "soak": "1h"},
        ],
        max_in_flight={"initial": FIRST_OFFERS, "maximum": 100_000},
    )


def simulated_plan() -> dict[str, Any]:
    """The same with more in flight, so that a million devices take a day instead of ten; phases and soaks are the same."""
    return plan() | {"max_in_flight": {"initial": 5_000, "maximum": 100_000}}


async def run(size: Size, say: Say) -> dict[str, Any]:
    """The measurement; keys as ``ota bench launch`` writes them."""
    found = await _launch(size, say)
    phases = found.pop("phases")
    if not size.history:
        return {**found, "history_events": None}
    say("running the whole campaign in simulated time")
    async with skipping_server() as client:
        whole = await simulate(client, parse_plan(simulated_plan()), phases)
    if (whole.state, whole.offered) != ("completed", sum(phases)):
        raise RuntimeError(f"The simulated campaign ended {whole.state} after {whole.offered} offers.")
    return {
        **found,
        "history_events": whole.events,
        "history_bytes": whole.bytes,
        "history_runs": whole.runs,
        "history_slices": whole.slices,
        "history_days": whole.days,
        "history_wall_s": whole.wall_s,
    }


async def _launch(size: Size, say: Say) -> dict[str, Any]:
    before = os.getloadavg()
    async with bed(say, temporal=True) as servers:
        say(f"registering {size.devices} devices")
        conn = await asyncpg.connect(servers.database_url)
        try:
            await fleet.register(conn, size.devices)
            await conn.execute(
                "UPDATE device SET attributes = jsonb_build_object('hw_revision', substr('ABC', device_no % 3 + 1, 1))",
                timeout=PATIENCE,
            )
            await conn.execute("VACUUM ANALYZE", timeout=PATIENCE)
            await servers.checkpoint()
            roles = await servers.start("relay", "worker")
            async with local_services(servers.settings) as services:
                campaigns = services.campaigns
                made = await campaigns.create("bench", plan(), actor="ann", command_id=uuid4().hex)
                campaign_id = made.campaign.campaign_id
                began = time.perf_counter()
                preview = await campaigns.preview(campaign_id)
                preview_s = time.perf_counter() - began
                began = time.perf_counter()
                submitted = await campaigns.submit(campaign_id, actor="ann", command_id=uuid4().hex)
                submit_s = time.perf_counter() - began
                digest = submitted.campaign.digest
                assert digest is not None
                await campaigns.approve(campaign_id, digest, actor="bob", command_id=uuid4().hex)
                say(f"previewed in {preview_s:.1f} s; launching over {preview.devices} devices")
                cpu, began = Cpu(servers.pids(roles)), time.perf_counter()
                await campaigns.launch(campaign_id, actor="ann", command_id=uuid4().hex)
            opened_at, _ = await reached(lambda: _events(conn, campaign_id, "PhaseOpened"), 1)
            first_at, _ = await reached(lambda: _offers(conn), 1, 0.01)
            full_at, offers = await reached(lambda: _offers(conn), min(FIRST_OFFERS, preview.phases[0].size), 0.01)
            used = cpu.used()
            queued = await conn.fetchval("SELECT count(*) FROM offer_queue")
            assigned = await conn.fetchval("SELECT count(*) FROM assignment")
            enrolled = msgspec.json.decode(await conn.fetchval("SELECT enrolment::text FROM campaign") or "{}")
            pids = servers.pids(roles)
            return {
                "devices": size.devices,
                "preview_s": round(preview_s, 2),
                "submit_s": round(submit_s, 2),
                "first_offer_s": round(first_at - began, 2),
                "opened_s": round(opened_at - began, 2),
                "first_slice_s": round(full_at - began, 2),
                "offers": round(offers),
                "members_enrolled": enrolled["members"] - enrolled["holdback"],
                "members_queued_or_offered": queued + assigned,
                "peak_rss_mb": peak_rss_mb(pids["worker"]),
                "relay_peak_rss_mb": peak_rss_mb(pids["relay"]),
                "phases": enrolled["phases"],
                "cpu_seconds": {name: round(seconds, 1) for name, seconds in used.items()},
                **await circumstances(servers, before),
            }
        finally:
            await conn.close()


async def _events(conn: asyncpg.Connection, campaign_id: str, kind: str) -> float:
    found: Any = await conn.fetchval(
        "SELECT count(*) FROM event_log WHERE stream = $1 AND type = $2", f"campaign/{campaign_id}", kind
    )
    return found


async def _offers(conn: asyncpg.Connection) -> float:
    found: Any = await conn.fetchval(
        "SELECT coalesce(sum(cardinality(device_nos)), 0)::bigint FROM decision_ledger WHERE kind = 'offer'"
    )
    return found
