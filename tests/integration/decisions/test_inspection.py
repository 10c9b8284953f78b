"""What a preview finds in the fleet: the database counts what the domain's rules say, device by device."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.adapters.sql import inspection
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.fleet import SqlFleet
from orchestrator.app.inspection import UNSEEN_DAYS, Inspection
from orchestrator.app.ports import Member
from orchestrator.domain.plan import Plan, parse_plan
from orchestrator.domain.selection import Target, is_current, select, selected
from tests.support.world import T0, TARGET, World, plan

DAY = 24 * 3_600_000


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


async def inspect(world: World, parsed: Plan, target: Target = TARGET, campaign_no: int = 0) -> Inspection:
    async with transaction(world.engine) as conn:
        return await inspection.inspect(conn, parsed, target, campaign_no, T0)


def plain(parsed: Plan, target: Target, fleet: dict[int, Member], seen: dict[int, int | None]) -> Counter[tuple]:
    """The same counts, one device after the other."""
    found: Counter[tuple] = Counter()
    asked, models = selected(parsed), parsed.cohort.hardware_models
    ids = {device.device_id: device for device in fleet.values()}
    for number, device in fleet.items():
        if not asked(device) or (models and device.hardware_model not in models):
            continue
        if device.hardware_model not in target.artifacts:
            found["hardware_model", device.hardware_model] += 1
        elif parsed.cohort.skip_current and is_current(device, target):
            found["already_current", None] += 1
        elif seen[number] is None:
            found["never_seen", None] += 1
        elif seen[number] < T0 - UNSEEN_DAYS * DAY:
            found["not_seen_lately", None] += 1
    listed = {*parsed.cohort.include, *(each for phase in parsed.phases for each in phase.devices or ())}
    for name in listed:
        if name not in ids:
            found["unknown_device", None] += 1
        elif not asked(ids[name]) or (models and ids[name].hardware_model not in models):
            found["not_selected", None] += 1
    return found


times = st.sampled_from([None, T0 - DAY, T0 - 20 * DAY])
devices = st.lists(
    st.tuples(
        st.sampled_from(["sensor-a", "gateway-b", "other-c", "other-d"]),
        st.dictionaries(st.just("site"), st.sampled_from("xy")),
        st.sampled_from([None, "1.9.0", "2.0.0"]),
        st.sampled_from([None, "aa", "bb"]),
        times,
        times,
    ),
    max_size=40,
)
listings = st.lists(st.integers(1, 45).map("dev-{}".format), max_size=8, unique=True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=devices, include=listings, named=listings, data=st.data())
async def test_the_database_counts_what_the_rules_say(world, drawn, include, named, data):
    spec = {
        "include": include,
        "hardware_models": data.draw(st.sampled_from([[], ["sensor-a"], ["sensor-a", "other-c"]])),
        "selector": data.draw(st.sampled_from([None, "attribute.site==x", "device_id!=*1*"])),
        "skip_current": data.draw(st.booleans()),
    }
    phases = [{"name": "named", "devices": named, "soak": 0}] if named else []
    parsed = parse_plan(plan(cohort=spec, phases=[*phases, {"name": "all", "percent": 100.0, "soak": 0}]))
    fleet = {
        no: Member(no, f"dev-{no}", model, attributes, version, digest)
        for no, (model, attributes, version, digest, *_) in enumerate(drawn, 1)
    }
    seen = {no: max((at for at in each[4:] if at is not None), default=None) for no, each in enumerate(drawn, 1)}
    async with transaction(world.engine) as conn:
        await conn.execute("TRUNCATE device, device_identity, presence")
        for no, each in enumerate(drawn, 1):
            attributes = msgspec.json.encode(each[1]).decode()
            await conn.execute(
                "INSERT INTO device VALUES ($1, $2, $3, $4::jsonb, $5, $6, 0, $7)",
                *(no, f"dev-{no}", each[0], attributes, each[2], each[3], each[4]),
            )
            await conn.execute("INSERT INTO device_identity VALUES ($1, $2, $3, NULL, 0)", no, f"dev-{no}", each[0])
            if each[5] is not None:
                await conn.execute("INSERT INTO presence VALUES ($1, $2)", no, each[5])
    found = await inspect(world, parsed)
    expected = plain(parsed, TARGET, fleet, seen)
    assert {(each.reason, each.detail): each.devices for each in found.not_applicable} == expected
    members = {member.device_id for member in select(parsed, fleet.values(), TARGET)}
    for each in found.not_applicable:
        assert 0 < len(each.samples) == min(each.devices, 5)
        assert each.enrolled == (set(each.samples) <= members)


async def test_devices_in_other_live_campaigns_are_counted_by_campaign(world):
    other = await world.launch()
    await world.open_phase(other.campaign_id, 0, T0)
    await world.decisions.dispatch(other.campaign_id, 0, 30, T0)
    draft = parse_plan(plan(cohort={"selector": "hardware_model==sensor-a"}))
    (conflict,) = (await inspect(world, draft)).conflicts
    mine = "device JOIN {} USING (device_no) WHERE hardware_model = 'sensor-a'"
    in_flight = await world.rows(f"SELECT device_id FROM {mine.format('device_slot')}")
    waiting = await world.value(f"SELECT count(*) FROM {mine.format('offer_queue')}")
    assert (conflict.campaign_id, conflict.state) == (other.campaign_id, "running")
    assert (conflict.in_flight, conflict.waiting) == (len(in_flight), waiting)
    assert 0 < conflict.in_flight < 30
    assert len(conflict.samples) == 5
    assert (await inspect(world, draft, campaign_no=other.campaign_no)).conflicts == []


async def test_a_device_that_waits_in_an_ended_campaign_is_free_and_one_in_flight_there_is_not(world):
    other = await world.launch()
    await world.open_phase(other.campaign_id, 0, T0)
    await world.decisions.dispatch(other.campaign_id, 0, 30, T0)
    await world.rows("UPDATE campaign SET state = 'aborted'")
    (conflict,) = (await inspect(world, parse_plan(plan()))).conflicts
    assert (conflict.in_flight, conflict.waiting, conflict.state) == (30, 0, "aborted")


async def test_what_a_device_said_before_its_last_update_is_no_reason_to_leave_it_out(world):
    await world.rows("UPDATE device SET version = '2.0.0', reported_at = $1 WHERE device_no <= 4", T0)
    for device, state, at in ((1, "confirmed", T0 + 1), (2, "confirmed", T0 - 1), (3, "reverted", T0 + 1)):
        await world.rows(
            "INSERT INTO assignment (device_no, campaign_no, phase, stratum, attempt, action_id, gate_epoch, offered_at, state,"
            " changed_at, progress) VALUES ($1, 99, 0, 0, 1, 7, 1, 0, $2, $3, 'trial')",
            *(device, state, at),
        )
    parsed = parse_plan(plan())
    fleet = SqlFleet(world.engine)
    members = [member async for page in fleet.members(list(TARGET.artifacts)) for member in page]
    assert [member.device_no for member in members if member.outdated] == [1]
    left_out = {member.device_no for member in members} - {each.device_no for each in select(parsed, members, TARGET)}
    assert left_out == {2, 3, 4}
    counted = await fleet.count(parsed, TARGET)
    assert sum(counted.strata.values()) == len(members) - 3
    (current,) = [each for each in (await inspect(world, parsed)).not_applicable if each.reason == "already_current"]
    assert current.devices == 3
