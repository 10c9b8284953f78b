"""The demonstration from the first server to the last check."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from orchestrator.adapters.sql.rebuild import verify
from orchestrator.cli.campaign_view import halt_panel
from orchestrator.client.models import CampaignDetail
from orchestrator.demo import scenario
from orchestrator.demo.chaos import Chaos
from orchestrator.demo.evidence import FleetEvidence
from orchestrator.demo.facts import Facts
from orchestrator.demo.memory import PeakMemory
from orchestrator.demo.operators import Desk
from orchestrator.demo.report import Events, FleetRecord, GoodRun, Invariants, Report, StoppedRun
from orchestrator.demo.scenario import Play
from orchestrator.demo.screen import Screen
from orchestrator.demo.system import System
from orchestrator.demo.world import World, make_world
from orchestrator.errors import UnavailableError

PLAN: Final = Path(__file__).parents[2] / "deploy" / "demo_data" / "plan.yaml"

LOOK: Final = 0.5
"""Seconds between two looks at a campaign."""
CONTACT_TIMEOUT: Final = 90.0
"""Seconds until every device must have told its attributes and they are projected."""
CATCH_UP_TIMEOUT: Final = 30.0
"""Seconds in which the projection must have taken in what was acknowledged last; a projector that was just killed needs 10 s."""


class DemoTimeoutError(UnavailableError):
    """The demonstration waited too long."""

    code = "demo.timeout"
    remedy = "Look into the logs of the roles in the state folder."


@dataclass(frozen=True, slots=True)
class Options:
    """How to run it."""

    devices: int = scenario.DEVICES
    keep: bool = False
    chaos: bool = False
    seed: int = 1
    plan: Path = PLAN


class Demo:
    """One run. ``play`` leaves the system running; whoever made it stops it."""

    def __init__(self, folder: Path, options: Options, screen: Screen) -> None:
        self._options = options
        self._screen = screen
        self._folder = folder
        self._plan: dict[str, Any] = yaml.safe_load(options.plan.read_text(encoding="utf-8"))
        settings = {"OTA_POLL_INTERVAL": str(scenario.poll_interval(options.devices))}
        self.system = System(folder, settings, keep=options.keep, say=screen.step)

    @property
    def first_phase(self) -> str:
        return self._phases[0]

    @property
    def _phases(self) -> list[str]:
        return [phase["name"] for phase in self._plan["phases"]]

    async def play(self) -> Report:
        """Everything, from starting the servers to the report.

        Raises:
            OtaError: a part did not start, a request was refused, or something took far too long.
        """
        system, screen = self.system, self._screen
        with PeakMemory() as memory:
            screen.heading("Starting PostgreSQL, Kafka, Temporal and the five roles")
            made = asyncio.to_thread(make_world, self._folder / "world", self._options.devices)
            world, _ = await asyncio.gather(made, asyncio.to_thread(system.start))
            facts = await Facts.connect(system.env["OTA_DATABASE_URL"])
            try:
                return await self._campaigns(world, facts, memory)
            finally:
                await facts.close()

    async def _campaigns(self, world: World, facts: Facts, memory: PeakMemory) -> Report:
        system, screen = self.system, self._screen
        async with Desk(system, screen.step) as desk:
            releases = await desk.prepare(world)
            forged_refused = await desk.forged_image_is_refused(world)
            system.start_fleet(world)
            await self._first_contact(facts)
            chaos = Chaos(system.crash, self._options.seed, screen.step)
            killing = asyncio.create_task(chaos.run()) if self._options.chaos else None
            try:
                told = {play: await self._campaign(play, releases[play], desk, facts) for play in Play}
            finally:
                if killing:
                    killing.cancel()
                    with suppress(asyncio.CancelledError):
                        await killing
        screen.heading("Counting")
        await asyncio.to_thread(system.stop_fleet)
        counts = system.fleet_counts()
        evidence = await asyncio.to_thread(FleetEvidence.read, system.truth_file)
        events = await self._stored(evidence, facts)
        screen.step(f"{events.acknowledged} acknowledged reports compared with what is stored")
        differences = await self._rebuild()
        screen.step("rebuilt every projection from the two logs and compared")
        actions = await facts.campaign_of_actions()
        return Report(
            devices=self._options.devices,
            seconds=round(screen.seconds, 1),
            setup_seconds=_setup_seconds(),
            peak_pss_mb=round(memory.peak_mb),
            good=await _good_run(facts, told[Play.GOOD]["campaign_id"]),
            bad=await _stopped_run(facts, told[Play.BAD], evidence, actions),
            silent=await _stopped_run(facts, told[Play.SILENT], evidence, actions),
            events=events,
            invariants=Invariants(
                counters_match=await facts.counter_differences() == 0,
                one_active_assignment=await facts.double_assignments() == 0,
                rebuild_equal=not differences,
            ),
            fleet=FleetRecord(
                polls=counts.polls,
                reports=counts.reports,
                downloads=counts.downloads,
                retries=counts.retries,
                resumed_downloads=counts.resumed_downloads,
                refused=sum(counts.refused.values()),
                stale_links=counts.stale_links,
                lost_links=counts.lost_links,
                unreadable=counts.unreadable,
                defects=counts.defects,
            ),
            forged_image_refused=forged_refused,
            kills=dict(chaos.kills),
            rebuild_differences=differences,
        )

    # ---- steps

    async def _first_contact(self, facts: Facts) -> None:
        devices = self._options.devices
        waiting = _Waiting(CONTACT_TIMEOUT, "devices have told their attributes")
        with self._screen.watching("fleet", devices) as watch:
            while (reported := await facts.devices_reported()) < devices:
                self.system.fleet_counts()
                watch.count(reported, "devices connected")
                await waiting.pause()
        self._screen.step(f"{devices} devices connected over HTTP and told what they run")

    async def _campaign(self, play: Play, release_id: str, desk: Desk, facts: Facts) -> CampaignDetail:
        firmware = scenario.RELEASES[play]
        self._screen.heading(f"The {play} release, {firmware.version}")
        campaign_id = await desk.launch(f"{play} {firmware.version}", {**self._plan, "release": release_id})
        waiting = _Waiting(scenario.CAMPAIGN_TIMEOUT, f"the {play} campaign has ended")
        with self._screen.watching(str(play), self._options.devices) as watch:
            while (now := await facts.progress(campaign_id)).state not in {"completed", "halted", "aborted"}:
                self.system.fleet_counts()
                watch.campaign(now, self._phases)
                await waiting.pause()
            self._screen.step(f"{campaign_id} is {now.state}")
            settling = _Waiting(scenario.SETTLE_TIMEOUT, f"no device is in flight after the {play} campaign")
            while (now := await facts.progress(campaign_id)).in_flight:
                watch.campaign(now, self._phases)
                await settling.pause()
        told = await desk.campaign(campaign_id)
        if told["halt"]:
            self._screen.console.print(halt_panel(told, told["halt"]))
        return told

    async def _stored(self, evidence: FleetEvidence, facts: Facts) -> Events:
        waiting = _Waiting(CATCH_UP_TIMEOUT, "the projection has caught up")
        while True:
            before = await facts.positions()
            events = evidence.compare(await facts.timeline_ids(), await facts.dead_letter_ids())
            await asyncio.sleep(LOOK)
            if (not events.missing and await facts.positions() == before) or waiting.over:
                return events

    async def _rebuild(self) -> list[str]:
        return [str(found) for found in await verify(self.system.settings())]


class _Waiting:
    """Patience with an end."""

    def __init__(self, timeout: float, what: str) -> None:
        self._deadline = time.monotonic() + timeout
        self._what = what
        self._timeout = timeout

    @property
    def over(self) -> bool:
        return time.monotonic() > self._deadline

    async def pause(self) -> None:
        """Raises DemoTimeoutError when it has taken too long."""
        if self.over:
            raise DemoTimeoutError(f"Waited {self._timeout:.0f} s in vain until {self._what}.")
        await asyncio.sleep(LOOK)


async def _good_run(facts: Facts, campaign_id: str) -> GoodRun:
    ended = await facts.ended(campaign_id)
    return GoodRun(
        campaign_id=campaign_id,
        state=ended.state,
        cohort=ended.cohort,
        confirmed=ended.confirmed,
        failed=ended.failed,
        holdback=ended.holdback,
        seconds=(ended.ended_at - ended.launched_at) / 1000,
    )


async def _stopped_run(
    facts: Facts, told: CampaignDetail, evidence: FleetEvidence, actions: dict[int, str]
) -> StoppedRun:
    campaign_id = told["campaign_id"]
    ended, halt = await facts.ended(campaign_id), await facts.halt(campaign_id)
    run = StoppedRun(
        campaign_id=campaign_id,
        state=ended.state,
        cohort=ended.cohort,
        holdback=ended.holdback,
        exposed=ended.exposed,
        failures=ended.failures,
        spared=ended.cohort - ended.exposed - ended.holdback,
        seconds=(ended.ended_at - ended.launched_at) / 1000,
    )
    if halt is None:
        return run
    run.halted_by, run.phase, run.rule, run.scope = halt.by, halt.phase, halt.rule, halt.scope
    run.started_at_halt, run.failures_at_halt, run.bound = halt.started, halt.failures, halt.bound
    run.culprit, run.halt_position = halt.culprit, halt.position
    run.offers_after_halt, run.starts_after_halt = halt.offers_after, halt.starts_after
    run.revealed_after_halt = evidence.revealed_after(campaign_id, halt.recorded_at, actions)
    if halt.failed_at is not None:
        run.detection_seconds = (halt.recorded_at - halt.failed_at) / 1000
    run.api_agrees = _agrees(told, run)
    return run


def _agrees(told: CampaignDetail, run: StoppedRun) -> bool:
    halt = told["halt"]
    return halt is not None and (
        (told["state"], told["exposed"], told["spared"]) == (run.state, run.exposed, run.spared)
        and (halt["by"], halt["rule"], halt["scope"]) == (run.halted_by, run.rule, run.scope)
        and (halt["n"], halt["f"], halt["bound"]) == (run.started_at_halt, run.failures_at_halt, run.bound)
        and (halt["position"], halt["offers_after"], halt["starts_after"])
        == (run.halt_position, run.offers_after_halt, run.starts_after_halt)
        and [stratum["stratum"] for stratum in halt["strata"][:1]] == [run.culprit]
    )


def _setup_seconds() -> float | None:
    try:
        return float(os.environ["OTA_SETUP_SECONDS"])
    except (KeyError, ValueError):
        return None
