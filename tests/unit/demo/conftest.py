from __future__ import annotations

import pytest

from orchestrator.demo.report import Events, FleetRecord, GoodRun, Invariants, Report, StoppedRun


def _stopped() -> StoppedRun:
    return StoppedRun(
        campaign_id="cmp_2",
        state="halted",
        halted_by="gate",
        phase="canary",
        rule="fleet",
        scope="campaign",
        started_at_halt=40,
        failures_at_halt=5,
        bound=5,
        culprit="hardware_model=sensor-a,attribute.hw_revision=C",
        cohort=300,
        holdback=3,
        exposed=60,
        failures=18,
        spared=237,
        halt_position=7,
        detection_seconds=0.02,
        seconds=9.5,
    )


@pytest.fixture
def report() -> Report:
    """A run as it should be."""
    return Report(
        devices=300,
        seconds=100.0,
        setup_seconds=None,
        peak_pss_mb=1500,
        good=GoodRun(
            campaign_id="cmp_1", state="completed", cohort=300, confirmed=297, failed=0, holdback=3, seconds=60.0
        ),
        bad=_stopped(),
        silent=_stopped(),
        events=Events(acknowledged=900, projected=900, dead_letters=0, missing=0, extra=0, unacknowledged=0),
        invariants=Invariants(counters_match=True, one_active_assignment=True, rebuild_equal=True),
        fleet=FleetRecord(
            polls=5000,
            reports=900,
            downloads=400,
            retries=0,
            resumed_downloads=0,
            refused=0,
            stale_links=0,
            lost_links=0,
            unreadable=0,
            defects=0,
        ),
        forged_image_refused=True,
        kills={},
        rebuild_differences=[],
    )
