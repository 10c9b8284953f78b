"""The cohort is frozen once, as it was approved."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.adapters.sql import campaigns, enrolment
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.fleet import SqlFleet
from orchestrator.adapters.sql.locks import own_control
from orchestrator.adapters.sql.registry import SqlRegistry
from orchestrator.adapters.sql.rules import RulesCache
from orchestrator.app.ports import Member, Meta
from orchestrator.domain import campaign as c
from orchestrator.domain import cohort, selection
from orchestrator.domain.plan import parse_plan
from schemas import registry_events as r
from tests.support.waiting import until
from tests.support.world import T0, TARGET, World, plan

AWKWARD = ["A", "B", "-", "%2D", "a,b", "x=y", "ü", "", "\x1f", "attribute.site=A"]
"""Values that need care in a stratum's key."""

device = st.tuples(
    st.text("AZaz09.~", min_size=1, max_size=4),
    st.sampled_from(["sensor-a", "gateway-b", "other-c"]),
    st.dictionaries(st.sampled_from(["site", "hw_revision"]), st.sampled_from(AWKWARD)),
    st.sampled_from([None, "1.9.0", "2.0.0"]),
    st.sampled_from([None, "aa", "bb"]),
)
fleets = (
    st.sampled_from([0, 1, 10, 60])
    .flatmap(lambda size: st.lists(device, min_size=size, max_size=2 * size, unique_by=lambda found: found[0]))
    .map(lambda found: {no: (no, *each) for no, each in enumerate(found, 1)})
)

dimensions = st.lists(
    st.sampled_from(["hardware_model", "attribute.site", "attribute.hw_revision"]), unique=True, max_size=3
)


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


async def test_members_holdback_and_queue_are_what_was_approved(world):
    campaign = await world.launch()
    await world.decisions.enrol(campaign.campaign_id, T0)
    enrolled = await world.value("SELECT enrolment FROM campaign")
    assert (enrolled["members"], enrolled["holdback"], enrolled["phases"]) == (200, 2, [40, 158])
    assert await world.value("SELECT count(*) FROM offer_queue WHERE phase = 0") == 40
    frozen = await world.rows("SELECT phase, device_nos FROM decision_ledger WHERE kind = 'enrol'")
    everyone = [device for row in frozen for device in row["device_nos"]]
    assert sorted(everyone) == sorted(world.fleet)
    held = {device for row in frozen if row["phase"] == -1 for device in row["device_nos"]}
    queued = {row["device_no"] for row in await world.rows("SELECT device_no FROM offer_queue")}
    assert not held & queued


async def test_a_device_that_was_registered_after_the_count_is_no_member_and_halts_nothing(world):
    counted = await SqlFleet(world.engine).count(parse_plan(plan()), TARGET)
    assert counted.at == await world.value("SELECT max(registered_at) FROM device")
    late = r.RegisteredDevice(
        device_no=999, device_id="late", hardware_model="sensor-a", attributes={"hw_revision": "A"}
    )
    await SqlRegistry(world.engine).record(
        "test/late", [r.DevicesRegistered(devices=[late], actor="test")], command_id="late", meta=Meta(actor="test")
    )
    world.counted_at = await world.value("SELECT registered_at FROM device WHERE device_no = 999") - 1
    campaign = await world.launch()
    enrolled = await world.decisions.enrol(campaign.campaign_id, T0)
    assert enrolled.state is c.CampaignState.RUNNING
    assert enrolled.enrolled
    assert await world.value("SELECT count(*) FROM offer_queue WHERE device_no = 999") == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fleet=fleets, stratify_by=dimensions, holdback=st.sampled_from([0.0, 1.0, 20.0]), data=st.data())
async def test_the_database_enrols_whom_the_domain_enrols_in_the_same_order(world, fleet, stratify_by, holdback, data):
    listed = data.draw(
        st.lists(st.sampled_from([each[1] for each in fleet.values()] or ["-"]), unique=True, max_size=6)
    )
    named = data.draw(st.integers(0, len(listed)))
    spec = {"stratify_by": stratify_by, "holdback_percent": holdback, "salt": data.draw(st.sampled_from(["s", "ü"]))}
    spec |= {"include": listed[:named], "exclude": listed[named:]}
    spec["selector"] = data.draw(
        st.sampled_from([None, "hardware_model!=a*", "device_id==*1*,attribute.x=exists=true"])
    )
    spec["skip_current"] = data.draw(st.booleans())
    spec["groups"] = {"site": "attribute.site=exists=true", "some": "device_id==*1*,attribute.hw_revision==A"}
    sizes = [{"group": "site"}, {"group": "some"}, {"devices": listed or ["-"]}, {"percent": 30.0}, {"count": 9}]
    drawn = data.draw(st.lists(st.sampled_from(sizes), max_size=4, unique_by=str))
    phases = [{"name": f"p{index}", "soak": 0, **size} for index, size in enumerate([*drawn, {"percent": 100.0}])]
    async with transaction(world.engine) as conn:
        await conn.execute("TRUNCATE device")
        await conn.copy_records_to_table(
            "device",
            columns=["device_no", "device_id", "hardware_model", "attributes", "version", "digest", "registered_at"],
            records=[(*each[:3], msgspec.json.encode(each[3]).decode(), *each[4:], 0) for each in fleet.values()],
        )
    world.fleet = fleet
    campaign = await world.launch(cohort=spec, phases=phases)
    async with transaction(world.engine) as conn:
        rules = (await RulesCache().get(conn, [campaign.campaign_no]))[campaign.campaign_no]
    frozen_plan = rules.dossier.plan
    members = selection.select(frozen_plan, [Member(*each) for each in fleet.values()], TARGET)
    expected = cohort.assign_phases(members, frozen_plan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enrolment, "LEDGER_ROW", 7)
        patch.setattr(enrolment, "LEDGER_PAGE", 2)
        await world.decisions.enrol(campaign.campaign_id, T0)

    queued = await world.rows(
        "SELECT campaign_no, phase, rank, device_no, stratum, attempt, not_before FROM offer_queue WHERE campaign_no = $1"
        " ORDER BY phase, rank",
        rules.campaign_no,
    )
    wanted = [row for phase, strata in enumerate(expected.phases) for row in enrolment.queue_rows(rules, phase, strata)]
    assert [tuple(row.values()) for row in queued] == wanted
    frozen = defaultdict(list)
    for row in await world.rows(
        "SELECT phase, stratum, device_nos FROM decision_ledger WHERE campaign_no = $1 ORDER BY position",
        rules.campaign_no,
    ):
        assert len(row["device_nos"]) <= 7
        frozen[row["phase"], rules.strata[row["stratum"]]] += row["device_nos"]
    groups = [(enrolment.HOLDBACK, expected.holdback), *enumerate(expected.phases)]
    assert frozen == {(phase, key): list(strata[key]) for phase, strata in groups for key in strata}
    enrolled = await world.value("SELECT enrolment FROM campaign WHERE campaign_no = $1", rules.campaign_no)
    assert enrolled["strata"] == expected.strata
    assert enrolled["phases"] == [sum(map(len, strata.values())) for strata in expected.phases]


async def test_a_pause_does_not_wait_for_the_selection_and_undoes_it(world):
    campaign = await world.launch()
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with transaction(world.engine) as conn:
        await own_control(conn, campaign.campaign_no)
        selecting = asyncio.create_task(world.decisions.enrol(campaign.campaign_id, T0))

        async def selected():
            return await world.value(waiting) == 1

        await until(selected)
        await campaigns.execute(
            conn,
            campaign.campaign_id,
            lambda _, standing: c.Pause(actor="ann", reason="r", ledger_position=standing.ledger_position),
            command_id="pause",
            meta=Meta(actor="ann"),
        )
    assert (await selecting).state is c.CampaignState.PAUSED
    for table in ("offer_queue", "stratum", "decision_ledger"):
        assert await world.value(f"SELECT count(*) FROM {table}") == 0
    await world.command(campaign.campaign_id, lambda *_: c.Resume(actor="ann", reason="r", ledger_position=0))
    assert (await world.decisions.enrol(campaign.campaign_id, T0)).enrolled


async def test_two_enrolments_at_once_enrol_once(world):
    campaign = await world.launch()
    await asyncio.gather(*(world.decisions.enrol(campaign.campaign_id, T0) for _ in range(3)))
    assert await world.value("SELECT count(*) FROM offer_queue") == 198
    assert await world.value("SELECT count(*) FROM event_log WHERE type = 'CohortEnrolled'") == 1


async def test_a_device_that_registers_after_the_submission_stays_out(world):
    campaign = await world.launch()
    async with transaction(world.engine) as conn:
        later = await conn.fetchval("SELECT max(recorded_at) + 1 FROM event_log")
        await conn.execute(
            "INSERT INTO device VALUES (900, 'dev-new', 'sensor-a', $1::jsonb, NULL, NULL, $2, NULL)",
            msgspec.json.encode({"hw_revision": "A"}).decode(),
            later,
        )
    state = await world.decisions.enrol(campaign.campaign_id, T0)
    assert state.state is c.CampaignState.RUNNING
    assert await world.value("SELECT count(*) FROM offer_queue WHERE device_no = 900") == 0


async def test_a_fleet_that_outgrew_its_dossier_halts_the_campaign_before_any_offer(world):
    campaign = await world.launch()
    async with transaction(world.engine) as conn:
        await conn.execute("""UPDATE device SET attributes = '{"hw_revision": "Z"}' WHERE device_no < 5""")
    state = await world.decisions.enrol(campaign.campaign_id, T0)
    assert state.state is c.CampaignState.HALTED
    assert state.halt is not None
    assert "no longer fits" in state.halt.reason
    assert await world.value("SELECT count(*) FROM decision_ledger") == 0
    assert await world.value("SELECT count(*) FROM offer_queue") == 0


GROUPED = {
    "cohort": {"stratify_by": ["hardware_model"], "groups": {"late": "attribute.hw_revision==C"}, "salt": "s"},
    "phases": [
        {"name": "late", "group": "late", "soak": 0},
        {"name": "all", "percent": 100.0, "soak": 0},
    ],
}


async def test_a_group_that_outgrew_its_dossier_halts_the_campaign_although_its_stratum_did_not(world):
    campaign = await world.launch(**GROUPED)
    async with transaction(world.engine) as conn:
        await conn.execute("""UPDATE device SET attributes = '{"hw_revision": "C"}' WHERE device_no < 5""")
    state = await world.decisions.enrol(campaign.campaign_id, T0)
    assert state.halt is not None
    assert "in phase late" in state.halt.reason
    assert await world.value("SELECT count(*) FROM offer_queue") == 0


async def test_a_group_is_enrolled_with_the_numbers_that_were_approved(world):
    campaign = await world.launch(**GROUPED)
    await world.decisions.enrol(campaign.campaign_id, T0)
    found = await world.rows(
        "SELECT phase, s.key, count(*) AS n, bool_and((attributes->>'hw_revision' = 'C') = (phase = 0)) AS placed"
        " FROM offer_queue q JOIN device USING (device_no) JOIN stratum s USING (campaign_no, stratum) GROUP BY 1, 2"
    )
    assert all(row["placed"] for row in found)
    shares = campaign.dossier["phases"]
    assert {(row["phase"], row["key"]): row["n"] for row in found} == {
        (index, key): n for index, share in enumerate(shares) for key, n in share["strata"].items()
    }


async def test_a_device_that_reports_the_release_before_the_launch_is_no_member(world):
    campaign = await world.launch()
    await world.rows("UPDATE device SET version = '2.0.0' WHERE device_no = 7")
    assert (await world.decisions.enrol(campaign.campaign_id, T0)).enrolled
    assert await world.value("SELECT count(*) FROM offer_queue WHERE device_no = 7") == 0
    assert (await world.value("SELECT enrolment FROM campaign"))["members"] == 199
