from __future__ import annotations

from typing import Any

import pytest

from orchestrator.domain.dossier import Dossier, dossier_digest, freeze
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.plan_fields import PlanError
from orchestrator.domain.revision import UnchangedError, pace_changes, revised
from tests.support.world import plan

STRATA = {"hardware_model=a": 120, "hardware_model=b": 80}


@pytest.fixture
def dossier() -> Dossier:
    return freeze(parse_plan(plan()), strata_sizes=STRATA, release_digest="sha256:r")


def test_a_revision_changes_the_pace_and_nothing_else(dossier):
    changes: dict[str, Any] = {
        "max_in_flight": {"initial": 100, "maximum": 400, "add": 10, "per_confirmed": 50},
        "phases": {"rest": {"rate": {"per_minute": 90}, "jitter": "10s", "max_in_flight": 300}},
    }
    after = revised(dossier, changes)
    assert dossier_digest(after) != dossier_digest(dossier)
    assert Dossier.model_validate(after.canonical()) == after
    kept = {"release_digest", "strata", "holdback", "phases", "rules"}
    assert after.model_dump(include=kept) == dossier.model_dump(include=kept)
    assert after.revised_from == (60, 120)
    rest, none = after.plan.phases[1], dossier.plan.phases[1]
    assert (rest.rate.per_minute, rest.jitter, rest.max_in_flight) == (90, 10_000, 300)
    assert rest.model_copy(update={"rate": None, "jitter": None, "max_in_flight": None}) == none
    assert after.plan.phases[0] == dossier.plan.phases[0]
    assert after.plan.model_copy(update={"max_in_flight": dossier.plan.max_in_flight, "phases": ()}) == (
        dossier.plan.model_copy(update={"phases": ()})
    )
    found = pace_changes(dossier.plan.canonical(), after.plan.canonical())
    assert [change.pointer for change in found] == [
        "/phases/1/rate",
        "/phases/1/max_in_flight",
        "/phases/1/jitter",
        "/max_in_flight",
    ]
    assert (found[2].before, found[2].after) == (None, 10_000)


def test_a_value_can_be_taken_out_again(dossier):
    limited = revised(dossier, {"phases": {"canary": {"max_in_flight": 5}}})
    assert revised(limited, {"phases": {"canary": {"max_in_flight": None}}}).plan == dossier.plan


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"halt": []}, "/halt", "plan.revision.field"),
        ({"confirm_deadline": "1s"}, "/confirm_deadline", "plan.revision.field"),
        ({"phases": {"canary": {"soak": "1s"}}}, "/phases/canary/soak", "plan.revision.field"),
        ({"phases": {"all": {"jitter": "1s"}}}, "/phases/all", "plan.revision.phase"),
        ({"phases": []}, "/phases", "plan.field.type"),
        ({"phases": {"canary": 5}}, "/phases/canary", "plan.field.type"),
        ({"phases": {"canary": {"jitter": "60s"}}}, "/phases/0/jitter", "plan.jitter.range"),
        ({"phases": {"rest": {"rate": {"per_minute": 0}}}}, "/phases/1/rate/per_minute", "plan.field.value"),
        ({"max_in_flight": {"initial": 9, "maximum": 5}}, "/max_in_flight/maximum", "plan.in_flight.range"),
        ({"max_in_flight": {"initial": 5, "maximum": 9, "add": 1}}, "/max_in_flight", "plan.in_flight.growth"),
        ({"max_in_flight": None}, "/max_in_flight", "plan.field.type"),
    ],
)
def test_what_is_wrong_with_a_revision_is_said_with_its_place(dossier, changes, pointer, code):
    with pytest.raises(PlanError) as caught:
        revised(dossier, changes)
    assert [(error["pointer"], error["code"]) for error in caught.value.errors] == [(pointer, code)]


@pytest.mark.parametrize("changes", [{}, {"phases": {}}, {"max_in_flight": {"initial": 60, "maximum": 240}}])
def test_a_revision_that_changes_nothing_is_refused(dossier, changes):
    with pytest.raises(UnchangedError):
        revised(dossier, changes)
