"""How many devices of one site may be away at once, whichever campaigns they are away for."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from orchestrator.adapters.sql import claims
from orchestrator.adapters.sql.decisions import SqlDecisions
from orchestrator.adapters.sql.engine import make_engine, transaction
from orchestrator.adapters.sql.fleet import SqlFleet
from orchestrator.domain.budget import MAX_VALUES, value_of
from orchestrator.domain.dossier import validate_against
from orchestrator.domain.plan import parse_plan
from schemas import device_events as d
from tests.support.world import T0, TARGET, World, plan

PLAN = {
    "phases": [{"name": "all", "percent": 100.0, "soak": "1s"}],
    "max_in_flight": {"initial": 500, "maximum": 500},
    "offer_ttl": "1h",
    "cohort": {"stratify_by": [], "salt": "salt"},
}
TENTH = [{"label": "attribute.site", "max_percent": 10, "min_count": 1}]
LATER = 600_001


def site(device: int) -> str:
    """Half the fleet is at one site, one of its devices says nothing, eight small ones have the rest."""
    return "plant" if device <= 100 else "-" if device == 200 else f"shop-{device % 8}"


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    await at_sites(made)
    return made


async def at_sites(world: World) -> None:
    places = {no: site(no) for no in world.fleet}
    async with transaction(world.engine) as conn:
        await conn.executemany(
            "UPDATE device SET attributes = attributes || jsonb_build_object('site', $2::text) WHERE device_no = $1",
            [(no, place) for no, place in places.items() if place != "-"],
        )
    for no, (_, name, model, attributes) in world.fleet.items():
        said = {"site": places[no]} if places[no] != "-" else {}
        world.fleet[no] = (no, name, model, attributes | said)


async def launched(world: World, **changes):
    campaign = await world.launch(**PLAN | changes)
    return await world.open_phase(campaign.campaign_id, 0, T0)


async def away(world: World) -> Counter[str]:
    """Devices that hold a slot, by site."""
    return Counter(site(row["device_no"]) for row in await world.rows("SELECT device_no FROM device_slot"))


async def test_no_site_has_more_devices_away_than_its_share_and_the_smallest_have_one(world):
    campaign = await launched(world, budget=TENTH)
    done = await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    assert await away(world) == {"plant": 10, "-": 1} | {f"shop-{n}": 1 for n in range(8)}
    assert (done.granted, done.over_budget, done.remaining) == (19, 181, 181)
    again = await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0 + LATER)
    assert (again.granted, again.over_budget) == (0, 181)
    assert again.hold == "181 devices wait for room in the budget."


async def test_what_other_campaigns_have_away_counts_with_or_without_a_budget_of_theirs(world):
    free = await launched(world, cohort={"include": [f"dev-{n:04}" for n in range(1, 8)], "salt": "s"})
    await world.decisions.dispatch(free.campaign_id, 0, 500, T0)
    assert await away(world) == {"plant": 7}
    bound = await launched(world, budget=TENTH)
    await world.decisions.dispatch(bound.campaign_id, 0, 500, T0)
    assert (await away(world))["plant"] == 10
    assert len(await world.offered(bound.campaign_no)) == 12


async def test_a_device_that_ends_makes_room_for_the_next_of_its_site(world):
    campaign = await launched(world, budget=TENTH)
    now, seen = T0, set()
    for _ in range(40):
        await world.decisions.dispatch(campaign.campaign_id, 0, 500, now)
        counted = await away(world)
        assert max(counted[f"shop-{n}"] for n in range(8)) <= 1
        assert counted["plant"] <= 10
        for device, action in (await world.offered(campaign.campaign_no)).items():
            await world.offers.start(device, action)
            world.fact(device, action, d.CONFIRMED, now + 1)
            seen.add(device)
        await world.project()
        if len(seen) == 200:
            break
        now += 60_000
    assert len(seen) == 200
    await world.recount()


async def test_a_full_site_at_the_head_of_the_queue_keeps_nobody_waiting(world, monkeypatch):
    monkeypatch.setattr(claims, "PAGE", 8)
    monkeypatch.setattr(claims, "LOOK", 16)
    campaign = await launched(world, budget=TENTH)
    async with transaction(world.engine) as conn:
        await conn.execute("UPDATE offer_queue SET rank = 10_000 + device_no")
    slices = 0
    while len(await world.offered(campaign.campaign_no)) < 19:
        await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0 + slices * 250)
        slices += 1
        assert slices <= 20
    assert (await away(world))["plant"] == 10
    # The line is spread: it comes back in parts, and not at once.
    times = [row["not_before"] for row in await world.rows("SELECT not_before FROM offer_queue WHERE device_no <= 100")]
    assert min(times) >= T0 + 5_000
    assert len({time // 5_000 for time in times}) > 20


async def test_several_labels_bind_at_once_and_one_that_is_busy_takes_no_room(world):
    budget = [*TENTH, {"label": "hardware_model", "max_percent": 4}]
    other = await launched(world, cohort={"include": ["dev-0001"], "salt": "s"})
    await world.decisions.dispatch(other.campaign_id, 0, 500, T0)
    campaign = await launched(world, budget=budget)
    done = await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    rows = await world.rows(
        "SELECT hardware_model AS m, count(*) AS n FROM device_slot JOIN device USING (device_no) GROUP BY 1"
    )
    assert {row["m"]: row["n"] for row in rows} == {"sensor-a": 4, "gateway-b": 4}
    assert done.granted == 7


async def test_slices_of_several_campaigns_at_once_do_not_both_see_the_same_room(world, database_url):
    ids = make_engine(database_url, pool_size=2)
    decisions = SqlDecisions(world.engine, ids)
    campaigns = [await launched(world, budget=TENTH, cohort={"salt": f"s{n}"}) for n in range(4)]

    async def offer(campaign_id: str) -> None:
        for turn in range(3):
            await decisions.dispatch(campaign_id, 0, 7, T0 + turn * LATER)
            counted = await away(world)
            assert counted["plant"] <= 10
            assert max(counted[f"shop-{n}"] for n in range(8)) <= 1

    await asyncio.gather(*(offer(campaign.campaign_id) for campaign in campaigns for _ in range(2)))
    assert (await away(world)) == {"plant": 10, "-": 1} | {f"shop-{n}": 1 for n in range(8)}
    await ids.dispose()


async def test_the_database_counts_as_the_domain_does(world):
    parsed = parse_plan(plan(**PLAN, budget=[*TENTH, {"label": "hardware_model", "max_percent": 25}]))
    counted = await SqlFleet(world.engine).count(parsed, TARGET)
    for rule, found in zip(parsed.budget, counted.budget, strict=True):
        assert found == Counter(value_of(rule.label, m, a) for _, _, m, a in world.fleet.values())
    assert counted.budget[0]["-"] == 1
    assert sum(counted.budget[1].values()) == 200  # the whole fleet, not the cohort


async def test_a_label_with_too_many_values_is_refused_under_a_code(world):
    async with transaction(world.engine) as conn:
        await conn.execute(
            "INSERT INTO device (device_no, device_id, hardware_model, attributes, registered_at)"
            " SELECT i, 'x-' || i, 'sensor-a', jsonb_build_object('site', i::text), 0 FROM generate_series(1000, $1::int) i",
            1_000 + MAX_VALUES + 10,
        )
    parsed = parse_plan(plan(**PLAN, budget=TENTH))
    counted = await SqlFleet(world.engine).count(parsed, TARGET)
    assert len(counted.budget[0]) == MAX_VALUES + 1
    problems = validate_against(parsed, strata_sizes=counted.strata, release_models=["sensor-a"], budget=counted.budget)
    assert [(each.pointer, each.code) for each in problems] == [("/budget/0/label", "plan.budget.values")]


async def test_a_site_that_appears_after_the_approval_moves_at_the_least_pace(world):
    campaign = await launched(world, budget=TENTH)
    async with transaction(world.engine) as conn:
        await conn.execute('UPDATE device SET attributes = attributes || \'{"site": "new"}\' WHERE device_no <= 100')
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    rows = await world.rows("SELECT device_no FROM device_slot WHERE device_no <= 100")
    assert len(rows) == 1
