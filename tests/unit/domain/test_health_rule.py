from __future__ import annotations

import json
from math import log
from typing import Any

import pytest
import yaml

from orchestrator.domain.blast import phase_bounds
from orchestrator.domain.dossier import Dossier, dossier_digest, freeze, validate_against
from orchestrator.domain.health_rule import HELD, Cell, HealthGate, Reading, counted, standings
from orchestrator.domain.plan import Plan, parse_plan
from orchestrator.domain.plan_fields import PlanError

WRITTEN = """
release: rel_1
cohort: {holdback_percent: 10}
phases:
  - {name: canary, percent: 20, soak: 1h}
  - {name: everyone, percent: 100, soak: 1h}
confirm_deadline: 30m
offer_ttl: 1d
halt:
  - {name: failures, scope: campaign, p0: 0.02, alpha: 0.006}
  - {test: exposure, name: crashes, signal: crash, scope: phase, per_hour: 0.01, alpha: 0.002}
  - {test: canary-vs-holdback, name: against, signal: crash, alpha: 0.002, span: 30m}
max_in_flight: {initial: 50, maximum: 400}
"""
SIZES = {"a": 700, "b": 300}
HOUR = 3_600_000


@pytest.fixture
def data() -> dict[str, Any]:
    return yaml.safe_load(WRITTEN)


def codes(data: dict[str, Any]) -> set[tuple[str, str]]:
    with pytest.raises(PlanError) as caught:
        parse_plan(data)
    return {(item["pointer"], item["code"]) for item in caught.value.errors}


def frozen(plan: Plan, sizes: dict[str, int] | None = None) -> Dossier:
    return freeze(plan, strata_sizes=sizes or SIZES, release_digest="sha256:feed")


def test_rules_on_health_stand_in_the_plan_and_in_the_dossier(data):
    plan = parse_plan(data)
    assert parse_plan(json.loads(json.dumps(plan.canonical()))) == plan
    dossier = frozen(plan)
    assert [table.name for table in dossier.rules] == ["failures"]
    crashes, against = dossier.health
    assert (crashes.processes, crashes.alpha, crashes.per_hour, crashes.min_events) == (2, 0.001, 0.01, 3)
    assert (against.processes, against.alpha, against.span, against.scope) == (1, 0.002, 1_800_000, "campaign")
    assert against.limit == -log(0.002)
    assert Dossier.model_validate(json.loads(json.dumps(dossier.canonical()))) == dossier


def test_they_are_in_the_digest(data):
    other = {**data, "halt": [*data["halt"][:2], data["halt"][2] | {"span": "1h"}]}
    assert dossier_digest(frozen(parse_plan(data))) != dossier_digest(frozen(parse_plan(other)))


def test_they_give_no_blast_bound(data):
    alone = {**data, "halt": data["halt"][:1]}
    bounds = [[bound.failures for bound in phase_bounds(frozen(parse_plan(each)))] for each in (data, alone)]
    assert bounds[0] == bounds[1]


def test_a_plan_needs_a_rule_that_bounds_the_harm(data):
    data["halt"] = data["halt"][1:]
    assert codes(data) == {("/halt", "plan.halt.bound")}


def test_a_comparison_needs_a_holdback(data):
    data["cohort"] = {}
    assert codes(data) == {("/halt/2", "plan.halt.holdback")}


def test_a_holdback_that_comes_to_no_device_is_none(data):
    plan = parse_plan(data)
    assert validate_against(plan, strata_sizes=SIZES, release_models=["m"]) == []
    (problem,) = validate_against(plan, strata_sizes={"a": 9}, release_models=["m"])
    assert (problem.pointer, problem.code) == ("/halt/2", "plan.halt.holdback")


def test_their_shares_of_alpha_count(data):
    plan = parse_plan(data)
    (problem,) = validate_against(plan, strata_sizes=SIZES, release_models=["m"], alpha_total=0.009)
    assert (problem.pointer, problem.code) == ("/halt", "plan.halt.alpha")


@pytest.mark.parametrize(
    ("index", "change", "code"),
    [
        (1, {"per_hour": 0.0}, ("/halt/1/per_hour", "plan.halt.per_hour")),
        (1, {"per_hour": 2_000.0}, ("/halt/1/per_hour", "plan.halt.per_hour")),
        (1, {"per_hour": "often"}, ("/halt/1/per_hour", "plan.field.type")),
        (1, {"signal": "Crash!"}, ("/halt/1/signal", "plan.field.value")),
        (1, {"scope": "device"}, ("/halt/1/scope", "plan.field.value")),
        (1, {"min_events": 0}, ("/halt/1/min_events", "plan.field.value")),
        (1, {"p0": 0.02}, ("/halt/1/p0", "plan.field.unknown")),
        (1, {"halts": "stratum"}, ("/halt/1/halts", "plan.field.unknown")),
        (2, {"span": "10d"}, ("/halt/2/span", "plan.duration.range")),
        (2, {"span": 0}, ("/halt/2/span", "plan.duration.range")),
        (2, {"scope": "campaign"}, ("/halt/2/scope", "plan.field.unknown")),
        (2, {"name": "crashes"}, ("/halt", "plan.name.duplicate")),
    ],
)
def test_what_is_wrong_is_said_where_it_is(data, index, change, code):
    data["halt"][index] |= change
    assert codes(data) == {code}


EXPOSURE = HealthGate(
    name="crashes",
    test="exposure",
    signal="crash",
    scope="stratum",
    alpha=0.002,
    processes=1,
    per_hour=0.01,
    min_events=3,
)


def test_each_process_counts_for_itself_and_devices_held_back_for_none():
    cells = [
        Cell(phase=0, stratum="a", events=30, exposure_ms=100 * HOUR),
        Cell(phase=1, stratum="a", events=1, exposure_ms=10 * HOUR),
        Cell(phase=1, stratum="b", events=2, exposure_ms=1),
        Cell(phase=HELD, stratum="b", events=100, exposure_ms=HOUR),
    ]
    first, second = standings(EXPOSURE, counted(EXPOSURE, Reading(until=0), cells, 5), ())
    assert (first.scope_key, first.events, first.exposure_ms, first.halts) == ("stratum/a", 31, 110 * HOUR, True)
    assert (second.scope_key, second.events, second.exposure_ms) == ("stratum/b", 2, 1)
    assert second.log_e is not None
    assert second.log_e < first.log_e
    assert not second.halts
    by_phase = EXPOSURE.model_copy(update={"scope": "phase"})
    found = standings(by_phase, counted(by_phase, Reading(until=0), cells, 5), ())
    assert [(each.scope_key, each.events) for each in found] == [("phase/0", 30), ("phase/1", 3)]


def test_fewer_events_than_the_guard_never_halt():
    cells = [Cell(phase=0, stratum="a", events=2, exposure_ms=1)]
    strict = EXPOSURE.model_copy(update={"alpha": 0.9})
    (stand,) = standings(strict, counted(strict, Reading(until=0), cells, 5), ())
    assert stand.log_e >= stand.limit
    assert not stand.halts
