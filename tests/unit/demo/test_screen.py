from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.demo.facts import Progress
from orchestrator.demo.report import StoppedRun, expectations
from orchestrator.demo.screen import Screen
from orchestrator.demo.story import tell


@pytest.fixture
def printed():
    """A pipe of 200 columns and what was written to it."""
    file = io.StringIO()
    return Console(file=file, width=200), file


def test_on_a_pipe_progress_is_a_line_now_and_then_and_not_at_every_look(printed):
    console, file = printed
    with Screen(console).watching("fleet", 10) as watch:
        for done in range(10):
            watch.count(done, "devices connected")
    assert file.getvalue().count("\n") == 1
    assert "fleet: 0 of 10 devices connected" in file.getvalue()


def test_a_campaign_shows_its_phase_by_name_and_its_devices_by_state(printed):
    console, file = printed
    with Screen(console).watching("good", 10) as watch:
        watch.campaign(Progress("running", 1, "soaking", {"confirmed": 7, "trial": 2}), ["canary", "early"])
    assert "good: running, phase early soaking: 7 confirmed, 2 trial" in file.getvalue()


def test_the_story_tells_what_halted_whom_and_that_nothing_followed(printed, report):
    console, file = printed
    tell(console, report, expectations(report, "canary"))
    told = " ".join(file.getvalue().replace("│", " ").split())
    assert "The gate halted it in phase 'canary' after 10 s, when 5 of 40 started devices had failed" in told
    assert "20 ms after the failure that crossed the bound" in told
    assert "After the halt: 0 offers, 0 starts, 0 images shown." in told
    assert "FAILED" not in told


def test_the_story_hides_neither_a_failed_expectation_nor_a_campaign_that_went_on(printed, report):
    console, file = printed
    report.bad = StoppedRun(
        campaign_id="cmp_2", state="completed", cohort=300, holdback=3, exposed=297, failures=90, spared=0, seconds=60.0
    )
    tell(console, report, expectations(report, "canary"))
    assert "It was not halted: it is completed." in " ".join(file.getvalue().replace("│", " ").split())
    assert "FAILED" in file.getvalue()
