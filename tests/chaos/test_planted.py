"""The harness is not blind: with one law broken on purpose in every role, a whole run ends red, and in the right kind."""

from __future__ import annotations

import asyncio
import signal
from typing import Any, Final

import psutil
import pytest

from orchestrator.demo.scenario import BAD_REVISION, Play
from tests.chaos.harness import SESSION, Harness
from tests.chaos.planted import STOP_FILE

pytestmark = pytest.mark.chaos

ONE_PHASE: Final[dict[str, Any]] = {"phases": [{"name": "all", "percent": 100, "soak": "1s"}]}


async def _found(harness: Harness, kind: str) -> None:
    verdict = await harness.judge()
    assert verdict.counts[kind], f"seed {harness.seed}: the defect went unnoticed: {verdict}"


async def test_a_position_that_is_committed_before_its_effects_loses_facts(make_harness):
    harness = make_harness(devices=60, defect="position-before-effects", failpoints="projector.after_position:0.3:2")
    async with harness.up():
        campaign = await harness.launch(Play.GOOD)
        await harness.until("a projector has died", lambda: _some(harness.deaths.total()))
        await harness.started(campaign, 15)
        await _found(harness, "lost")


async def test_a_slice_without_the_control_check_offers_after_a_halt(make_harness):
    # The gate's step, which would end the dispatcher, is seldom.
    harness = make_harness(devices=90, defect="no-control-check", settings={"OTA_GATE_POLL_MS": "10000"})
    async with harness.up():
        campaign = await harness.launch(Play.BAD, **ONE_PHASE, max_in_flight={"initial": 15, "maximum": 15})
        await harness.until(
            "the campaign has halted",
            lambda: harness.value("SELECT state = 'halted' FROM campaign WHERE campaign_id = $1", campaign),
        )
        await asyncio.sleep(3)
        await _found(harness, "after_halt")


async def test_a_zombie_that_is_not_fenced_applies_facts_twice(make_harness, tmp_path):
    stop = tmp_path / "stop"
    harness = make_harness(devices=60, defect="no-fencing", settings={STOP_FILE: str(stop)})
    async with harness.up():
        campaign = await harness.launch(Play.GOOD, confirm_deadline="120s")
        await harness.started(campaign, 5)
        zombie = harness.system.process("projector")
        assert zombie is not None
        stop.touch()
        await harness.until("the projector stands still", lambda: _some(_stopped(zombie.pid)))
        async with harness.further_projector(1):
            await asyncio.sleep(SESSION)
            await harness.started(campaign, 30)
            zombie.send(signal.SIGCONT)
            await asyncio.sleep(3)
            await _found(harness, "doubled")


async def test_a_dropped_event_is_missed(make_harness):
    harness = make_harness(devices=60, defect="dropped-event")
    async with harness.up():
        campaign = await harness.launch(Play.GOOD)
        await harness.started(campaign, 15)
        await _found(harness, "lost")


async def test_a_gate_that_reads_stale_counters_misses_the_last_failure_that_counts(make_harness):
    harness = make_harness(devices=60, defect="stale-gate-read")
    async with harness.up():
        # Three failures cross, so the one that is overlooked is the last.
        devices = harness.devices(lambda hw_revision: hw_revision == BAD_REVISION)[:3]
        devices += harness.devices(lambda hw_revision: hw_revision != BAD_REVISION)[:4]
        campaign = await harness.launch(Play.BAD, **ONE_PHASE, cohort={"include": devices})
        await harness.ended(campaign)
        await _found(harness, "unhalted")


async def _some(value: object) -> bool:
    return bool(value)


def _stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED
