"""What pause, halt and abort mean for a device in each state: the table on the page about strategy, as data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.domain.assignment import ACTIVE, State
from orchestrator.domain.campaign import CampaignState
from orchestrator.domain.visibility import Shown, shown

PAGE = (Path(__file__).parents[3] / "deploy" / "docs" / "strategy.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\w+) \| (\w+) \| (\w+) \| (\w+) \| (\w+) \|$", PAGE, re.MULTILINE)
HEAD, TABLE = ROWS[0], ROWS[1:]
CELLS = [(row[0], control, cell) for row in TABLE for control, cell in zip(HEAD[1:], row[1:], strict=True)]


@pytest.mark.parametrize(("state", "control", "expected"), CELLS)
def test_a_device_is_shown_what_the_page_says(state, control, expected):
    found = shown(State(state), CampaignState(control), cancel_requested=False, progress=State(state))
    assert found == Shown(expected)


def test_the_page_has_every_state_in_flight_and_every_stop():
    assert HEAD == ("state", "running", "paused", "halted", "aborted")
    assert {row[0] for row in TABLE} == ACTIVE - {State.UNKNOWN}


@pytest.mark.parametrize("control", list(CampaignState))
def test_what_has_ended_is_shown_nothing(control):
    for state in set(State) - ACTIVE:
        assert shown(state, control, cancel_requested=True) is Shown.NOTHING


@pytest.mark.parametrize("state", [State.ACCEPTED, State.DOWNLOADING])
@pytest.mark.parametrize("control", [CampaignState.RUNNING, CampaignState.PAUSED])
def test_a_device_that_was_asked_to_cancel_stays_asked_after_a_resume(state, control):
    assert shown(state, control, cancel_requested=True) is Shown.CANCEL


@pytest.mark.parametrize("control", [CampaignState.PAUSED, CampaignState.HALTED, CampaignState.ABORTED])
def test_of_an_unknown_device_only_a_trial_is_left_alone(control):
    for progress in (State.OFFERED, State.ACCEPTED, State.DOWNLOADING):
        assert shown(State.UNKNOWN, control, cancel_requested=False, progress=progress) is Shown.NOTHING
    for progress in (State.INSTALLED, State.TRIAL):
        assert shown(State.UNKNOWN, control, cancel_requested=False, progress=progress) is Shown.DEPLOYMENT
