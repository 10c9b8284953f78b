"""A campaign takes over what a lower one has offered and nobody has started; both may do something else at the same moment."""

from __future__ import annotations

import asyncio
import random

import pytest

from orchestrator.adapters.sql.decisions import SqlDecisions
from orchestrator.adapters.sql.engine import make_engine
from orchestrator.app.process import CampaignProcess
from orchestrator.domain.campaign import Campaign, CampaignState
from schemas import device_events as d
from tests.integration.races.conftest import ROWS, Race
from tests.support.world import T0

EVERYONE = {
    "phases": [{"name": "all", "percent": 100.0, "soak": "1s"}],
    "max_in_flight": {"initial": 500, "maximum": 500},
    "cohort": {"stratify_by": ["hardware_model", "attribute.hw_revision"], "salt": "salt"},
}
URGENT = {"priority": 500, "supersede": "waiting"}
DEVICES = 200
LATER = 600_001


@pytest.fixture
async def decisions(engine, database_url):
    ids = make_engine(database_url, pool_size=2)
    yield SqlDecisions(engine, ids)
    await ids.dispose()


async def launch(race: Race, **changes) -> Campaign:
    campaign = await race.world.launch(**EVERYONE | changes)
    return await race.world.open_phase(campaign.campaign_id, 0, T0)


async def states(race: Race, campaign: Campaign) -> dict[str, int]:
    rows = await race.world.rows(
        "SELECT state, count(*) AS n FROM assignment WHERE campaign_no = $1 GROUP BY 1", campaign.campaign_no
    )
    return {row["state"]: row["n"] for row in rows}


async def test_unstarted_offers_are_taken_over_and_started_ones_are_not(race, decisions):
    low = await launch(race)
    await decisions.dispatch(low.campaign_id, 0, 500, T0)
    offered = await race.world.offered(low.campaign_no)
    started = sorted(offered)[:50]
    await asyncio.gather(*(race.world.offers.start(device, offered[device]) for device in started))
    for device in started[:10]:
        race.world.fact(device, offered[device], d.TRIAL, T0 + 1)
    await race.world.project()
    high = await launch(race, **URGENT)
    done = await decisions.dispatch(high.campaign_id, 0, 500, T0 + 2)
    assert (done.granted, done.superseded) == (150, 150)
    assert set(await race.world.offered(high.campaign_no)) == set(offered) - set(started)
    assert await states(race, low) == {"accepted": 40, "trial": 10, "superseded": 150}
    # Who lost its offer is told so, and is shown the other one.
    device = max(offered)
    assert await race.world.offers.start(device, offered[device]) is None
    assert (await race.world.offers.current(device)).campaign_no == high.campaign_no
    verdict = await race.judge()
    assert verdict.clean, verdict
    await race.world.recount()


@pytest.mark.parametrize("changes", [{"priority": 500}, {"supersede": "waiting"}, {}])
async def test_without_a_higher_priority_and_the_will_to_it_nothing_is_taken_over(race, decisions, changes):
    low = await launch(race)
    await decisions.dispatch(low.campaign_id, 0, 500, T0)
    other = await launch(race, **changes)
    done = await decisions.dispatch(other.campaign_id, 0, 500, T0)
    assert (done.granted, done.superseded) == (0, 0)
    assert await states(race, low) == {"offered": DEVICES}


async def test_a_device_that_has_answered_keeps_its_offer_although_the_answer_is_not_projected(race, decisions):
    low = await launch(race)
    await decisions.dispatch(low.campaign_id, 0, 500, T0)
    offered = await race.world.offered(low.campaign_no)
    await race.world.offers.overlay(1, offered[1], "accepted", 0, 0)
    high = await launch(race, **URGENT)
    assert (await decisions.dispatch(high.campaign_id, 0, 500, T0)).superseded == DEVICES - 1
    assert (await race.world.offers.current(1)).campaign_no == low.campaign_no


@pytest.mark.parametrize("first", ["start", "takeover"])
async def test_of_a_start_and_a_takeover_whoever_commits_first_wins(race, decisions, first):
    low = await launch(race)
    await decisions.dispatch(low.campaign_id, 0, 500, T0)
    offered = await race.world.offered(low.campaign_no)
    high = await launch(race, **URGENT)
    start = race.world.offers.start(1, offered[1])
    take = decisions.dispatch(high.campaign_id, 0, 500, T0)
    async with race.behind(ROWS) as line:
        for work in (start, take) if first == "start" else (take, start):
            await line.join(work)
    view, done = line.results if first == "start" else reversed(line.results)
    if first == "start":
        assert (view.state, done.superseded) == ("accepted", DEVICES - 1)
        assert 1 not in await race.world.offered(high.campaign_no)
    else:
        assert (view, done.superseded) == (None, DEVICES)
    verdict = await race.judge()
    assert verdict.clean, verdict
    await race.world.recount()


async def test_the_older_campaign_completes_without_the_devices_that_were_taken(race, decisions):
    low = await launch(race)
    await decisions.dispatch(low.campaign_id, 0, 500, T0)
    offered = await race.world.offered(low.campaign_no)
    for item in sorted(offered.items())[:40]:
        await race.world.offers.start(*item)
        race.world.fact(*item, d.CONFIRMED, T0 + 1)
    await race.world.project()
    high = await launch(race, **URGENT)
    assert (await decisions.dispatch(high.campaign_id, 0, 500, T0 + 2)).superseded == DEVICES - 40

    class Heard:
        async def until(self, now: int) -> int:
            return now

    process = CampaignProcess(race.world.store, decisions, None, Heard())
    now = T0 + 3
    for _ in range(3):
        await process.sweep(low.campaign_id, now)
        await process.evaluate_gate(low.campaign_id, 0, now)
        now += LATER
    assert (await process.finish(low.campaign_id, now)).state == CampaignState.COMPLETED
    assert await states(race, low) == {"confirmed": 40, "superseded": DEVICES - 40}
    assert await race.world.value("SELECT count(*) FROM offer_queue WHERE campaign_no = $1", low.campaign_no) == 0


async def test_a_stratum_that_was_taken_over_whole_is_not_waited_for(race, decisions):
    promote = {"name": "all", "percent": 100.0, "soak": "1s", "promote": {"p1": 0.1, "beta": 0.05}}
    low = await launch(race, phases=[promote])
    await decisions.dispatch(low.campaign_id, 0, 500, T0)
    everyone = await decisions.read_gate(low.campaign_id, 0, T0)
    only = [
        name
        for _, name, model, attributes in race.world.fleet.values()
        if model == "sensor-a" and attributes["hw_revision"] == "C"
    ]
    high = await launch(race, **URGENT, cohort={**EVERYONE["cohort"], "include": only})
    assert (await decisions.dispatch(high.campaign_id, 0, 500, T0)).superseded == len(only)
    reading = await decisions.read_gate(low.campaign_id, 0, T0)
    assert set(everyone.strata) - set(reading.strata) == {"hardware_model=sensor-a,attribute.hw_revision=C"}


async def test_slices_starts_and_sweeps_of_several_campaigns_at_once_never_give_a_device_two(race, decisions):
    """Everything at once, in no order that anybody chose: what must hold is that a slot is one campaign's and the books agree."""
    dice, lane = random.Random(7), asyncio.Lock()
    budget = [{"label": "attribute.hw_revision", "max_percent": 40}]
    campaigns: list[Campaign] = []
    for n in range(1, 5):
        plan = {"priority": 100 * n, "supersede": "waiting", "budget": budget if n % 2 else [], "offer_ttl": "20s"}
        campaigns.append(await launch(race, **plan))
        if n == 1:  # nobody stands before it yet
            await decisions.dispatch(campaigns[0].campaign_id, 0, 500, T0)

    async def retried(work) -> None:
        for _ in range(10):
            try:
                await work()
            except Exception as error:
                if type(error).__name__ != "DeadlockDetectedError":
                    raise
            else:
                return
        raise AssertionError("ten deadlocks in a row")

    async def slices(campaign: Campaign) -> None:
        for turn in range(6):
            await retried(lambda: decisions.dispatch(campaign.campaign_id, 0, 30, T0 + turn * 10_000))  # noqa: B023

    async def starts(campaign: Campaign) -> None:
        for _ in range(6):
            offered = sorted((await race.world.offered(campaign.campaign_no)).items())
            for item in dice.sample(offered, min(len(offered), 5)):
                view = await race.world.offers.start(*item)
                if view is not None and dice.random() < 0.5:
                    race.world.fact(*item, dice.choice([d.TRIAL, d.CONFIRMED, d.FAILED]), T0 + 1)
            async with lane:  # a projector's own transactions never overlap
                await retried(race.world.project)

    async def sweeps(campaign: Campaign) -> None:
        for turn in range(6):
            await retried(lambda: decisions.sweep(campaign.campaign_id, T0 + turn * 10_000, 0))  # noqa: B023

    await asyncio.gather(*(work(campaign) for campaign in campaigns for work in (slices, slices, starts, sweeps)))
    await race.world.project()
    assert await race.world.value("SELECT count(*) FROM decision_ledger WHERE cause = 'superseded'") > 0
    doubled = await race.world.rows(
        "SELECT device_no FROM assignment WHERE state IN ('offered', 'accepted', 'downloading', 'installed', 'trial')"
        " GROUP BY 1 HAVING count(*) > 1"
    )
    assert doubled == []
    await race.world.recount()
    verdict = await race.judge()
    assert verdict.clean, verdict
