"""Why a campaign or a device does not move, read from a real database."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from orchestrator.adapters.sql.explain import SqlExplain
from orchestrator.app.explain import Explanations
from orchestrator.domain import breaker as b
from orchestrator.domain import campaign as c
from orchestrator.domain.sequential import clean_devices_needed
from schemas import campaign_events as e
from schemas import device_events as d
from tests.support.world import T0, World

MINUTE = 60_000
EVERYONE = [{"name": "all", "percent": 100.0, "soak": "5s"}]


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


def asked(world: World, now: int) -> Explanations:
    return Explanations(SqlExplain(world.engine), lambda: now)


async def codes(world: World, campaign: c.Campaign, now: int) -> list[str]:
    found = await asked(world, now).campaign(campaign.campaign_id)
    return [found.why.code, *(each.code for each in found.further)]


async def confirm(world: World, offered: dict[int, int], at: int) -> None:
    for device, action in offered.items():
        for kind in (d.ACCEPTED, d.TRIAL, d.CONFIRMED):
            world.fact(device, action, kind, at)
    await world.project()


async def test_a_campaign_that_was_launched_is_taken_up_then_its_first_phase_opens(world):
    campaign = await world.launch()
    assert (await codes(world, campaign, T0))[0] == "why.enrolling"
    await world.decisions.enrol(campaign.campaign_id, T0)
    assert (await codes(world, campaign, T0))[0] == "why.opening"


async def test_a_full_cap_says_how_it_came_about_and_what_frees_room(world):
    campaign = await world.launch(phases=EVERYONE, max_in_flight={"initial": 20, "maximum": 240})
    await world.open_phase(campaign.campaign_id, 0, T0)
    assert (await codes(world, campaign, T0))[0] == "why.offering"
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    found = await asked(world, T0 + 1).campaign(campaign.campaign_id)
    assert found.why.code == "why.in_flight"
    assert found.why.data | {"initial": 20, "in_flight": 20, "cap": 20} == found.why.data
    assert found.why.data["under_way"] == {"offered": 20}
    assert found.why.until == T0 + MINUTE  # an offer's time to live
    assert [each.code for each in found.further] == ["why.offering", "why.soak", "why.under_way"]


async def test_an_exhausted_rate_says_when_the_next_offer_comes(world):
    campaign = await world.launch(phases=[EVERYONE[0] | {"rate": {"per_minute": 6}}])
    await world.open_phase(campaign.campaign_id, 0, T0)
    done = await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    found = await asked(world, T0 + 1).campaign(campaign.campaign_id)
    assert done.granted
    assert (found.why.code, found.why.data["per_minute"]) == ("why.rate", 6)
    assert found.why.until is not None
    at = found.why.until
    assert (await world.decisions.dispatch(campaign.campaign_id, 0, 500, at - 1)).granted == 0
    assert (await world.decisions.dispatch(campaign.campaign_id, 0, 500, at)).granted == 1


async def test_a_shut_window_says_when_it_opens(world):
    hour = (datetime.fromtimestamp(T0 / 1_000, UTC).hour + 3) % 24
    window = {"from": f"{hour:02}:00", "to": f"{(hour + 1) % 24:02}:00"}
    campaign = await world.launch(phases=EVERYONE, schedule={"windows": [window]})
    await world.open_phase(campaign.campaign_id, 0, T0)
    found = await asked(world, T0).campaign(campaign.campaign_id)
    assert (found.why.code, found.why.data["why"]) == ("why.schedule", "window")
    assert found.why.until is not None
    assert found.why.until > T0
    assert found.eta.low is not None
    assert found.eta.low >= found.why.until


async def test_an_open_breaker_is_named_before_everything_that_it_causes(world):
    campaign = await world.launch(phases=EVERYONE)
    await world.open_phase(campaign.campaign_id, 0, T0)
    event = e.BreakerOpened(
        opening=1,
        cause=b.Cause.FAILURES,
        at=T0,
        until=T0 + MINUTE,
        outcomes=20,
        failures=10,
        classes={"transport": 10},
        share=0.3,
        minimum=20,
        window=MINUTE,
        since=T0,
        ledger_position=1,
    )
    await world.command(campaign.campaign_id, lambda *_: c.MoveBreaker(event=event))
    found = await asked(world, T0 + 1).campaign(campaign.campaign_id)
    assert (found.why.code, found.why.until) == ("why.breaker.open", T0 + MINUTE)
    assert "the breaker" in found.eta.open_ended


async def test_a_halt_says_what_a_resume_costs(world):
    campaign = await world.launch(phases=EVERYONE)
    await world.open_phase(campaign.campaign_id, 0, T0)
    halted = await world.command(
        campaign.campaign_id,
        lambda now, s: c.Halt(
            event=e.CampaignHalted(
                by="eve", reason="smoke", phase=0, gate_epoch=now.gate_epoch, ledger_position=s.ledger_position
            )
        ),
    )
    found = await asked(world, T0 + 1).campaign(halted.campaign_id)
    assert found.why.code == "why.halted"
    assert (found.why.data["by"], found.why.data["approvals_missing"]) == ("eve", 1)
    assert found.why.data["false_halt_after_resume"] == pytest.approx(0.02)
    assert found.eta.none_because == "The campaign is halted."
    assert found.eta.low is None


async def test_soak_then_evidence_then_the_next_phase(world):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    await confirm(world, await world.offered(campaign.campaign_no), T0 + 1_000)
    await world.command(campaign.campaign_id, lambda *_: c.StartSoak(phase=0, at=T0 + 1_000))
    found = await asked(world, T0 + 2_000).campaign(campaign.campaign_id)
    assert (found.why.code, found.why.until) == ("why.soak", T0 + 6_000)
    after = await asked(world, T0 + 7_000).campaign(campaign.campaign_id)
    assert after.why.code == "why.strata"
    evidence = next(each for each in after.further if each.code == "why.evidence")
    assert (evidence.data["matured"], evidence.data["needed"]) == (0, clean_devices_needed(0.1, 0.05))
    assert evidence.data["outstanding"] == 40
    ripe = await asked(world, T0 + 30_000).campaign(campaign.campaign_id)
    assert ripe.why.code == "why.moving"
    assert ripe.eta.sample.confirmed == 40
    assert ripe.eta.sample.median == 1_000


async def test_the_last_devices_under_way_are_named_with_their_deadline(world):
    campaign = await world.launch(phases=EVERYONE, max_in_flight={"initial": 240, "maximum": 240})
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    offered = await world.offered(campaign.campaign_no)
    last = max(offered)
    await confirm(world, {device: action for device, action in offered.items() if device != last}, T0 + 1_000)
    world.fact(last, offered[last], d.ACCEPTED, T0 + 2_000)
    await world.project()
    await world.command(campaign.campaign_id, lambda *_: c.StartSoak(phase=0, at=T0 + 2_000))
    found = await asked(world, T0 + 8_000).campaign(campaign.campaign_id)
    assert found.why.code == "why.under_way"
    assert found.why.data == {
        "states": {"accepted": 1},
        "oldest": f"dev-{last:04}",
        "state": "accepted",
        "due_at": T0 + 22_000,
    }
    dead = await asked(world, T0 + 22_000 + 5 * MINUTE).campaign(campaign.campaign_id)
    assert dead.why.code == "why.unattended"


async def test_a_full_budget_names_the_place_and_who_fills_it(world):
    rules = [{"label": "attribute.hw_revision", "max_percent": 1.0, "min_count": 1}]
    first = await world.launch(phases=EVERYONE, budget=rules)
    second = await world.launch(phases=EVERYONE, budget=rules)
    for campaign in (first, second):
        await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(first.campaign_id, 0, 500, T0)
    found = await asked(world, T0 + 1).campaign(second.campaign_id)
    assert found.why.code == "why.budget"
    places = found.why.data["places"]
    assert {place["value"] for place in places} == {"A", "B", "C"}
    assert all(place["campaigns"] == {first.campaign_id: 1} and place["limit"] == 1 for place in places)
    waiting = await asked(world, T0 + 1).device("dev-0001", second.campaign_id)
    assert waiting.campaigns[0].why.code in {"why.device.budget", "why.device.busy"}


async def test_devices_that_are_busy_elsewhere_are_counted_by_campaign(world):
    first = await world.launch(phases=EVERYONE, max_in_flight={"initial": 240, "maximum": 240})
    await world.open_phase(first.campaign_id, 0, T0)
    await world.decisions.dispatch(first.campaign_id, 0, 500, T0)
    second = await world.launch(phases=EVERYONE)
    await world.open_phase(second.campaign_id, 0, T0)
    found = await asked(world, T0 + 1).campaign(second.campaign_id)
    assert (found.why.code, found.why.data["campaigns"]) == ("why.busy", {first.campaign_id: 198})


# --------------------------------------------------------------------------- devices


async def test_a_device_waits_in_the_queue_or_is_busy_elsewhere(world):
    first = await world.launch(phases=EVERYONE, max_in_flight={"initial": 20, "maximum": 240})
    await world.open_phase(first.campaign_id, 0, T0)
    await world.decisions.dispatch(first.campaign_id, 0, 500, T0)
    offered = await world.offered(first.campaign_no)
    second = await world.launch(phases=EVERYONE)
    await world.open_phase(second.campaign_id, 0, T0)
    queued = await world.value(
        "SELECT min(device_no) FROM offer_queue WHERE campaign_no = $1 AND device_no <> ALL($2::int[])",
        first.campaign_no,
        list(offered),
    )
    found = await asked(world, T0 + 1).device(f"dev-{queued:04}")
    places = {place.campaign_id: place for place in found.campaigns}
    assert places[first.campaign_id].why.code == "why.device.campaign"
    assert places[first.campaign_id].why.data["condition"] == "why.in_flight"
    busy = await world.value(
        "SELECT device_no FROM offer_queue WHERE campaign_no = $1 AND device_no = ANY($2::int[]) LIMIT 1",
        second.campaign_no,
        list(offered),
    )
    found = await asked(world, T0 + 1).device(f"dev-{busy:04}")
    places = {place.campaign_id: place for place in found.campaigns}
    assert places[second.campaign_id].why.code == "why.device.busy"
    assert places[first.campaign_id].why.code == "why.device.offered"
    assert places[first.campaign_id].why.until == T0 + MINUTE


async def test_a_device_in_trial_is_never_offered_anything(world):
    campaign = await world.launch(phases=EVERYONE)
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    device, action = next(iter((await world.offered(campaign.campaign_no)).items()))
    world.fact(device, action, d.ACCEPTED, T0 + 1_000)
    world.fact(device, action, d.TRIAL, T0 + 2_000)
    await world.project()
    other = await world.launch(phases=EVERYONE)
    await world.open_phase(other.campaign_id, 0, T0 + 3_000)
    found = await asked(world, T0 + 3_000).device(f"dev-{device:04}")
    assert {place.campaign_id: place.why.code for place in found.campaigns}[
        campaign.campaign_id
    ] == "why.device.in_trial"
    own = next(place for place in found.campaigns if place.campaign_id == campaign.campaign_id)
    assert own.why.until == T0 + 21_000


async def test_who_is_no_member_is_told_which_comparison_fails(world):
    cohort = {"stratify_by": ["hardware_model"], "selector": "hardware_model==sensor-a;attribute.hw_revision=in=(A,B)"}
    campaign = await world.launch(phases=EVERYONE, cohort=cohort)
    await world.open_phase(campaign.campaign_id, 0, T0)
    outsider = next(
        no for no, _, model, has in world.fleet.values() if model == "sensor-a" and has["hw_revision"] == "C"
    )
    found = await asked(world, T0).device(f"dev-{outsider:04}")
    (place,) = found.campaigns
    assert not place.member
    assert place.why.code == "why.device.selector"
    assert place.why.data["failing"] == [
        {
            "comparison": "attribute.hw_revision=in=('A','B')",
            "field": "attribute.hw_revision",
            "found": "C",
            "alternative": False,
        }
    ]


async def test_who_is_held_back_is_told_so(world):
    campaign = await world.launch(phases=EVERYONE)
    await world.open_phase(campaign.campaign_id, 0, T0)
    held = await world.value(
        "SELECT device_nos[1] FROM decision_ledger WHERE campaign_no = $1 AND phase = -1", campaign.campaign_no
    )
    found = await asked(world, T0).device(f"dev-{held:04}", campaign.campaign_id)
    assert (found.campaigns[0].why.code, found.campaigns[0].member) == ("why.device.held_back", True)


async def test_a_device_of_a_later_phase_waits_for_it_and_one_that_confirmed_is_done(world):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    offered = await world.offered(campaign.campaign_no)
    await confirm(world, offered, T0 + 1_000)
    done = await asked(world, T0 + 2_000).device(f"dev-{min(offered):04}")
    assert (done.campaigns[0].why.code, done.campaigns[0].why.data["state"]) == ("why.device.ended", "confirmed")
    later = await world.value("SELECT min(device_no) FROM offer_queue WHERE phase = 1")
    found = await asked(world, T0 + 2_000).device(f"dev-{later:04}")
    assert found.campaigns[0].why.code == "why.device.phase"
