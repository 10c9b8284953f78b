"""The whole decision side for real: workflows on Temporal, decisions and projections on PostgreSQL; only the devices are simulated."""

import asyncio
import secrets
import uuid
from contextlib import asynccontextmanager, suppress

import pytest

from orchestrator.adapters.clock import now_ms
from orchestrator.adapters.sql.process import SqlEnrolments, SqlPositions, SqlUnfinished
from orchestrator.adapters.temporal.processes import TemporalProcesses
from orchestrator.adapters.temporal.repair import repair
from orchestrator.app.process import CampaignProcess, ProjectedFacts
from orchestrator.config import Settings
from orchestrator.domain import campaign as c
from schemas import device_events as d
from tests.support.waiting import until
from tests.support.world import TOPIC, World
from workflows.activities import ProcessActivities
from workflows.messages import CAMPAIGN_WORKFLOW, CampaignInput, CampaignResult, workflow_id
from workflows.worker import build_worker

POLL_MS = 50
PHASES = [
    {"name": "canary", "percent": 2.0, "min_count": 40, "soak": "200ms", "promote": {"p1": 0.1, "beta": 0.05}},
    {"name": "rest", "percent": 100.0, "soak": "200ms"},
]
QUICK = {"phases": PHASES, "confirm_deadline": "4s"}


class Fleet:
    """Devices that take every offer and confirm, or revert."""

    def __init__(self, world, outcome=d.CONFIRMED):
        self.world = world
        self.outcome = outcome

    async def end_offsets(self):
        return {partition: len(records) for partition, records in self.world.log.items()}

    async def live(self, campaign_no):
        while True:
            for device, action in (await self.world.offered(campaign_no)).items():
                view = await self.world.offers.start(device, action)
                if view is None:
                    continue  # halted meanwhile
                blame = {} if self.outcome == d.CONFIRMED else {"failure_class": "health"}
                self.world.fact(device, action, self.outcome, now_ms(), **blame)
            await self.world.project()
            await asyncio.sleep(0.05)


@asynccontextmanager
async def living(fleet, campaign_no):
    task = asyncio.create_task(fleet.live(campaign_no))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    # Campaigns of all tests share one Temporal, where their ids name workflows.
    await made.value("SELECT setval('campaign_no', $1)", secrets.randbelow(1_000_000_000) + 1)
    return made


@pytest.fixture
def fleet(world):
    return Fleet(world)


@pytest.fixture
async def processes(client, world, fleet, engine):
    """Starts workflows on a task queue with a worker of its own."""
    settings = Settings(
        task_queue=f"t-{uuid.uuid4().hex[:8]}",
        gate_poll_ms=POLL_MS,
        sweep_poll_ms=POLL_MS,
        dispatch_poll_ms=POLL_MS,
    )
    facts = ProjectedFacts(fleet, SqlPositions(engine, TOPIC))
    process = CampaignProcess(world.store, world.decisions, SqlEnrolments(engine), facts, slice_size=25)
    async with build_worker(client, settings, ProcessActivities(process)):
        yield TemporalProcesses(client, settings)


async def ended(client, wanted):
    handle = client.get_workflow_handle(wanted, result_type=CampaignResult)
    return (await asyncio.wait_for(handle.result(), 45)).state


async def second(client, processes, campaign_id):
    """One more live workflow of the campaign, as a network split or a restored server could leave behind."""
    await client.start_workflow(
        CAMPAIGN_WORKFLOW,
        CampaignInput(campaign_id=campaign_id, options=processes._options.model_copy(update={"idle_poll_ms": 200})),
        id=f"second/{campaign_id}",
        task_queue=processes._queue,
    )


async def types(world, campaign_id):
    rows = await world.rows("SELECT type FROM event_log WHERE stream = $1 ORDER BY version", f"campaign/{campaign_id}")
    return [row["type"] for row in rows][4:]


async def assert_every_device_was_offered_once(world, campaign_no):
    offers = await world.rows(
        "SELECT u.d, count(*) AS n FROM decision_ledger, unnest(device_nos) u(d) WHERE campaign_no = $1 AND kind = 'offer'"
        " GROUP BY 1 HAVING count(*) > 1",
        campaign_no,
    )
    assert offers == []
    await world.recount()


async def test_two_workflows_of_one_campaign_take_it_to_its_end_once(client, world, fleet, processes):
    campaign = await world.launch(**QUICK)
    async with living(fleet, campaign.campaign_no):
        await processes.start(campaign.campaign_id)
        await second(client, processes, campaign.campaign_id)
        assert await ended(client, workflow_id(campaign.campaign_id)) == "completed"
        assert await ended(client, f"second/{campaign.campaign_id}") == "completed"
    assert await types(world, campaign.campaign_id) == [
        "CohortEnrolled",
        *["PhaseOpened", "SoakStarted", "PhasePromoted"] * 2,
        "CampaignCompleted",
    ]
    completed = (await world.rows("SELECT data FROM event_log ORDER BY position DESC LIMIT 1"))[0]["data"]
    assert completed["confirmed"] == 198  # 200 without the holdback of 1 %
    await assert_every_device_was_offered_once(world, campaign.campaign_no)


async def test_two_workflows_stop_at_one_halt_and_go_when_it_is_aborted(client, world, fleet, processes):
    fleet.outcome = d.REVERTED
    campaign = await world.launch(**QUICK)
    async with living(fleet, campaign.campaign_no):
        await processes.start(campaign.campaign_id)
        await second(client, processes, campaign.campaign_id)

        async def halted():
            return (await world.store.load(campaign.campaign_id)).state is c.CampaignState.HALTED

        await until(halted)
        halt = (await world.store.load(campaign.campaign_id)).halt
        assert (halt.by, halt.scope) == ("gate", "campaign")
        await world.command(
            campaign.campaign_id,
            lambda _, standing: c.Abort(actor="ann", reason="bad", ledger_position=standing.ledger_position),
        )
        await processes.signal_moved(campaign.campaign_id, 1)
        assert await ended(client, workflow_id(campaign.campaign_id)) == "aborted"
        assert await ended(client, f"second/{campaign.campaign_id}") == "aborted"
    after = "kind IN ('offer', 'start') AND position > $1"
    assert await world.value(f"SELECT count(*) FROM decision_ledger WHERE {after}", halt.ledger_position) == 0
    assert await world.value("SELECT count(*) FROM device_slot") == 0
    await assert_every_device_was_offered_once(world, campaign.campaign_no)


async def test_a_campaign_whose_workflow_was_deleted_is_found_and_finished(client, world, fleet, processes, engine):
    campaign = await world.launch(**QUICK)
    async with living(fleet, campaign.campaign_no):
        assert await repair(SqlUnfinished(engine), processes) == [campaign.campaign_id]

        async def opened():
            return "PhaseOpened" in await types(world, campaign.campaign_id)

        await until(opened)
        await client.get_workflow_handle(workflow_id(campaign.campaign_id)).terminate("lost")
        assert await repair(SqlUnfinished(engine), processes) == [campaign.campaign_id]
        assert await ended(client, workflow_id(campaign.campaign_id)) == "completed"
    assert await SqlUnfinished(engine).campaigns() == []
    await assert_every_device_was_offered_once(world, campaign.campaign_no)
