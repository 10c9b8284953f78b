"""The pace of a running campaign: a cap that grows with what confirms, spread starts, the brake, and revisions."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.adapters.sql import dispatch, offers
from orchestrator.adapters.sql.offer_board import OfferBoard
from orchestrator.adapters.sql.offers import SqlOffers
from orchestrator.domain import campaign as c
from orchestrator.domain.approval import SameActorError
from orchestrator.domain.brake import OFF, Brake
from orchestrator.domain.pacing import start_offset
from schemas import device_events as d
from schemas.campaign_events import CampaignHalted
from tests.support.world import T0, TOPIC, World

MINUTE = 60_000
JITTER = 10 * MINUTE


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


async def launched(world: World, *, cap: dict[str, int], **phase: Any) -> c.Campaign:
    phases = [{"name": "all", "percent": 100.0, "soak": "5s"} | phase]
    campaign = await world.launch(phases=phases, max_in_flight=cap, offer_ttl="30m", confirm_deadline="1h")
    return await world.open_phase(campaign.campaign_id, 0, T0)


async def offer(world: World, campaign: c.Campaign, now: int = T0) -> int:
    return (await world.decisions.dispatch(campaign.campaign_id, 0, 500, now)).granted


async def confirm(world: World, campaign: c.Campaign, count: int, at: int = T0 + 1) -> None:
    for item in list((await world.offered(campaign.campaign_no)).items())[:count]:
        assert await world.offers.start(*item)
        world.fact(*item, d.CONFIRMED, at)
    await world.project()


def braked(**limits: int):
    return lambda _, s: c.ApplyBrake(
        actor="eve", reason="line is full", limits=Brake(**limits), ledger_position=s.ledger_position
    )


# ---- the cap inside a phase


async def test_the_cap_grows_with_what_the_open_phase_confirmed_and_starts_again_after_a_halt(world):
    campaign = await launched(world, cap={"initial": 10, "maximum": 24, "add": 2, "per_confirmed": 5})
    assert await offer(world, campaign) == 10
    await confirm(world, campaign, 4)
    assert await offer(world, campaign) == 4, "room, but no growth yet"
    await confirm(world, campaign, 6)
    assert await offer(world, campaign) == 6 + 4, "ten confirmed: twice two more"
    for _ in range(6):
        await confirm(world, campaign, 14)
        await offer(world, campaign)
    in_flight = await world.value("SELECT count(*) FROM assignment WHERE state = 'offered'")
    assert in_flight == 24, "never above the maximum"

    await world.command(
        campaign.campaign_id,
        lambda now, s: c.Halt(
            event=CampaignHalted(
                by="eve", reason="r", phase=0, gate_epoch=now.gate_epoch, ledger_position=s.ledger_position
            )
        ),
    )
    await world.decisions.sweep(campaign.campaign_id, T0 + 2, 0)
    await world.command(campaign.campaign_id, lambda *_: c.Approve(actor="bob", digest=str(campaign.digest)))
    await world.command(campaign.campaign_id, lambda *_: c.Resume(actor="ann", reason="r", ledger_position=0))
    assert await offer(world, campaign) == 10


async def test_a_device_that_is_offered_again_obeys_the_cap_of_the_open_phase_too(world):
    phases = [
        {"name": "canary", "percent": 20.0, "soak": "5s"},
        {"name": "rest", "percent": 100.0, "soak": "5s", "max_in_flight": 5},
    ]
    campaign = await world.launch(phases=phases, max_in_flight={"initial": 20, "maximum": 100})
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.command(campaign.campaign_id, lambda *_: c.StartSoak(phase=0, at=T0))
    promote = c.Promote(phase=0, matured=0, failures=0, log_e=None, at=T0, ledger_position=0, ledger_digest="sha256:l")
    await world.command(campaign.campaign_id, lambda *_: promote)
    await world.open_phase(campaign.campaign_id, 1, T0)
    assert await offer(world, campaign) == 5


# ---- spread starts


@pytest.fixture
def clock(monkeypatch):
    """The database's clock, as starts and polls read it."""
    now = [T0]

    async def read(_):
        return now[0]

    monkeypatch.setattr(offers, "_now", read)
    return now


async def test_a_device_is_shown_its_offer_and_starts_only_after_its_own_time(world, clock):
    campaign = await launched(world, cap={"initial": 500, "maximum": 500}, jitter=JITTER)
    await offer(world, campaign)
    board = OfferBoard(world.engine, poll=60.0, stale=600.0)
    await board.start()
    gateway = SqlOffers(world.engine, TOPIC, board)
    try:
        given = await world.offered(campaign.campaign_no)
        waits = {device: start_offset("salt", device, 1, JITTER) for device in given}
        device = max(waits, key=waits.__getitem__)
        for now in (T0, T0 + waits[device] - 1):
            clock[0] = now
            view = await gateway.current(device)
            assert view is not None
            assert view.shown == "nothing"
            assert not board.idle(device), "what waits is not idle: the next poll asks again"
            assert await gateway.start(device, given[device]) is None
        shown = [no for no in given if (view := await gateway.current(no)) and view.shown == "deployment"]
        assert len(shown) == len(given) - 1
        clock[0] = T0 + waits[device]
        view = await gateway.current(device)
        assert view is not None
        assert view.shown == "deployment"
        assert await gateway.start(device, given[device]) is not None
        clock[0] = T0
        view = await gateway.current(device)
        assert view is not None
        assert view.shown == "deployment", "what has started goes on"
    finally:
        await board.stop()


# ---- the brake


async def test_a_brake_lowers_cap_and_rate_until_it_is_released(world):
    campaign = await launched(world, cap={"initial": 50, "maximum": 50}, rate={"per_minute": 600})
    await world.command(campaign.campaign_id, braked(max_in_flight=20))
    assert await offer(world, campaign) == 20
    await world.command(campaign.campaign_id, braked(per_minute=6))
    await world.command(
        campaign.campaign_id,
        lambda *_: c.ReleaseBrake(actor="ann", reason="r", left=Brake(per_minute=6), ledger_position=0),
    )
    granted = [await offer(world, campaign, T0 + second * 1_000) for second in range(1, 121)]
    assert 12 <= sum(granted) <= 14
    await world.command(
        campaign.campaign_id, lambda *_: c.ReleaseBrake(actor="ann", reason="r", left=OFF, ledger_position=0)
    )
    assert await world.value("SELECT brake FROM campaign") is None
    assert await offer(world, campaign, T0 + 121_000) > 6


async def test_a_brake_limits_a_plan_without_a_rate(world):
    campaign = await launched(world, cap={"initial": 500, "maximum": 500})
    await world.command(campaign.campaign_id, braked(per_minute=60))
    granted = [await offer(world, campaign, T0 + second * 1_000) for second in range(61)]
    assert 60 <= sum(granted) <= 72


async def before_control(monkeypatch, deed) -> None:
    """Let something commit when the next slice has done everything but take the control lock."""
    taken = dispatch.share_control

    async def late(conn, campaign_no):
        monkeypatch.setattr(dispatch, "share_control", taken)
        await deed()
        await taken(conn, campaign_no)

    monkeypatch.setattr(dispatch, "share_control", late)


async def test_a_brake_is_in_force_at_its_commit_even_for_a_slice_that_has_begun(world, monkeypatch):
    campaign = await launched(world, cap={"initial": 50, "maximum": 50})
    await before_control(monkeypatch, lambda: world.command(campaign.campaign_id, braked(max_in_flight=5)))
    assert await offer(world, campaign) == 0, "it was measured by the pace of before"
    assert await world.value("SELECT count(*) FROM assignment") == 0
    assert await offer(world, campaign) == 5


# ---- revisions


async def proposed(world: World, campaign: c.Campaign, changes: dict[str, Any], actor: str = "cid") -> str:
    command = world.revision(await world.store.load(campaign.campaign_id), changes, actor)
    await world.command(campaign.campaign_id, lambda *_: command)
    return command.digest


async def approve(world: World, campaign: c.Campaign, digest: str, actor: str = "bob") -> c.Campaign:
    return await world.command(
        campaign.campaign_id, lambda _, s: c.Approve(actor=actor, digest=digest, ledger_position=s.ledger_position)
    )


FASTER = {"max_in_flight": {"initial": 30, "maximum": 60}, "phases": {"all": {"jitter": "5m"}}}


async def test_a_revision_that_waits_changes_nothing_and_an_approved_one_does_everywhere_at_once(world, clock):
    campaign = await launched(world, cap={"initial": 10, "maximum": 40})
    assert await offer(world, campaign) == 10
    first = next(iter((await world.offered(campaign.campaign_no)).items()))
    shown = await world.offers.current(first[0])
    assert shown is not None
    assert shown.shown == "deployment"

    digest = await proposed(world, campaign, FASTER)
    assert await offer(world, campaign) == 0
    assert await world.value("SELECT digest FROM campaign") == campaign.digest
    for actor in ("ann", "cid"):
        with pytest.raises(SameActorError):
            await approve(world, campaign, digest, actor)
    assert await offer(world, campaign) == 0

    await approve(world, campaign, digest)
    assert await world.value("SELECT digest FROM campaign") == digest
    assert await world.value("SELECT plan->'max_in_flight'->>'initial' FROM campaign") == "30"
    assert await offer(world, campaign) == 20, "the same worker, with its cache"
    late = max(
        (await world.offered(campaign.campaign_no)).items(), key=lambda o: start_offset("salt", o[0], 1, 300_000)
    )
    hidden = await world.offers.current(late[0])
    assert hidden is not None
    assert hidden.shown == "nothing", "the same gateway, with its cache"
    assert await world.offers.start(*late) is None


async def test_a_revision_approved_while_a_slice_is_under_way_voids_the_slice(world, monkeypatch):
    campaign = await launched(world, cap={"initial": 50, "maximum": 50})
    digest = await proposed(world, campaign, {"max_in_flight": {"initial": 5, "maximum": 50}})
    await before_control(monkeypatch, lambda: approve(world, campaign, digest))
    assert await offer(world, campaign) == 0
    assert await offer(world, campaign) == 5
