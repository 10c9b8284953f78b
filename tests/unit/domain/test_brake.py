from __future__ import annotations

import pytest

from orchestrator.domain.brake import (
    OFF,
    AboveApprovedError,
    Brake,
    LoosensError,
    NoLimitError,
    TightensError,
    approved,
    released,
    tightened,
)

STEADY = {"per_minute": 200, "exponential": None}
RAMP = {"per_minute": None, "exponential": {"base": 10, "factor": 2.0, "every": 5, "of": "offered", "maximum": 500}}
PLAN = {"phases": [{"rate": STEADY}, {"rate": RAMP}], "max_in_flight": {"initial": 50, "maximum": 300}}
BRAKE = Brake(per_minute=60, max_in_flight=100)


def test_the_approved_pace_is_the_most_that_any_phase_allows():
    assert approved(PLAN) == Brake(per_minute=500, max_in_flight=300)
    unlimited = PLAN | {"phases": [{"rate": STEADY}, {"rate": None}]}
    assert approved(unlimited) == Brake(per_minute=None, max_in_flight=300)


def test_a_brake_sets_what_is_asked_for_and_keeps_the_rest():
    assert tightened(OFF, Brake(per_minute=60), PLAN) == Brake(per_minute=60)
    assert tightened(Brake(per_minute=60), Brake(max_in_flight=100), PLAN) == BRAKE
    assert tightened(BRAKE, Brake(per_minute=30), PLAN) == Brake(per_minute=30, max_in_flight=100)
    assert tightened(BRAKE, BRAKE, PLAN) == BRAKE


def test_a_brake_without_a_limit_is_none():
    with pytest.raises(NoLimitError):
        tightened(OFF, OFF, PLAN)


@pytest.mark.parametrize("asked", [Brake(per_minute=61), Brake(per_minute=10, max_in_flight=101)])
def test_a_brake_does_not_loosen(asked):
    with pytest.raises(LoosensError) as caught:
        tightened(BRAKE, asked, PLAN)
    assert "60 a minute and 100 in flight" in caught.value.detail


@pytest.mark.parametrize("limits", [Brake(per_minute=501), Brake(max_in_flight=301)])
def test_what_is_above_the_approved_pace_needs_a_revision(limits):
    for move in (tightened, released):
        with pytest.raises(AboveApprovedError) as caught:
            move(OFF, limits, PLAN)
        assert "revis" in caught.value.remedy


def test_a_release_leaves_what_is_said_and_takes_the_rest_off():
    assert released(BRAKE, OFF, PLAN) == OFF
    assert released(BRAKE, Brake(per_minute=60), PLAN) == Brake(per_minute=60)
    assert released(BRAKE, Brake(per_minute=120, max_in_flight=100), PLAN) == Brake(per_minute=120, max_in_flight=100)


@pytest.mark.parametrize("left", [Brake(per_minute=59), Brake(max_in_flight=99)])
def test_a_release_does_not_tighten(left):
    with pytest.raises(TightensError):
        released(BRAKE, left, PLAN)
    with pytest.raises(TightensError):
        released(OFF, left, PLAN)
