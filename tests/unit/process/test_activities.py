import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment

from orchestrator.app.process import CampaignProcess
from orchestrator.domain import campaign as c
from orchestrator.errors import ConflictError, UnavailableError
from tests.support.memory_process import Heard, MemoryCampaigns, MemoryDecisions, phase
from workflows.activities import ProcessActivities
from workflows.messages import DispatchInput, LookInput, PhaseStepInput, Step, StepInput
from workflows.policies import NOT_YET

ID = "cmp_1"
NOW = 1_790_000_000_000
STEP = PhaseStepInput(campaign_id=ID, phase=0, poll_ms=70)
LOOK_AGAIN = StepInput(campaign_id=ID, poll_ms=70)
DISPATCH = DispatchInput(campaign_id=ID, phase=0, poll_ms=1, idle_ms=70)


@pytest.fixture
def campaigns():
    return MemoryCampaigns()


@pytest.fixture
def decisions(campaigns):
    return MemoryDecisions(campaigns, sizes=[10])


@pytest.fixture
def activities(campaigns, decisions):
    return ProcessActivities(CampaignProcess(campaigns, decisions, decisions, Heard(), slice_size=4))


@pytest.fixture
def environment():
    made = ActivityEnvironment()
    made.info = made.default_info()
    made.info.__dict__["started_time"] = datetime.fromtimestamp(NOW / 1_000, UTC)
    made.info.__dict__["heartbeat_timeout"] = timedelta(seconds=10)
    return made


@pytest.fixture
def attempt(environment):
    return environment.run


async def raised(call):
    with pytest.raises(ApplicationError) as caught:
        await call
    return caught.value


async def assert_comes_again_in_70_ms(call):
    error = await raised(call)
    assert (error.type, error.category) == (NOT_YET, ApplicationErrorCategory.BENIGN)
    assert error.next_retry_delay == timedelta(milliseconds=70)
    assert not error.non_retryable


async def test_every_step_is_registered_under_its_name(activities):
    names = [function.__temporal_activity_definition.name for function in activities.all()]
    assert names == list(Step)


async def test_now_is_when_the_server_started_the_attempt(activities, attempt, campaigns):
    await campaigns.launch(ID, [phase("all")])
    await attempt(activities.open_phase, STEP)
    assert campaigns.log[-1].event.at == NOW


async def test_a_dispatcher_offers_slice_after_slice_and_then_lets_go(activities, attempt, campaigns, decisions):
    await campaigns.launch(ID, [phase("all")])
    await attempt(activities.open_phase, STEP)
    await assert_comes_again_in_70_ms(attempt(activities.dispatch, DISPATCH))
    assert decisions.offered == {(ID, 0): 10}


async def test_a_dispatcher_waits_for_room(activities, attempt, campaigns, decisions):
    await campaigns.launch(ID, [phase("all")])
    await attempt(activities.open_phase, STEP)
    decisions.room = 0
    dispatch, looks = decisions.dispatch, []

    async def counting(campaign_id, number, limit, now):
        looks.append(now)
        if len(looks) == 5:
            decisions.room = 10
        return await dispatch(campaign_id, number, limit, now)

    decisions.dispatch = counting
    await assert_comes_again_in_70_ms(attempt(activities.dispatch, DISPATCH))
    assert decisions.offered == {(ID, 0): 10}
    assert looks == sorted(looks)
    assert looks[0] >= NOW


async def test_a_dispatcher_ends_with_the_state_that_stopped_it(activities, attempt, campaigns):
    await campaigns.launch(ID, [phase("all")])
    await attempt(activities.open_phase, STEP)
    await campaigns.halt(ID)
    assert (await attempt(activities.dispatch, DISPATCH)).state == "halted"


async def test_a_gate_that_holds_is_looked_at_again(activities, attempt, campaigns):
    await campaigns.launch(ID, [phase("all")])
    await attempt(activities.open_phase, STEP)
    await assert_comes_again_in_70_ms(attempt(activities.evaluate_gate, STEP))


async def test_a_stopped_campaign_is_awaited_until_it_runs_or_ends(activities, attempt, campaigns):
    await campaigns.launch(ID, [phase("all")])
    assert (await attempt(activities.await_running, LOOK_AGAIN)).state == "running"
    await campaigns.halt(ID)
    await assert_comes_again_in_70_ms(attempt(activities.await_running, LOOK_AGAIN))
    await campaigns.order(ID, c.Abort(actor="ann", reason="no", ledger_position=0))
    assert (await attempt(activities.await_running, LOOK_AGAIN)).state == "aborted"


async def test_a_live_campaign_is_tended_on_and_finished_later(activities, attempt, campaigns):
    await campaigns.launch(ID, [phase("all")])
    await assert_comes_again_in_70_ms(attempt(activities.tend, LOOK_AGAIN))
    await campaigns.halt(ID)
    await assert_comes_again_in_70_ms(attempt(activities.tend, LOOK_AGAIN))
    await assert_comes_again_in_70_ms(attempt(activities.finish, LOOK_AGAIN))


async def test_what_cannot_heal_is_not_tried_again(activities, attempt):
    error = await raised(attempt(activities.look, LookInput(campaign_id="cmp_9")))
    assert (error.type, error.non_retryable) == ("not_found", True)


@pytest.mark.parametrize("failure", [UnavailableError("Down."), ConflictError("Changed.")])
async def test_what_may_heal_is_tried_again_under_its_code(activities, attempt, campaigns, failure):
    async def failing(campaign_id):
        raise failure

    campaigns.load = failing
    error = await raised(attempt(activities.look, LookInput(campaign_id=ID)))
    assert (error.type, error.non_retryable, str(error)) == (failure.code, False, f"{failure.code}: {failure.detail}")


async def test_an_attempt_beats_while_it_lasts(environment, activities, campaigns):
    await campaigns.launch(ID, [phase("all")])
    beating, load = asyncio.Event(), campaigns.load
    environment.on_heartbeat = lambda *_: beating.set()

    async def slow(campaign_id):
        await asyncio.wait_for(beating.wait(), 10)
        return await load(campaign_id)

    campaigns.load = slow
    assert (await environment.run(activities.look, LookInput(campaign_id=ID))).state == "running"
