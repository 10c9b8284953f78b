"""Crashes between two statements of one transaction, on the real database; and the oracle's proof that it would see a defect.

Cheap, because no process has to die: a crash is an exception that nobody catches, after which everything in memory is thrown away.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

import pytest

from orchestrator import failpoints
from orchestrator.adapters.sql.facts import FactProjection
from orchestrator.adapters.sql.offers import SqlOffers
from orchestrator.adapters.sql.positions import FencedError
from orchestrator.domain import campaign as c
from schemas import device_events as d
from schemas.campaign_events import CampaignHalted
from tests.chaos.planted import DEFECTS
from tests.support.oracle import Evidence, Verdict, judge
from tests.support.witnesses import LogRecord, read_tables
from tests.support.world import IDENTITY, T0, TOPIC, World

SEED = 20_261


class Crash(BaseException):
    """The process is gone."""


class Site:
    """A campaign of 200 devices whose process can crash."""

    def __init__(self, world: World, url: str, patch: pytest.MonkeyPatch) -> None:
        self.world, self.url, self._patch = world, url, patch
        self.dice = random.Random(SEED)
        self.crashes = 0

    async def launch(self, **changes) -> None:
        await self.world.setup()
        self.campaign = await self.world.launch(max_in_flight={"initial": 500, "maximum": 500}, **changes)
        await self.world.open_phase(self.campaign.campaign_id, 0, T0)

    async def dispatch(self, at: int = T0, limit: int = 500) -> int:
        return (await self.world.decisions.dispatch(self.campaign.campaign_id, 0, limit, at)).granted

    async def start(self) -> dict[int, int]:
        offered = await self.world.offered(self.campaign.campaign_no)
        for item in offered.items():
            await self.world.offers.start(*item)
        return offered

    async def halt(self, reason: str = "chaos") -> None:
        def build(campaign: c.Campaign, standing) -> c.Command:
            return c.Halt(
                event=CampaignHalted(
                    by="ann",
                    reason=reason,
                    phase=campaign.phase,
                    gate_epoch=campaign.gate_epoch,
                    ledger_position=standing.ledger_position,
                )
            )

        await self.world.command(self.campaign.campaign_id, build)

    def crash_at(self, place: str, times: int = 1) -> None:
        """Crash at the next ``times`` passes of a failpoint."""
        left = [times]

        def hit(name: str) -> None:
            if name == place and left[0]:
                left[0] -= 1
                self.crashes += 1
                raise Crash

        self._patch.setattr(failpoints, "hit", hit)

    async def restart(self) -> None:
        """Forget everything, as a new process does; claim again and read from the committed position."""
        world = self.world
        world.projection = FactProjection(world.engine, TOPIC)
        world.offers = SqlOffers(world.engine, TOPIC)
        ends = await world.projection.claim(IDENTITY, {p: (0, len(log)) for p, log in world.log.items()})
        world._applied.update(ends)

    async def surviving(self, step: Callable) -> None:
        """Repeat a step over crashes, as supervisors and clients do."""
        while True:
            try:
                await step()
            except Crash:
                await self.restart()
            else:
                return

    async def judge(self) -> Verdict:
        records = [LogRecord(p, r.offset, r.value) for p, log in self.world.log.items() for r in log]
        return judge(Evidence(await read_tables(self.url), records))


@pytest.fixture
def site(engine, database_url, monkeypatch) -> Site:
    return Site(World(engine), database_url, monkeypatch)


def reports(site: Site, offered: dict[int, int], *, failing: int = 0) -> None:
    """A life for each device; every ``failing``-th one reverts."""
    for device, action in offered.items():
        at = T0 + site.dice.randrange(5_000)
        for kind in (d.ACCEPTED, d.DOWNLOADING, d.INSTALLED, d.TRIAL):
            site.world.fact(device, action, kind, at)
            at += site.dice.randrange(50)
        bad = failing and device % failing == 0
        site.world.fact(device, action, d.REVERTED if bad else d.CONFIRMED, at, failure_class="boot" if bad else None)


@pytest.mark.parametrize(
    "place",
    ["projector.before_transaction", "projector.after_position", "projector.before_commit", "projector.after_commit"],
)
async def test_a_projector_that_dies_anywhere_in_its_transaction_loses_and_doubles_nothing(site, place):
    await site.launch()
    await site.dispatch()
    reports(site, await site.start())
    once = place == "projector.after_commit"  # nothing is left to die over
    site.crash_at(place, times=1 if once else 2)
    await site.surviving(site.world.project)
    assert site.crashes == (1 if once else 2)
    verdict = await site.judge()
    assert verdict.clean, verdict
    assert (verdict.facts, verdict.assignments) == (200, 40)


@pytest.mark.parametrize("place", ["slice.before_ledger", "slice.before_commit", "slice.after_commit"])
async def test_a_slice_that_dies_anywhere_offers_each_device_once(site, place):
    await site.launch()
    site.crash_at(place, times=3)

    async def offer_all() -> None:
        while await site.dispatch(limit=10):
            pass

    await site.surviving(offer_all)
    assert site.crashes == 3
    verdict = await site.judge()
    assert verdict.clean, verdict
    assert verdict.assignments == 40


async def test_a_halt_that_dies_before_its_commit_is_taken_again(site):
    await site.launch()
    await site.dispatch()
    reports(site, await site.start(), failing=3)
    site.crash_at("halt.before_commit", times=3)
    await site.surviving(site.world.project)
    assert site.crashes == 3
    verdict = await site.judge()
    assert verdict.clean, verdict
    assert await site.world.value("SELECT count(*) FROM event_log WHERE type = 'CampaignHalted'") == 1


async def test_a_sweep_that_dies_before_its_commit_expires_each_offer_once(site):
    await site.launch()
    await site.dispatch()
    site.crash_at("sweep.before_commit", times=2)
    await site.surviving(lambda: site.world.decisions.sweep(site.campaign.campaign_id, T0 + 60_000, 0))
    await site.dispatch(T0 + 200_000)
    assert site.crashes == 2
    verdict = await site.judge()
    assert verdict.clean, verdict


async def test_a_device_that_reports_without_having_fetched_and_falls_silent_expires_all_the_same(site):
    await site.launch()
    await site.dispatch()
    for device, action in (await site.world.offered(site.campaign.campaign_no)).items():
        site.world.fact(device, action, d.DOWNLOADING, T0 + 55_000)
    await site.world.project()
    for at in (60_000, 74_000, 75_000):
        await site.world.decisions.sweep(site.campaign.campaign_id, T0 + at, T0 + at)
    assert await site.world.value("SELECT count(*) FROM assignment WHERE state = 'expired'") == 40
    verdict = await site.judge()
    assert verdict.clean, verdict


async def test_poison_and_late_and_repeated_facts_leave_every_row_as_the_logs_say(site):
    await site.launch()
    await site.dispatch()
    offered = await site.start()
    reports(site, offered, failing=13)
    device, action = next(iter(offered.items()))
    for value in (None, b"{", b"[]", b"x" * (1 << 20) + b"x", b'{"type": 1}', "ü".encode("latin-1")):
        site.world.raw(0, value)
    site.world.fact(device, 5, d.CONFIRMED, T0)
    site.world.fact(device + 1, action, d.CONFIRMED, T0)
    site.world.fact(device, action, d.DOWNLOADING, T0 + 90_000)
    site.world.fact(device, action, d.CONFIRMED, T0 + 1)
    site.world.fact(device, action, d.PROGRESS, T0 + 2)
    for log in site.world.log.values():
        for record in site.dice.sample(log, 10):
            site.world.raw(0, record.value)
    await site.world.project()
    verdict = await site.judge()
    assert verdict.clean, verdict


async def test_a_zombie_cannot_commit_what_its_successor_has_applied(site):
    await site.launch()
    await site.dispatch()
    reports(site, await site.start())
    zombie, unread = site.world.projection, site.world.unread()
    await site.restart()
    await site.world.project()
    with pytest.raises(FencedError):
        await zombie.apply(unread)
    verdict = await site.judge()
    assert verdict.clean, verdict


# --------------------------------------------------------------------------- the oracle is not blind


async def _dies_after_the_position(site: Site) -> None:
    await site.dispatch()
    reports(site, await site.start())
    site.crash_at("projector.after_position")
    await site.surviving(site.world.project)


async def _halts_and_offers(site: Site) -> None:
    await site.dispatch(limit=10)
    await site.halt()
    await site.dispatch(limit=10)


async def _lets_a_zombie_go_on(site: Site) -> None:
    await site.dispatch()
    reports(site, await site.start())
    zombie, unread = site.world.projection, site.world.unread()
    await site.restart()
    await site.world.project()
    with suppress(FencedError):
        await zombie.apply(unread)


async def _projects(site: Site) -> None:
    await site.dispatch()
    reports(site, await site.start(), failing=3)
    await site.world.project()


PLAYS = {
    "position-before-effects": (_dies_after_the_position, "lost"),
    "no-control-check": (_halts_and_offers, "after_halt"),
    "no-fencing": (_lets_a_zombie_go_on, "doubled"),
    "dropped-event": (_projects, "lost"),
    "stale-gate-read": (_projects, "unhalted"),
}


@pytest.mark.parametrize("defect", DEFECTS)
async def test_a_planted_defect_turns_the_oracle_red(site, defect, monkeypatch):
    play, kind = PLAYS[defect]
    await site.launch()
    DEFECTS[defect](monkeypatch)
    await play(site)
    verdict = await site.judge()
    assert verdict.counts[kind], f"{defect} went unnoticed: {verdict}"


@pytest.mark.parametrize("defect", DEFECTS)
async def test_without_the_defect_the_same_play_is_clean(site, defect):
    await site.launch()
    await PLAYS[defect][0](site)
    verdict = await site.judge()
    assert verdict.clean, verdict
