"""What owners want is in force at its commit: at the offer, at the poll and at the start; nothing of it holds up the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import uuid4

import msgspec
import pytest

from orchestrator.adapters.clock import now_ms
from orchestrator.adapters.sql import offers, rows, sieve
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.fleet import SqlFleet
from orchestrator.adapters.sql.owners import SqlOwners
from orchestrator.app.ports import Meta, VersionConflictError
from orchestrator.domain.owner import LOOK_AGAIN_MS, PostponementError, StateWill, Will, withheld
from orchestrator.domain.plan import parse_plan
from schemas import device_events as d
from schemas.owner_events import Consent
from tests.support.waiting import until
from tests.support.world import T0, TARGET, World, plan

DAY = 86_400_000
ALL = {"phases": [{"name": "all", "percent": 100.0, "soak": "5s"}], "max_in_flight": {"initial": 500, "maximum": 500}}
WITHHELD = "SELECT device_no, withheld, not_before FROM offer_queue WHERE withheld IS NOT NULL ORDER BY device_no"


@pytest.fixture
async def world(engine):
    made = World(engine, devices=60)
    await made.setup()
    return made


@pytest.fixture
def clock(monkeypatch):
    """The database's clock, as starts and polls read it."""
    now = [T0]

    async def read(_):
        return now[0]

    monkeypatch.setattr(offers, "_now", read)
    return now


async def says(world: World, device: int, *, version=None, command_id=None, at=None, longest_ms=90 * DAY, **will):
    """The owner of a device states a will."""

    def build(number: int, now: int) -> StateWill:
        return StateWill(
            device_no=number,
            device_id=f"dev-{number:04}",
            opted_out=will.get("opted_out", False),
            postponed_until=will.get("postponed_until"),
            consents=tuple(will.get("consents", ())),
            reason="asked for",
            on_behalf_of="customer 7",
            actor="ann",
            at=now if at is None else at,
        )

    return await SqlOwners(world.engine).state(
        f"dev-{device:04}",
        build,
        longest_ms=longest_ms,
        command_id=command_id or uuid4().hex,
        meta=Meta(actor="ann"),
        expected_version=version,
    )


async def opened(world: World, **changes):
    campaign = await world.launch(**{**ALL, **changes})
    await world.open_phase(campaign.campaign_id, 0, T0)
    return campaign


async def offer(world: World, campaign, now: int = T0, limit: int = 500):
    return await world.decisions.dispatch(campaign.campaign_id, 0, limit, now)


async def shown(world: World, device: int) -> str:
    view = await world.offers.current(device)
    assert view is not None
    return view.shown


async def test_who_opted_out_is_not_offered_and_comes_back_by_another_word(world):
    campaign = await opened(world)
    members = {row["device_no"] for row in await world.rows("SELECT device_no FROM offer_queue")}
    out = min(members)
    await says(world, out, opted_out=True)
    done = await offer(world, campaign)
    assert (done.granted, done.remaining) == (len(members) - 1, 0)
    assert [(row["device_no"], row["withheld"]) for row in await world.rows(WITHHELD)] == [(out, "opted_out")]
    assert (await offer(world, campaign, T0 + 1)).granted == 0
    # Its word brings it forward: nobody waits for the next look.
    await says(world, out, opted_out=False)
    assert await world.rows(WITHHELD) == []
    now = await world.value("SELECT not_before FROM offer_queue WHERE device_no = $1", out)
    assert (await offer(world, campaign, now)).granted == 1


async def test_an_opt_out_after_the_offer_hides_it_and_what_has_started_goes_on(world):
    campaign = await opened(world)
    await offer(world, campaign, limit=10)
    (started, first), (waits, second), *_ = (await world.offered(campaign.campaign_no)).items()
    assert await world.offers.start(started, first) is not None
    await says(world, started, opted_out=True)
    await says(world, waits, opted_out=True)
    assert await shown(world, started) == "deployment"
    assert await shown(world, waits) == "nothing"
    assert await world.offers.start(waits, second) is None
    assert await world.value("SELECT count(*) FROM decision_ledger WHERE kind = 'start'") == 1
    await says(world, waits, opted_out=False)
    assert await world.offers.start(waits, second) is not None


async def test_a_postponed_update_waits_until_its_time(world, clock):
    campaign = await opened(world)
    await offer(world, campaign, limit=10)
    device, action = next(iter((await world.offered(campaign.campaign_no)).items()))
    other = await world.value("SELECT device_no FROM offer_queue ORDER BY rank LIMIT 1")
    later = T0 + 3 * DAY
    for each in (device, other):
        await says(world, each, postponed_until=later, at=T0)
    assert await shown(world, device) == "nothing"
    assert await world.offers.start(device, action) is None
    await offer(world, campaign)
    found = await world.rows(WITHHELD)
    assert [(row["device_no"], row["withheld"], row["not_before"]) for row in found] == [(other, "postponed", later)]
    clock[0] = later
    assert await world.offers.start(device, action) is not None
    assert (await offer(world, campaign, later)).granted == 1


async def test_consent_counts_for_its_release_or_campaign_and_until_its_end(world):
    campaign = await opened(world, owner={"consent": "required"})
    assert (await offer(world, campaign)).granted == 0
    members = [row["device_no"] for row in await world.rows(WITHHELD)]
    release, single, wrong, ended, *_ = members
    await says(world, release, consents=[Consent(release_id="rel_1")])
    await says(world, single, consents=[Consent(campaign_id=campaign.campaign_id, until=T0 + 10**12)])
    await says(world, wrong, consents=[Consent(release_id="rel_2")])
    await says(world, ended, consents=[Consent(release_id="rel_1", until=T0)])
    now = await world.value("SELECT max(not_before) FROM offer_queue WHERE withheld IS NULL")
    assert (await offer(world, campaign, now)).granted == 2
    assert set(await world.offered(campaign.campaign_no)) == {release, single}
    assert {row["withheld"] for row in await world.rows(WITHHELD)} == {"consent"}
    # Taken back before the start, it forbids it.
    await says(world, single)
    assert await world.offers.start(single, (await world.offered(campaign.campaign_no))[single]) is None


async def test_preconditions_are_asked_at_the_offer_and_at_the_start(world):
    wanted = "attribute.battery=ge=30;attribute.presence==true"
    campaign = await opened(world, preconditions=wanted)
    members = [row["device_no"] for row in await world.rows("SELECT device_no FROM offer_queue ORDER BY rank")]
    ready, low, unknown, *_ = members

    async def reports(device: int, **attributes: str) -> None:
        async with transaction(world.engine) as conn:
            await conn.execute(
                "UPDATE device SET attributes = attributes || $2::jsonb WHERE device_no = $1",
                device,
                msgspec.json.encode(attributes).decode(),
            )

    await reports(ready, battery="80", presence="true")
    await reports(low, battery="12", presence="true")
    assert (await offer(world, campaign)).granted == 1
    assert set(await world.offered(campaign.campaign_no)) == {ready}
    found = {row["device_no"]: row for row in await world.rows(WITHHELD)}
    assert found[low]["withheld"] == found[unknown]["withheld"] == "preconditions"
    assert found[low]["not_before"] == T0 + LOOK_AGAIN_MS
    await reports(ready, battery="29")
    action = (await world.offered(campaign.campaign_no))[ready]
    assert await shown(world, ready) == "nothing"
    assert await world.offers.start(ready, action) is None
    await reports(ready, battery="30")
    assert await world.offers.start(ready, action) is not None
    await reports(low, battery="31")
    assert (await offer(world, campaign, T0 + LOOK_AGAIN_MS)).granted == 1


async def test_a_plan_that_overrides_offers_and_starts_all_the_same(world):
    overriding = {"opt_out": "overridden", "postpone": "overridden", "reason": "CVE-2026-1 is exploited"}
    campaign = await opened(world, owner=overriding)
    for device in range(1, 61):
        await says(world, device, opted_out=bool(device % 2), postponed_until=None if device % 2 else T0 + DAY, at=T0)
    assert (await offer(world, campaign)).remaining == 0
    offered = await world.offered(campaign.campaign_no)
    assert await world.rows(WITHHELD) == []
    device, action = next(iter(offered.items()))
    assert await world.offers.start(device, action) is not None


async def test_those_who_are_withheld_at_the_head_of_the_queue_do_not_starve_the_rest(world, monkeypatch):
    monkeypatch.setattr(sieve, "PAGE", 8)
    monkeypatch.setattr(sieve, "LOOK", 20)
    campaign = await opened(world)
    order = [row["device_no"] for row in await world.rows("SELECT device_no FROM offer_queue ORDER BY rank")]
    for device in order[:40]:
        await says(world, device, opted_out=True)
    granted = [(await offer(world, campaign, limit=5)).granted for _ in range(3)]
    assert sum(granted) > 0
    assert all(device in order[40:] for device in await world.offered(campaign.campaign_no))
    assert len(await world.rows(WITHHELD)) == 40


async def test_after_the_commit_of_an_opt_out_no_start_commits(world):
    """Whichever comes first at the device's row: the other one waits for it, and sees what it did."""
    campaign = await opened(world)
    await offer(world, campaign, limit=10)
    device, action = next(iter((await world.offered(campaign.campaign_no)).items()))
    async with transaction(world.engine) as conn:
        await rows.lock(conn, [(device, campaign.campaign_no)])
        stated = asyncio.create_task(says(world, device, opted_out=True))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

        async def queued(n: int) -> None:
            async def there() -> bool:
                return await world.value(waits) == n

            await until(there)

        await queued(1)
        start = asyncio.create_task(world.offers.start(device, action))
        await queued(2)
        assert not stated.done()
    await stated
    assert await start is None
    assert await world.value("SELECT count(*) FROM decision_ledger WHERE kind = 'start'") == 0


async def test_a_will_is_stated_once_and_has_a_version(world):
    first = await says(world, 1, opted_out=True, command_id="c1")
    again = await says(world, 1, opted_out=True, command_id="c1")
    same = await says(world, 1, opted_out=True)
    assert first == again == same
    assert (first.version, first.opted_out, first.on_behalf_of, first.actor) == (1, True, "customer 7", "ann")
    with pytest.raises(VersionConflictError):
        await says(world, 1, version=0)
    with pytest.raises(PostponementError):
        await says(world, 1, postponed_until=T0 + 91 * DAY, at=T0)
    with pytest.raises(PostponementError):
        await says(world, 1, postponed_until=T0 - 1, at=T0)
    assert (await says(world, 1, version=1)).version == 2
    assert (await SqlOwners(world.engine).read("dev-0002")).version == 0


async def test_a_phase_is_judged_without_those_who_are_withheld_and_the_ledger_says_who_was_left_out(world):
    campaign = await opened(world)
    out = [row["device_no"] for row in await world.rows("SELECT device_no FROM offer_queue ORDER BY rank LIMIT 3")]
    for device in out:
        await says(world, device, opted_out=True)
    await offer(world, campaign)
    for device, action in (await world.offered(campaign.campaign_no)).items():
        await world.offers.start(device, action)
        world.fact(device, action, d.CONFIRMED, T0 + 100)
    await world.project()
    reading = await world.decisions.read_gate(campaign.campaign_id, 0, T0 + DAY)
    assert (reading.queued, reading.waiting, reading.in_flight, reading.withheld) == (0, 0, 0, 3)
    assert await world.decisions.close_withheld(campaign.campaign_id, T0 + DAY) == {"opted_out": 3}
    assert await world.decisions.close_withheld(campaign.campaign_id, T0 + DAY) == {"opted_out": 3}
    entry = (await world.rows("SELECT * FROM decision_ledger WHERE kind = 'unqueue'"))[0]
    assert (entry["cause"], entry["device_nos"], entry["attempt"]) == ("opted_out", sorted(out), 1)
    assert await world.value("SELECT count(*) FROM offer_queue") == 0
    await world.recount()


POLICIES = [
    {"consent": consent, "opt_out": opt_out, "postpone": postpone, "reason": "why"}
    for consent in ("required", "not_required")
    for opt_out, postpone in (("honoured", "honoured"), ("overridden", "honoured"), ("honoured", "overridden"))
]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("preconditions", [None, "attribute.hw_revision==A"])
async def test_the_preview_counts_what_the_rule_says_of_each_device(world, policy, preconditions):
    now = now_ms()
    for device in range(1, 13):
        agreed = Consent(release_id="rel_1") if device % 2 else Consent(campaign_id="cmp_x", until=now + DAY)
        ended = Consent(release_id="rel_1", until=now - 1)
        await says(
            world,
            device,
            opted_out=device % 4 == 0,
            postponed_until=now + DAY if device % 3 == 0 else None,
            consents=[agreed, *([ended] if device % 2 == 0 else [])] if device % 5 else [ended],
        )
    changes = {"owner": policy, "preconditions": preconditions, "cohort": {"exclude": ["dev-0001"]}}
    parsed = parse_plan(plan(**changes))
    counted = await SqlFleet(world.engine).withheld(parsed, TARGET, release_id="rel_1", campaign_id="cmp_x")
    expected: Counter[str] = Counter()
    for _, name, _, attributes in world.fleet.values():
        if name == "dev-0001":
            continue
        said = await SqlOwners(world.engine).read(name)
        will = Will(opted_out=said.opted_out, postponed_until=said.postponed_until, consents=tuple(said.consents))
        meets = preconditions is None or attributes["hw_revision"] == "A"
        why = withheld(parsed.owner, will, "rel_1", "cmp_x", meets_preconditions=meets, now=now)
        if why is not None:
            expected[str(why.why)] += 1
    assert counted == expected
    assert counted
