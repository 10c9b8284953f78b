"""The switch: what it leaves as it was, what it refuses, and that everybody goes on through it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from orchestrator.adapters.sql import rebuild
from orchestrator.adapters.sql.decisions import SqlDecisions
from orchestrator.adapters.sql.engine import make_engine
from orchestrator.adapters.sql.offers import SqlOffers
from orchestrator.adapters.sql.queries import SqlQueries
from orchestrator.adapters.sql.shadow import DependentError
from schemas import device_events as d
from tests.integration.rebuild.conftest import Story
from tests.support.role import running
from tests.support.site import Site, eventually
from tests.support.world import T0

SWITCHES = 4

CATALOG = """
SELECT 'column' AS kind, c.relname::text AS of, a.attnum::int AS no, a.attname::text AS name,
    format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || ' ' || a.attstorage::text AS what
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
UNION ALL
SELECT 'index', t.relname, 0, i.relname, pg_get_indexdef(i.oid)
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
WHERE t.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'constraint', c.relname, 0, o.conname, pg_get_constraintdef(o.oid)
FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid WHERE c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'table', relname, 0, coalesce(reloptions::text, ''), coalesce(relacl::text, '')
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1, 2, 3, 4, 5"""


async def test_the_tables_are_as_before_with_their_indexes_settings_and_privileges(story: Story):
    await story.live(60)
    reader = f"reader_{random.randrange(10**9)}"
    await story.world.rows(f"CREATE ROLE {reader}")
    try:
        await story.world.rows(f"GRANT SELECT ON assignment, campaign, timeline TO {reader}")
        before = await story.world.rows(CATALOG)
        oid = await story.world.value("SELECT 'assignment'::regclass::oid::bigint")
        done = await story.rebuild()
        assert await story.world.value("SELECT 'assignment'::regclass::oid::bigint") != oid
        assert await story.world.rows(CATALOG) == before
        assert done.rows["assignment"] == await story.world.value("SELECT count(*) FROM assignment")
        assert not done.resumed
    finally:
        await story.world.rows(f"DROP OWNED BY {reader}")
        await story.world.rows(f"DROP ROLE {reader}")


async def test_life_goes_on_after_a_switch_and_the_next_one_finds_equal_rows(story: Story):
    for _ in range(3):
        await story.live(40)
        await story.rebuild()
    await story.live(20)
    await story.world.recount()
    assert await story.verify() == []


async def test_where_rows_differ_nothing_is_switched_until_somebody_says_why(story: Story):
    await story.live(60)
    await story.world.rows("UPDATE device SET version = 'x' WHERE device_no = 1 RETURNING 1")
    with pytest.raises(rebuild.DifferentError, match=r"device \(device_no 1\): version is 'x', rebuilt"):
        await story.rebuild()
    assert await story.world.value("SELECT version FROM device WHERE device_no = 1") == "x"
    done = await story.rebuild(accept=rebuild.Acceptance("an old backup was restored", "ann"))
    assert (done.resumed, [each.table for each in done.accepted]) == (True, ["device"])
    assert await story.world.value("SELECT version FROM device WHERE device_no = 1") != "x"
    (event,) = await story.world.rows("SELECT data, meta FROM event_log WHERE type = 'ProjectionsReplaced'")
    assert event["data"] == {
        "reason": "an old backup was restored",
        "differences": [str(done.accepted[0])],
        "actor": "ann",
    }
    assert await story.verify() == []


async def test_what_is_filed_beside_the_rows_is_completed(story: Story):
    for step in (story.offer, story.start, story.offer):
        await step()
    deadlines = await story.world.rows(
        "SELECT q.device_no, q.attempt, q.what, q.due_at FROM due_queue q JOIN assignment a"
        " USING (device_no, campaign_no, attempt) WHERE a.state = 'offered' AND q.what = 'offer' ORDER BY 1, 2"
    )
    assert deadlines
    await story.world.rows("DELETE FROM due_queue RETURNING 1")
    await story.world.rows("DELETE FROM pacing RETURNING 1")
    await story.rebuild()
    filed = await story.world.rows(
        "SELECT device_no, attempt, what, due_at FROM due_queue WHERE what = 'offer' ORDER BY 1, 2"
    )
    assert filed == deadlines
    assert await story.world.value("SELECT count(*) FROM pacing") == len(story.campaigns)


async def test_retries_that_were_still_to_be_decided_are_filed_again(story: Story):
    await story.offer()
    offered = {
        row["device_no"]: (row["campaign_no"], row["action_id"])
        for row in await story.world.rows("SELECT * FROM assignment ORDER BY device_no LIMIT 9")
    }
    blames = ["transport", "integrity", "install", "boot", None] * 2
    for (device, (_, action)), blame in zip(offered.items(), blames, strict=False):
        await story.world.offers.start(device, action)
        story.world.fact(device, action, d.FAILED, story.now, failure_class=blame)
    await story.project()
    await story.world.rows("DELETE FROM due_queue WHERE device_no = $1 RETURNING 1", min(offered))
    for campaign in story.campaigns:
        await story.world.decisions.sweep(campaign.campaign_id, story.now, story.now)
    queued = "SELECT device_no, attempt, not_before FROM offer_queue WHERE attempt > 1 ORDER BY 1"
    waiting = await story.world.rows(queued)
    assert waiting
    await story.world.rows("DELETE FROM due_queue RETURNING 1")
    await story.rebuild()
    assert await story.world.rows(queued) == waiting, "also when they are due"
    filed = await story.world.rows("SELECT device_no, attempt FROM due_queue WHERE what = 'retry' ORDER BY 1")
    assert filed == [{"device_no": min(offered), "attempt": 1}], "what is queued already needs no look"
    for campaign in story.campaigns:
        await story.world.decisions.sweep(campaign.campaign_id, story.now, story.now)
    assert {row["device_no"] for row in await story.world.rows(queued)} == {
        min(offered),
        *(row["device_no"] for row in waiting),
    }
    assert await story.verify() == []


async def test_a_view_of_a_table_that_would_be_dropped_is_named_before_the_work(story: Story):
    await story.world.rows("CREATE VIEW report AS SELECT state, count(*) FROM assignment GROUP BY 1")
    with pytest.raises(DependentError, match="report of assignment"):
        await story.rebuild()


async def test_a_transaction_that_does_not_end_puts_the_switch_off_and_a_reader_sees_nothing_of_it(
    story: Story, database_url
):
    await story.live(40)
    story.settings = story.settings.model_copy(update={"rebuild_lock_ms": 50, "rebuild_switch_attempts": 3})
    reader = await asyncpg.connect(database_url)
    reading = reader.transaction(isolation="repeatable_read", readonly=True)
    await reading.start()
    count = await reader.fetchval("SELECT count(*) FROM timeline")
    with pytest.raises(rebuild.SwitchBusyError):
        await story.rebuild()
    assert await reader.fetchval("SELECT count(*) FROM timeline") == count
    await reading.rollback()
    await reader.close()
    assert (await story.rebuild()).resumed


# --------------------------------------------------------------------------- everybody at once


async def forever(step: Callable[[], Awaitable[object]], done: asyncio.Event) -> int:
    """Repeat ``step`` until ``done``; how often. Any error of it is an error of the test."""
    count = 0
    while not done.is_set():
        await step()
        count += 1
        await asyncio.sleep(0.002)
    return count


async def test_projector_offers_starts_sweeps_and_readers_go_on_through_several_switches(site: Site, database_url):
    world, settings = site.world, site.settings
    hot = make_engine(database_url, pool_size=4, hot=True)
    ids = make_engine(database_url, pool_size=2)
    queries, offers, decisions = SqlQueries(hot), SqlOffers(hot, settings.device_events_topic), SqlDecisions(hot, ids)
    campaign = await world.launch(
        phases=[{"name": "all", "percent": 100.0, "soak": "1s"}],
        max_in_flight={"initial": 500, "maximum": 500},
        halt=[{"name": "failures", "scope": "campaign", "p0": 0.9, "alpha": 0.01}],
        offer_ttl="1h",
        confirm_deadline="1h",
    )
    await world.open_phase(campaign.campaign_id, 0, T0)
    dice, done = random.Random(3), asyncio.Event()
    given: dict[int, int] = {}
    said: list[str] = []

    async def offer() -> None:
        await decisions.dispatch(campaign.campaign_id, 0, 5, T0)

    async def start_and_report() -> None:
        offered = await world.offered(campaign.campaign_no)
        fresh = {device: action for device, action in offered.items() if device not in given}
        for device, action in dice.sample(sorted(fresh.items()), min(3, len(fresh))):
            assert (await offers.start(device, action)) is not None
            given[device] = action
            await site.produce(site.facts([d.DOWNLOADING, d.INSTALLED], [(device, action)]))
            said.append(str(device))

    async def sweep() -> None:
        await decisions.sweep(campaign.campaign_id, T0 + 1, T0 + 1)
        await asyncio.sleep(0.05)

    async def read() -> None:
        assert (await queries.campaign(campaign.campaign_id)).campaign_id == campaign.campaign_id
        device = dice.randrange(1, 200)
        assert (await queries.device(f"dev-{device:04}")).device_no == device
        await offers.current(device)

    steps = [offer, start_and_report, sweep, read, read]
    async with running("projector", settings, site.log):
        work = [asyncio.create_task(forever(step, done)) for step in steps]
        switched = []
        for _ in range(SWITCHES):
            switched.append(await rebuild.rebuild(settings))
            await asyncio.sleep(0.2)
        done.set()
        counts = await asyncio.gather(*work)
        assert all(counts)
        await eventually(lambda: _projected(site, 2 * len(given)))
    assert all(each.rows["assignment"] for each in switched)
    assert await world.value("SELECT count(DISTINCT event_id) FROM timeline") == 2 * len(given) == 2 * len(said)
    started = await world.rows(
        "SELECT u.d AS device FROM decision_ledger l, unnest(device_nos) u(d) WHERE campaign_no = $1 AND kind = 'start'",
        campaign.campaign_no,
    )
    assert sorted(row["device"] for row in started) == sorted(given)
    await world.recount()
    assert await rebuild.verify(settings) == []
    await hot.dispose()
    await ids.dispose()


async def _projected(site: Site, wanted: int) -> bool:
    return await site.world.value("SELECT count(*) FROM timeline") == wanted
