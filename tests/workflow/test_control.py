import asyncio
import uuid

import pytest
from temporalio.client import WorkflowFailureError

from orchestrator.adapters.temporal.repair import repair
from orchestrator.domain import campaign as c
from orchestrator.errors import UnavailableError
from tests.support.memory_process import phase
from tests.support.waiting import until
from tests.workflow.bench import MOMENTS, Bench
from workflows.messages import PHASE_WORKFLOW, PhaseInput, PhaseResult

SOAK = 50
TWO = [phase("canary", SOAK), phase("rest", SOAK)]
PHASE = ["PhaseOpened", "SoakStarted", "PhasePromoted"]
DONE = ["CohortEnrolled", *PHASE * 2, "CampaignCompleted"]


async def outcome(handle):
    return (await asyncio.wait_for(handle.result(), 50)).state


async def stopped(bench, handle):
    """Return when the phase's workflow stands still, waiting for the log to move."""
    child = bench.client.get_workflow_handle(f"{handle.id}/phase/{(await bench.campaign()).phase}")

    async def waits():
        pending = (await child.describe()).raw_description.pending_activities
        return [activity.activity_type.name for activity in pending] == ["await_running"]

    await until(waits)


async def test_a_signal_wakes_a_paused_campaign(bench):
    bench.decisions.confirm = False
    await bench.campaigns.launch(bench.campaign_id, TWO)
    handle = await bench.start()
    await bench.until("PhaseOpened", "SoakStarted")
    await bench.campaigns.order(bench.campaign_id, c.Pause(actor="ann", reason="lunch", ledger_position=0))
    await stopped(bench, handle)
    sweeps = len(bench.decisions.sweeps)
    await bench.campaigns.resume(bench.campaign_id)
    bench.decisions.in_flight, bench.decisions.confirm = {}, True
    await bench.moved()
    assert await outcome(handle) == "completed"
    assert bench.types() == [
        *("CohortEnrolled", "PhaseOpened", "SoakStarted", "CampaignPaused", "CampaignResumed", "PhasePromoted"),
        *(*PHASE, "CampaignCompleted"),
    ]
    assert len(bench.decisions.sweeps) > sweeps


async def test_deadlines_are_swept_while_the_campaign_is_halted(bench):
    await bench.campaigns.launch(bench.campaign_id, [phase("all", 10**9)])
    handle = await bench.start()
    await bench.until("PhaseOpened", "SoakStarted")
    await bench.campaigns.halt(bench.campaign_id)
    await stopped(bench, handle)
    sweeps = len(bench.decisions.sweeps)
    await until(lambda: len(bench.decisions.sweeps) >= sweeps + 3)
    await bench.campaigns.order(bench.campaign_id, c.Abort(actor="ann", reason="no", ledger_position=0))
    await bench.moved()
    assert await outcome(handle) == "aborted"


async def test_two_live_workflows_of_one_campaign_take_every_decision_once(bench):
    await bench.campaigns.launch(bench.campaign_id, TWO)
    handles = [await bench.start(), await bench.start(f"second/{bench.campaign_id}")]
    assert [await outcome(handle) for handle in handles] == ["completed", "completed"]
    assert bench.types() == DONE
    assert list(bench.decisions.offered.values()) == [10, 20]


async def test_a_workflow_that_was_lost_is_started_again_and_goes_on(bench):
    await bench.campaigns.launch(bench.campaign_id, [phase("canary", SOAK), phase("rest", SOAK, approval=True)])
    handle = await bench.start()
    await bench.until(*PHASE, "PhaseOpened", "SoakStarted")
    await handle.terminate("lost")

    class Unfinished:
        async def campaigns(self):
            return [bench.campaign_id]

    class Quick:
        """The bench's way of starting, with its short polls."""

        running = bench.processes.running

        async def start(self, campaign_id):
            await bench.start()

    assert await repair(Unfinished(), Quick()) == [bench.campaign_id]
    assert await repair(Unfinished(), Quick()) == []
    await bench.campaigns.order(bench.campaign_id, c.ApprovePhase(actor="bob", phase=1, digest="d"))
    assert await outcome(await bench.start()) == "completed"
    assert bench.types() == [*DONE[:-2], "PhaseApproved", *DONE[-2:]]


async def test_a_phase_that_outlived_its_campaigns_workflow_is_left_to_do_the_work(bench):
    await bench.campaigns.launch(bench.campaign_id, TWO)
    orphan = await bench.client.start_workflow(
        PHASE_WORKFLOW,
        PhaseInput(campaign_id=bench.campaign_id, phase=0, options=bench.polls),
        id=f"campaign/{bench.campaign_id}/phase/0",
        task_queue=bench.settings.task_queue,
        result_type=PhaseResult,
    )
    bench.decisions.confirm = False
    await bench.until("PhaseOpened", "SoakStarted")
    handle = await bench.start()
    bench.decisions.in_flight, bench.decisions.confirm = {}, True
    assert (await orphan.result()).promoted
    assert await outcome(handle) == "completed"
    assert bench.types() == DONE


async def test_starting_a_campaign_twice_leaves_one_workflow_with_its_attributes(bench):
    await bench.campaigns.launch(bench.campaign_id, [phase("all", 10**9)])
    for _ in range(2):
        await bench.processes.start(bench.campaign_id)
    assert await bench.processes.running(bench.campaign_id)
    handle = bench.client.get_workflow_handle(f"campaign/{bench.campaign_id}")
    wanted = {"OtaCampaignId": bench.campaign_id, "OtaState": "running", "OtaRelease": "rel_1"}

    async def shown():
        found = (await handle.describe()).typed_search_attributes
        return {pair.key.name: pair.value for pair in found if pair.key.name in wanted} == wanted

    await until(shown)
    await bench.campaigns.order(bench.campaign_id, c.Abort(actor="ann", reason="no", ledger_position=0))
    await bench.moved()
    assert await outcome(await bench.start()) == "aborted"
    assert not await bench.processes.running(bench.campaign_id)


async def test_a_signal_to_a_campaign_without_a_workflow_does_nothing(bench):
    await bench.processes.signal_moved("cmp_unknown", 1)
    assert not await bench.processes.running("cmp_unknown")


async def test_a_campaign_that_does_not_exist_fails_its_workflow_with_the_code(bench):
    with pytest.raises(WorkflowFailureError) as failed:
        await outcome(await bench.start())
    assert failed.value.cause.cause.type == "not_found"


async def test_a_database_that_is_away_for_a_moment_is_asked_again(bench):
    load, failures = bench.campaigns.load, [UnavailableError(), OSError("down")]

    async def flaky(campaign_id):
        if failures:
            raise failures.pop()
        return await load(campaign_id)

    await bench.campaigns.launch(bench.campaign_id, [phase("all", SOAK)])
    bench.campaigns.load = flaky
    assert await outcome(await bench.start()) == "completed"


async def test_a_worker_without_a_cache_replays_every_task_to_the_same_end(client):
    queue = f"t-{uuid.uuid4().hex[:8]}"
    async with Bench(client, queue, MOMENTS, max_cached_workflows=0) as bench:
        await bench.campaigns.launch(bench.campaign_id, TWO)
        assert await outcome(await bench.start()) == "completed"
        assert bench.types() == DONE
