"""Recorded halts come out of the logs again; other policies halt earlier, later or never."""

from __future__ import annotations

import random

import pytest

from orchestrator.adapters.clock import now_ms
from orchestrator.adapters.sql.campaign_history import SqlCampaignHistory
from orchestrator.app.backtest import Backtest, Backtests, NotLaunchedError
from orchestrator.domain import campaign as c
from orchestrator.errors import NotFoundError
from schemas import device_events as d
from tests.support.world import World, plan

PHASES = [{"name": "most", "percent": 60.0, "soak": "0s"}, {"name": "rest", "percent": 100.0, "soak": "0s"}]
FLEET = [{"name": "fleet", "scope": "campaign", "p0": 0.02, "alpha": 0.01}]
ALONE = [
    {"name": "revision", "scope": "stratum", "halts": "stratum", "p0": 0.02, "alpha": 0.006},
    {"name": "fleet", "scope": "campaign", "p0": 0.02, "alpha": 0.004},
]
STRICT = {"halt": [{"name": "two", "test": "threshold", "scope": "campaign", "share": 0.05, "after": 40}]}
LAX = {"halt": [{"name": "most", "test": "threshold", "scope": "campaign", "share": 0.9, "after": 100}]}
BAD = "hardware_model=sensor-a,attribute.hw_revision=C"


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


async def launched(world: World, halt) -> c.Campaign:
    campaign = await world.launch(phases=PHASES, halt=halt, max_in_flight={"initial": 500, "maximum": 500})
    await world.open_phase(campaign.campaign_id, 0, now_ms())
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, now_ms())
    return campaign


async def roll_out(world: World, campaign: c.Campaign, bad: str | None = None) -> None:
    """Devices start one by one and say at once how they are, while they may; every third is bad, or those of a stratum."""
    strata = {
        row["device_no"]: row["key"]
        for row in await world.rows("SELECT device_no, key FROM assignment JOIN stratum USING (campaign_no, stratum)")
    }
    offered = sorted((await world.offered(campaign.campaign_no)).items())
    random.Random(3).shuffle(offered)
    for index, (device, action) in enumerate(offered):
        if await world.offers.start(device, action) is None:
            continue
        fails = index % 3 == 2 if bad is None else strata[device] == bad
        kind = d.REVERTED if fails else d.CONFIRMED
        world.fact(device, action, kind, now_ms(), failure_class="boot" if fails else None)
        await world.project()


async def asked(world: World, campaign: c.Campaign, policy=None) -> Backtest:
    return await Backtests(SqlCampaignHistory(world.engine)).run(campaign.campaign_id, policy)


async def test_the_plans_own_rules_give_the_recorded_halt_again(world: World):
    campaign = await launched(world, FLEET)
    await roll_out(world, campaign)
    recorded = (await world.store.load(campaign.campaign_id)).halt
    assert recorded is not None
    found = await asked(world, campaign)
    would = found.halt
    assert would is not None
    assert found.own_rules
    assert (would.rule, would.scope, would.n, would.f, would.bound, would.log_e, would.p0, would.alpha) == (
        *(recorded.rule, recorded.scope, recorded.n, recorded.f, recorded.bound),
        *(recorded.log_e, recorded.p0, recorded.alpha),
    )
    assert (would.at, would.phase, would.gate_epoch) == (recorded.failed_at, recorded.phase, recorded.gate_epoch)
    (actual,) = found.actual.halts
    assert (actual.rule, actual.n, actual.f, actual.exposed) == (recorded.rule, recorded.n, recorded.f, would.exposed)
    assert (found.actual.state, found.spared) == ("halted", 0)
    assert found.basis.decisions >= recorded.ledger_position
    assert sum(found.basis.facts.values()) == sum(map(len, world.log.values()))


async def test_a_stricter_policy_halts_earlier_with_fewer_exposed_and_a_laxer_one_never(world: World):
    campaign = await launched(world, FLEET)
    await roll_out(world, campaign)
    own, strict, lax = [await asked(world, campaign, policy) for policy in (None, STRICT, LAX)]
    assert own.halt is not None
    assert strict.halt is not None
    assert strict.halt.at < own.halt.at
    assert strict.halt.exposed < own.halt.exposed
    assert strict.spared == own.halt.exposed - strict.halt.exposed
    assert (strict.halt.rule, strict.halt.f, strict.own_rules, strict.false_halt_at_most) == ("two", 2, False, 0.0)
    assert (lax.halt, lax.strata, lax.spared) == (None, [], 0)
    assert lax.actual == own.actual


async def test_strata_that_were_halted_alone_are_found_alone_again(world: World):
    campaign = await launched(world, ALONE)
    await roll_out(world, campaign, BAD)
    state = await world.store.load(campaign.campaign_id)
    assert (state.state, state.halted_strata) == ("running", (BAD,))
    found = await asked(world, campaign)
    (alone,), (actual,) = found.strata, found.actual.halts
    assert found.halt is None
    assert (alone.stratum, alone.halt.rule, alone.halt.n, alone.halt.f) == (BAD, "revision", actual.n, actual.f)
    assert (actual.stratum, actual.exposed, alone.started_after) == (BAD, alone.halt.exposed, 0)
    one = {"name": "one", "test": "threshold", "scope": "campaign", "share": 0.02, "after": 40}
    whole = await asked(world, campaign, {"halt": [one]})
    assert whole.halt is not None
    assert whole.spared > 0
    assert whole.strata == []


async def test_silence_and_infrastructure_count_as_they_did(world: World):
    campaign = await launched(world, FLEET)
    offered = sorted((await world.offered(campaign.campaign_no)).items())[:30]
    for number, (device, action) in enumerate(offered):
        await world.offers.start(device, action)
        if number < 10:
            world.fact(device, action, d.TRIAL, now_ms())
        elif number < 20:
            world.fact(device, action, d.FAILED, now_ms(), failure_class="transport")
    await world.project()
    later = now_ms() + 60_000
    await world.decisions.sweep(campaign.campaign_id, later, later)
    recorded = (await world.store.load(campaign.campaign_id)).halt
    assert recorded is not None
    found = await asked(world, campaign)
    assert found.halt is not None
    assert (found.halt.at, found.halt.n, found.halt.f) == (later, recorded.n, recorded.f) == (later, 30, 10)


async def test_before_the_launch_there_is_nothing_to_replay(world: World):
    no = await world.store.next_campaign_no()
    create = c.Create(campaign_id="cmp_x", campaign_no=no, name="draft", release_id="rel_1", plan=plan(), actor="ann")
    await world.command("cmp_x", lambda *_: create)
    backtests = Backtests(SqlCampaignHistory(world.engine))
    with pytest.raises(NotLaunchedError):
        await backtests.run("cmp_x")
    with pytest.raises(NotFoundError):
        await backtests.run("cmp_nobody")
