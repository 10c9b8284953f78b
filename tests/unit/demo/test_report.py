from __future__ import annotations

import msgspec
import pytest

from orchestrator.demo.report import (
    Report,
    StoppedRun,
    expectations,
    stratum_label,
)


def _failing(report: Report) -> list[str]:
    return [check.what for check in expectations(report, "canary") if not check.holds]


def test_a_run_as_it_should_be_meets_every_expectation(report):
    assert _failing(report) == []


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("good", "state", "halted"),
        ("good", "confirmed", 296),
        ("good", "failed", 1),
        ("good", "cohort", 299),
        ("bad", "state", "completed"),
        ("bad", "halted_by", "alice"),
        ("bad", "phase", "early"),
        ("bad", "culprit", "hardware_model=sensor-a,attribute.hw_revision=A"),
        ("bad", "offers_after_halt", 1),
        ("silent", "starts_after_halt", 1),
        ("silent", "revealed_after_halt", 1),
        ("silent", "api_agrees", False),
        ("silent", "exposed", 0),
        ("bad", "failures", 0),
        ("events", "missing", 1),
        ("events", "extra", 1),
        ("events", "acknowledged", 0),
        ("invariants", "counters_match", False),
        ("invariants", "one_active_assignment", False),
        ("invariants", "rebuild_equal", False),
        ("fleet", "stale_links", 1),
        ("fleet", "lost_links", 1),
        ("fleet", "unreadable", 1),
        ("fleet", "defects", 1),
        (None, "forged_image_refused", False),
        (None, "peak_pss_mb", 5000),
    ],
)
def test_each_thing_that_goes_wrong_fails_exactly_one_expectation(report, part, name, value):
    setattr(getattr(report, part) if part else report, name, value)
    assert len(_failing(report)) == 1


def test_a_campaign_that_never_halted_is_told_and_not_an_error(report):
    report.bad = StoppedRun(
        campaign_id="cmp_2", state="completed", cohort=300, holdback=3, exposed=297, failures=90, spared=0, seconds=60.0
    )
    assert len(_failing(report)) == 3


def test_the_reports_fields_are_those_that_other_tools_read(report):
    written = msgspec.to_builtins(report)
    assert written.keys() >= {
        *("devices", "seconds", "setup_seconds", "peak_pss_mb"),
        *("good", "bad", "silent", "events", "invariants"),
    }
    assert written["good"].keys() >= {"campaign_id", "state", "confirmed", "failed", "holdback", "seconds"}
    stopped = {
        *("campaign_id", "state", "halted_by", "phase", "exposed", "failures", "spared", "halt_position"),
        *("offers_after_halt", "starts_after_halt", "revealed_after_halt", "detection_seconds"),
    }
    assert written["bad"].keys() >= stopped
    assert written["silent"].keys() >= stopped
    assert written["events"].keys() >= {"acknowledged", "projected", "dead_letters", "missing", "extra"}
    assert written["invariants"].keys() >= {"counters_match", "one_active_assignment", "rebuild_equal"}


@pytest.mark.parametrize(
    ("key", "label"),
    [("hardware_model=sensor-a,attribute.hw_revision=C", "sensor-a, hw_revision C"), ("attribute.site=b", "site b")],
)
def test_strata_are_named_for_people(key, label):
    assert stratum_label(key) == label
