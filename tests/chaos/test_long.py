"""The long version (``./deploy/test --chaos``): every failpoint, every server, several projectors, and mixtures of all of it.

Each scenario ends with the same judgement, and none may need a hand, except where a step says so.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import nullcontext, suppress
from itertools import chain, repeat

import pytest

from orchestrator.demo.scenario import Play
from orchestrator.failpoints import PLACES
from tests.chaos.harness import SESSION, Harness

pytestmark = pytest.mark.chaos

DEATHS = 5
"""At each failpoint."""

LIKELY = {
    "projector": 0.15,
    "enrol": 0.8,
    "slice": 0.4,
    "start": 0.2,
    "halt": 1.0,
    "sweep": 1.0,
    "relay": 0.4,
    "gateway": 0.03,
    "worker": 0.5,
    "command": 0.3,
    "api": 0.3,
}
"""Probability of a death at one pass of a role's failpoints: five within one or two campaigns of 150 devices."""

PATIENT = {"name": "patient", "scope": "campaign", "p0": 0.6, "alpha": 0.01}
"""A halt rule for which even the bad release is good enough, so that the campaign goes on."""

ROUNDS = 8
RANDOM_KILLS = 30
RANDOM_ROUNDS = 30
PATIENCE = 300.0
"""Seconds for a campaign whose processes keep dying."""


async def judged(harness: Harness) -> None:
    verdict = await harness.judge()
    assert verdict.clean, f"seed {harness.seed}: {verdict}"


def plays():
    """Good releases first: a device that runs a later one would refuse them."""
    return chain((Play.GOOD, Play.BAD), repeat(Play.BAD))


GROUPS = {
    "projector": ("projector", "halt"),
    "slices": ("enrol", "slice"),
    "steps": ("sweep", "worker"),
    "gateway": ("start", "gateway"),
    "relay": ("relay",),
    "api": ("api", "command"),
}


@pytest.mark.parametrize("group", GROUPS)
async def test_five_deaths_at_every_failpoint_of(make_harness, group):
    places = sorted(place for place in PLACES if place.partition(".")[0] in GROUPS[group])
    wanted = dict.fromkeys(places, DEATHS)
    likely = ",".join(f"{place}:{LIKELY[place.partition('.')[0]]}:{DEATHS}" for place in places)
    harness = make_harness(devices=150, failpoints=likely)
    async with harness.up():
        for _, play in zip(range(ROUNDS), plays(), strict=False):
            campaign = await harness.launch(play, confirm_deadline="120s")
            async with harness.people(campaign) if group == "api" else nullcontext():
                await harness.ended(campaign, PATIENCE)
            if harness.deaths == wanted:
                break
        await judged(harness)
    assert harness.deaths == wanted


async def test_roles_that_are_killed_at_random_times(make_harness):
    harness = make_harness(devices=200)
    async with harness.up():
        for _, play in zip(range(RANDOM_ROUNDS), plays(), strict=False):
            async with harness.killing(pause=(0.5, 3.0)):
                campaign = await harness.launch(play, confirm_deadline="120s", halt=[PATIENT])
                async with harness.people(campaign):
                    await harness.ended(campaign, PATIENCE)
            if harness.kills.total() >= RANDOM_KILLS:
                break
        await judged(harness)
    assert harness.kills.total() >= RANDOM_KILLS


async def test_servers_that_die_and_come_back(make_harness):
    harness = make_harness(devices=150)
    servers = ["postgres", "kafka", "temporal"]
    harness.dice.shuffle(servers)
    async with harness.up():
        campaign = await harness.launch(Play.GOOD)
        for number, server in enumerate(servers):
            await harness.started(campaign, 10 + 30 * number)
            await harness.server_dies(server)
        await harness.ended(campaign)
        await judged(harness)


async def test_a_campaign_goes_on_after_temporal_has_forgotten_everything(make_harness):
    harness = make_harness(devices=150)
    async with harness.up():
        campaign = await harness.launch(Play.GOOD)
        await harness.started(campaign, 20)
        await asyncio.to_thread(harness.system.forget_workflows)
        await asyncio.to_thread(harness.system.ota, "workflows", "repair")  # the one step that is somebody's
        assert await harness.ended(campaign) == "completed"
        await judged(harness)


async def test_one_three_and_two_projectors_and_one_that_comes_back_from_the_dead(make_harness):
    harness = make_harness(devices=150)
    async with harness.up():
        campaign = await harness.launch(Play.GOOD, confirm_deadline="120s")
        await harness.started(campaign, 10)
        async with harness.further_projector(1) as other:
            async with harness.further_projector(2):
                await asyncio.sleep(5)
            zombie = harness.system.process("projector")
            assert zombie is not None
            zombie.send(signal.SIGSTOP)
            await asyncio.sleep(SESSION)
            zombie.send(signal.SIGCONT)
            await asyncio.sleep(5)
            with suppress(ProcessLookupError):  # it may have left by itself: fenced, and nobody restarts this one
                other.kill()
            await other.wait()
            await harness.ended(campaign)
        await judged(harness)


async def test_strata_that_are_halted_alone_get_nothing_more_and_the_others_go_on(make_harness):
    harness = make_harness(devices=150)
    alone = {"name": "strata", "scope": "stratum", "p0": 0.02, "alpha": 0.006, "halts": "stratum"}
    async with harness.up():
        async with harness.killing(pause=(0.5, 3.0)):
            campaign = await harness.launch(Play.BAD, confirm_deadline="120s", halt=[alone])
            assert await harness.ended(campaign, PATIENCE) == "completed"
        await judged(harness)
        assert await harness.value("SELECT count(*) FROM event_log WHERE type = 'StratumHalted'") == 1


async def test_facts_again_late_and_distorted(make_harness):
    harness = make_harness(devices=150)
    async with harness.up():
        good = await harness.launch(Play.GOOD)
        await harness.started(good, 30)
        during = await harness.inject()
        await harness.ended(good)
        bad = await harness.launch(Play.BAD)
        await harness.ended(bad)
        after = await harness.inject()
        assert during + after > 100
        await judged(harness)


async def test_a_mixture_of_everything(make_harness):
    harness = make_harness(devices=150, failpoints=",".join(f"{place}:0.02:2" for place in sorted(PLACES)))
    what = ["roles", "server", "server", "inject", "projector", "people"]
    async with harness.up():
        for play in (Play.GOOD, Play.BAD):
            campaign = await harness.launch(play, confirm_deadline="120s")
            for kind in harness.dice.sample(what, len(what)):
                await harness.started(campaign, 5)
                await _trouble(harness, kind, campaign)
            await harness.ended(campaign, PATIENCE)
        await judged(harness)


async def _trouble(harness: Harness, kind: str, campaign: str) -> None:
    a_while = harness.dice.uniform(3, 8)
    match kind:
        case "roles":
            async with harness.killing(pause=(0.5, 3.0)):
                await asyncio.sleep(a_while)
        case "server":
            await harness.server_dies(harness.dice.choice(("postgres", "kafka", "temporal")))
        case "inject":
            await harness.inject()
        case "projector":
            async with harness.further_projector(1):
                await asyncio.sleep(a_while)
        case "people":
            async with harness.people(campaign):
                await asyncio.sleep(a_while)
