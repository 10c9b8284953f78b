"""Releases with several components on the real database: what a device is shown, what it says of each, what is counted."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.fact_archive import keep, restore
from orchestrator.adapters.sql.queries import SqlQueries
from orchestrator.domain.components import Outcome
from orchestrator.domain.visibility import Shown
from schemas import device_events as d
from schemas.registry_events import ReleaseComponent
from tests.support.world import IDENTITY, T0, TOPIC, World

PARTS = [
    ReleaseComponent(name="modem", kind="app", sha256="c1"),
    ReleaseComponent(name="display", kind="app", sha256="c2", after=["modem"]),
    ReleaseComponent(name="os", kind="os", sha256="c3"),
]


@pytest.fixture
async def world(engine: AsyncEngine) -> World:
    world = World(engine, components={"gateway-b": PARTS})
    await world.setup()
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    world.offers_made = await world.offered(campaign.campaign_no)  # pyright: ignore[reportAttributeAccessIssue]
    return world


async def devices(world: World, model: str) -> list[tuple[int, int]]:
    return [item for item in world.offers_made.items() if world.fleet[item[0]][2] == model]  # pyright: ignore[reportAttributeAccessIssue]


async def counts(world: World) -> dict[tuple[str, str], int]:
    found = await world.rows(
        "SELECT name, outcome, sum(n)::int AS n FROM component_count GROUP BY 1, 2 HAVING sum(n) <> 0"
    )
    return {(row["name"], row["outcome"]): row["n"] for row in found}


async def recounted(world: World) -> Counter[tuple[str, str]]:
    return Counter(
        (row["name"], row["outcome"]) for row in await world.rows("SELECT name, outcome FROM component_state")
    )


async def test_a_device_is_shown_the_components_of_its_model_in_order_and_others_their_one_artifact(world: World):
    device, action = (await devices(world, "gateway-b"))[0]
    view = await world.offers.current(device)
    assert view is not None
    assert view.shown is Shown.DEPLOYMENT
    assert [(each.name, each.kind, each.sha256, each.filename) for each in view.components] == [
        ("modem", "app", "c1", "fw.bin"),
        ("display", "app", "c2", "fw.bin"),
        ("os", "os", "c3", "fw.bin"),
    ]
    assert await world.offers.components(action) == {"modem": "app", "display": "app", "os": "os"}
    other, other_action = (await devices(world, "sensor-a"))[0]
    view = await world.offers.current(other)
    assert view is not None
    assert (view.components, view.sha256) == ([], "aa")
    assert await world.offers.components(other_action) == {}
    assert await world.offers.components(999) == {}


async def test_outcomes_are_kept_per_component_and_shown_with_what_is_in(world: World):
    (device, action), (whole, its_action), *_ = await devices(world, "gateway-b")
    world.fact(device, action, d.PROGRESS, T0 + 1, components={"modem": "installed"})
    world.fact(
        *(device, action, d.FAILED, T0 + 2),
        failure_class="health",
        reason="component.display",
        components={"modem": "installed", "display": "rolled_back"},
    )
    world.fact(whole, its_action, d.CONFIRMED, T0 + 3, components={"modem": "installed", "os": "confirmed"})
    await world.project()
    queries = SqlQueries(world.engine)
    status = await queries.device(f"dev-{device:04}")
    campaign = status.assignments[0].campaign_id
    assert [(c.name, c.outcome, c.changed_at, c.failure_class, c.version, c.digest) for c in status.components] == [
        ("display", "rolled_back", T0 + 2, "health", None, None),
        ("modem", "installed", T0 + 1, None, "2.0.0", "c1"),
    ]
    assert {c.campaign_id for c in status.components} == {campaign}
    assert (status.assignments[0].state, status.assignments[0].reason) == ("failed", "component.display")
    timeline = await queries.timeline(f"dev-{device:04}", 10, None)
    assert [entry.components for entry in timeline.items] == [
        {"modem": "installed", "display": "rolled_back"},
        {"modem": "installed"},
    ]
    assert (await queries.campaign(campaign)).components == {
        "display": {"rolled_back": 1},
        "modem": {"installed": 2},
        "os": {"confirmed": 1},
    }


async def test_a_failed_component_counts_in_the_gate_once(world: World):
    device, action = (await devices(world, "gateway-b"))[0]
    for at in range(3):
        said = {"modem": "rolled_back"}
        world.fact(device, action, d.FAILED, T0 + at, failure_class="health", reason="component.modem", components=said)
    await world.project()
    assert await world.value("SELECT sum(failed)::int FROM gate_count") == 1
    assert await counts(world) == {("modem", "rolled_back"): 1}


async def test_of_the_latest_attempt_the_outcome_counts_although_an_earlier_one_was_worse(world: World):
    device, action = (await devices(world, "gateway-b"))[0]
    no = await world.value("SELECT campaign_no FROM campaign")
    later = T0 + 3_600_000
    await world.decisions.sweep(f"cmp_{no}", later, later)  # the offers expire and go back into the queue
    await world.decisions.dispatch(f"cmp_{no}", 0, 500, later + 3_600_000)
    again = (await world.offered(no))[device]
    assert again != action
    world.fact(device, again, d.PROGRESS, later + 1, components={"modem": "installed"})
    world.fact(device, action, d.PROGRESS, later + 2, components={"modem": "rolled_back", "display": "installed"})
    await world.project()
    world.fact(device, again, d.PROGRESS, later + 3, components={"display": "failed"})
    await world.project()
    found = await world.rows("SELECT name, attempt, outcome FROM component_state ORDER BY name")
    assert [tuple(row.values()) for row in found] == [("display", 2, "failed"), ("modem", 2, "installed")]
    assert await counts(world) == {("display", "failed"): 1, ("modem", "installed"): 1}


def statements(dice: random.Random, offers: list[tuple[int, int]]) -> list[tuple[Any, ...]]:
    said: list[tuple[Any, ...]] = []
    for device, action in offers:
        for _ in range(dice.randrange(1, 6)):
            names = dice.sample([part.name for part in PARTS], dice.randrange(1, 4))
            outcomes = {name: dice.choice([*Outcome]).value for name in names}
            said.append((device, action, T0 + dice.randrange(5), dice.choice([None, "health", "boot"]), outcomes))
    return said


@pytest.mark.parametrize("seed", range(3))
async def test_any_order_and_any_repetition_gives_the_same_rows_and_counts(world: World, seed: int):
    dice = random.Random(seed)
    offers = await devices(world, "gateway-b")
    said = statements(dice, offers)

    async def rows_after(order: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
        await world.rows("DELETE FROM component_state RETURNING 1")
        await world.rows("DELETE FROM component_count RETURNING 1")
        for at, (device, action, recorded_at, blame, outcomes) in enumerate(order):
            world.fact(device, action, d.PROGRESS, recorded_at, failure_class=blame, components=outcomes)
            if at % 7 == seed:
                await world.project()
        await world.project()
        assert await counts(world) == dict(await recounted(world))
        return await world.rows("SELECT * FROM component_state ORDER BY device_no, campaign_no, name")

    first = await rows_after(said)
    assert len(first) > len(offers)
    for _ in range(2):
        assert await rows_after([*dice.sample(said, len(said)), *dice.choices(said, k=20)]) == first


async def test_what_a_component_became_is_restored_from_the_archive_of_a_lost_log(world: World):
    offers = await devices(world, "gateway-b")
    for device, action, at, blame, outcomes in statements(random.Random(5), offers):
        world.fact(device, action, d.PROGRESS, at, failure_class=blame, components=outcomes)
    await world.project()
    kept = await world.rows("SELECT * FROM component_state ORDER BY 1, 2, 3")
    before = await counts(world)
    async with transaction(world.engine) as conn:
        for partition in world.log:
            await keep(conn, TOPIC, partition, 1)
            await conn.execute(
                "INSERT INTO event_log (position, stream, version, event_id, type, v, data, meta, command_id, ordinal,"
                " recorded_at, prev_hash, hash) VALUES ($1, $2, 1, $2, 'LogLossAccepted', 1,"
                " jsonb_build_object('to_offset', $3::int), '{}', $2, 0, 1, '', '')",
                *(100_000 + partition, f"facts/{TOPIC}/{partition}", len(world.log[partition])),
            )
        for table in ("component_state", "component_count", "projection_position"):
            await conn.execute(f"DELETE FROM {table}")
        await restore(conn, "fleet", TOPIC, IDENTITY, world.log)
    assert await world.rows("SELECT * FROM component_state ORDER BY 1, 2, 3") == kept
    assert await counts(world) == before


async def test_names_and_outcomes_that_no_gateway_lets_through_block_nothing(world: World):
    device, action = (await devices(world, "gateway-b"))[0]
    hostile = {f"c{i}\0": "installed" for i in range(40)} | {"x" * 500: "failed", "odd": "exploded"}
    world.fact(device, action, d.PROGRESS, T0 + 1, components=hostile)
    await world.project()
    assert await world.value("SELECT count(*) FROM dead_letter") == 0
    assert await world.value("SELECT count(*) FROM component_state") == 16
