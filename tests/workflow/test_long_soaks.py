import asyncio

from temporalio.api.enums.v1 import EventType

from orchestrator.domain import campaign as c
from tests.support.memory_process import DAY, phase
from tests.support.skipping import history
from tests.support.waiting import until

THREE = [phase("canary", DAY), phase("early", 3 * DAY), phase("rest", 7 * DAY)]
PHASE = ["PhaseOpened", "SoakStarted", "PhasePromoted"]


async def outcome(handle):
    return (await asyncio.wait_for(handle.result(), 50)).state


def of_type(bench, name):
    return [event for event in bench.campaigns.events(bench.campaign_id) if type(event).__name__ == name]


async def test_a_campaign_of_three_phases_soaks_for_days_and_completes(skipping_bench):
    bench = skipping_bench
    await bench.campaigns.launch(bench.campaign_id, THREE)
    assert await outcome(await bench.start()) == "completed"
    assert bench.types() == ["CohortEnrolled", *PHASE * 3, "CampaignCompleted"]
    assert list(bench.decisions.offered.values()) == [10, 20, 30]
    soaks, promotions = of_type(bench, "SoakStarted"), of_type(bench, "PhasePromoted")
    for soak, promotion, planned in zip(soaks, promotions, THREE, strict=True):
        assert soak.until == soak.at + planned["soak"] <= promotion.at


async def test_looking_again_and_again_costs_no_history(skipping_bench):
    bench = skipping_bench
    await bench.campaigns.launch(bench.campaign_id, [phase("all", 5 * DAY)])
    handle = await bench.start()
    await outcome(handle)
    events = await history(bench.client, f"{handle.id}/phase/0")
    looks = len([event for event in events if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED])
    assert looks == len(["open_phase", "evaluate_gate", "dispatch"])


async def test_a_halted_campaign_soaks_again_after_its_approved_resume(skipping_bench):
    bench = skipping_bench
    bench.decisions.confirm = False  # in flight: the canary cannot be promoted
    await bench.campaigns.launch(bench.campaign_id, THREE[:2])
    handle = await bench.start()
    await bench.until("PhaseOpened", "SoakStarted")
    await bench.campaigns.halt(bench.campaign_id)
    await bench.moved()
    bench.decisions.in_flight, bench.decisions.confirm = {}, True
    await bench.campaigns.resume(bench.campaign_id)
    await bench.moved()
    assert await outcome(handle) == "completed"
    assert bench.types() == [
        *("CohortEnrolled", "PhaseOpened", "SoakStarted", "CampaignHalted", "ResumeApproved", "CampaignResumed"),
        *("SoakStarted", "PhasePromoted", *PHASE, "CampaignCompleted"),
    ]


async def test_a_phase_that_is_paused_often_continues_as_new_and_loses_nothing(skipping_bench):
    bench = skipping_bench
    bench.decisions.confirm = False
    await bench.campaigns.launch(bench.campaign_id, THREE[:2])
    handle = await bench.start()
    await bench.until("PhaseOpened", "SoakStarted")
    child = bench.client.get_workflow_handle(f"{handle.id}/phase/0")
    first = (await child.describe()).run_id

    async def continued():
        await bench.campaigns.order(bench.campaign_id, c.Pause(actor="ann", reason="r", ledger_position=0))
        await bench.moved()
        await bench.campaigns.resume(bench.campaign_id)
        await bench.moved()
        return (await child.describe()).run_id != first

    await until(continued)
    bench.decisions.in_flight, bench.decisions.confirm = {}, True
    assert await outcome(handle) == "completed"
    assert [name for name in bench.types() if name.startswith(("Phase", "Soak", "CampaignC"))] == [
        *(*PHASE, *PHASE, "CampaignCompleted")
    ]


async def test_an_aborted_campaign_is_tended_until_its_last_device_has_landed(skipping_bench):
    bench = skipping_bench
    bench.decisions.confirm = False
    await bench.campaigns.launch(bench.campaign_id, THREE)
    handle = await bench.start()
    await bench.until("PhaseOpened", "SoakStarted")
    await bench.campaigns.order(bench.campaign_id, c.Abort(actor="ann", reason="no", ledger_position=0))
    await bench.moved()
    sweeps = len(bench.decisions.sweeps)
    await until(lambda: len(bench.decisions.sweeps) >= sweeps + 3)
    assert await bench.processes.running(bench.campaign_id)
    bench.decisions.in_flight = {}
    assert await outcome(handle) == "aborted"
    assert bench.types()[-1] == "CampaignAborted"
