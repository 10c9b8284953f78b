from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from orchestrator.domain.boundary import f_star
from orchestrator.domain.digest import digest_of
from orchestrator.domain.dossier import Dossier, dossier_digest, freeze, validate_against
from orchestrator.domain.plan import Plan, parse_plan
from orchestrator.domain.plan_fields import PlanError, Problem

WRITTEN = """
release: rel_1
cohort:
  hardware_models: [sensor-a, sensor-b]
  stratify_by: [hardware_model, attribute.hw_revision]
  holdback_percent: 1
  salt: spring
phases:
  - {name: canary, percent: 2, min_count: 60, soak: 15m, promote: {p1: 0.1, beta: 0.05}, approval: true}
  - {name: early, percent: 20, soak: PT1H, promote: {p1: 0.05}, rate: {per_minute: 600}, max_in_flight: 150}
  - {name: everyone, percent: 100, soak: 0s}
confirm_deadline: 30m
offer_ttl: 2d
halt:
  - {name: failures, scope: campaign, p0: 0.02, alpha: 0.006}
  - {name: phase-failures, scope: phase, p0: 0.02, alpha: 0.002}
  - {name: revision-failures, scope: stratum, p0: 0.02, alpha: 0.002, min_failures: 4}
max_in_flight: {initial: 50, maximum: 400}
approvals: {required: 2}
retry: {max_attempts: 2}
advisory: {text: Fixes the radio., url: https://example.test/a, cves: [CVE-2026-12345]}
"""
SIZES = {"a": 1_400, "b": 600}
MODELS = {"sensor-a", "sensor-b"}


@pytest.fixture
def data() -> dict[str, Any]:
    return yaml.safe_load(WRITTEN)


def changed(data: dict[str, Any], pointer: str, value: Any) -> dict[str, Any]:
    """A copy of the data with another value at a pointer like /phases/0/percent; Ellipsis removes it."""
    copy = deepcopy(data)
    *path, last = pointer.strip("/").split("/")
    target: Any = copy
    for part in path:
        target = target[int(part) if part.isdigit() else part]
    key: Any = int(last) if last.isdigit() else last
    if value is ...:
        del target[key]
    else:
        target[key] = value
    return copy


def refusal(data: Any) -> PlanError:
    with pytest.raises(PlanError) as caught:
        parse_plan(data)
    return caught.value


def found(data: dict[str, Any], sizes: dict[str, int] | None = None, **limits: Any) -> set[tuple[str, str]]:
    problems = validate_against(
        parse_plan(data), strata_sizes=SIZES if sizes is None else sizes, release_models=MODELS, **limits
    )
    return {(problem.pointer, problem.code) for problem in problems}


def test_a_written_plan_is_read_with_durations_in_milliseconds_and_defaults(data):
    plan = parse_plan(data)
    assert [phase.soak for phase in plan.phases] == [900_000, 3_600_000, 0]
    assert (plan.confirm_deadline, plan.offer_ttl) == (1_800_000, 172_800_000)
    assert plan.phases[1].promote is not None
    assert plan.phases[1].promote.beta == 0.05
    assert [rule.min_failures for rule in plan.halt] == [3, 3, 4]
    assert (plan.approvals.required, plan.approvals.separation) == (2, True)
    assert plan.salt == "spring"


def test_the_smallest_plan_has_safe_defaults(data):
    smallest = {
        "release": "rel_1",
        "phases": [{"name": "all", "percent": 100, "soak": "1h"}],
        "confirm_deadline": "1h",
        "offer_ttl": "1d",
        "halt": [{"name": "failures", "scope": "campaign", "p0": 0.02, "alpha": 0.01}],
        "max_in_flight": {"initial": 10, "maximum": 10},
    }
    plan = parse_plan(smallest)
    assert (plan.approvals.required, plan.approvals.separation) == (1, True)
    assert plan.cohort.stratify_by == ("hardware_model",)
    assert plan.retry.max_attempts == 1
    assert plan.phases[0].promote is None


def test_the_canonical_form_reads_back_as_the_same_plan(data):
    plan = parse_plan(data)
    assert parse_plan(json.loads(json.dumps(plan.canonical()))) == plan


def test_a_plan_cannot_be_changed(data):
    with pytest.raises(ValidationError):
        parse_plan(data).release = "rel_2"  # type: ignore[misc]


def test_the_plan_has_a_schema_that_allows_both_forms_of_a_duration():
    schema = Plan.model_json_schema()
    kinds = {option["type"] for option in schema["properties"]["offer_ttl"]["anyOf"]}
    assert kinds == {"string", "integer"}


@pytest.mark.parametrize(
    ("pointer", "value", "code"),
    [
        ("/release", ..., "plan.field.missing"),
        ("/phases/0/soak", ..., "plan.field.missing"),
        ("/halt/0/alpha", ..., "plan.field.missing"),
        ("/colour", "red", "plan.field.unknown"),
        ("/phases/1/a~b", 1, "plan.field.unknown"),
        ("/release", 7, "plan.field.type"),
        ("/phases", "all", "plan.field.type"),
        ("/phases/0/percent", "2", "plan.field.type"),
        ("/phases/0/percent", True, "plan.field.type"),
        ("/phases/0/min_count", 60.0, "plan.field.type"),
        ("/phases/0/approval", "yes", "plan.field.type"),
        ("/approvals/required", "1", "plan.field.type"),
        ("/release", "", "plan.field.value"),
        ("/phases/0/name", "has space", "plan.field.value"),
        ("/cohort/salt", "a\x00b", "plan.field.value"),
        ("/cohort/stratify_by", ["color"], "plan.field.value"),
        ("/cohort/holdback_percent", 51, "plan.field.value"),
        ("/cohort/holdback_percent", float("nan"), "plan.field.value"),
        ("/halt", [], "plan.field.value"),
        ("/phases", [], "plan.field.value"),
        ("/halt/0/scope", "galaxy", "plan.field.value"),
        ("/halt/0/min_failures", 0, "plan.field.value"),
        ("/approvals/required", 0, "plan.field.value"),
        ("/retry/max_attempts", 0, "plan.field.value"),
        ("/phases/1/rate/per_minute", 0, "plan.field.value"),
        ("/advisory/url", "javascript:alert(1)", "plan.field.value"),
        ("/advisory/cves", ["CVE-1"], "plan.field.value"),
        ("/phases/0/soak", "90", "plan.duration"),
        ("/offer_ttl", "forever", "plan.duration"),
        ("/confirm_deadline", -1, "plan.duration"),
        ("/offer_ttl", "0s", "plan.duration.range"),
        ("/confirm_deadline", 0, "plan.duration.range"),
        ("/halt/0/p0", 0.0, "plan.rate.range"),
        ("/halt/0/p0", 1, "plan.rate.range"),
        ("/halt/0/alpha", 1e-9, "plan.rate.range"),
        ("/phases/0/promote/p1", 1.5, "plan.rate.range"),
        ("/phases/0/promote/beta", 0.0, "plan.rate.range"),
        ("/phases/0/percent", 0, "plan.phase.size"),
        ("/phases/2/percent", 100.5, "plan.phase.size"),
        ("/phases/0/min_count", 0, "plan.phase.size"),
        ("/phases/0/percent", ..., "plan.phase.size"),
        ("/phases/0/count", 5, "plan.phase.size"),
        ("/max_in_flight/initial", 0, "plan.in_flight.range"),
        ("/phases/1/max_in_flight", 0, "plan.in_flight.range"),
        ("/max_in_flight/maximum", 49, "plan.in_flight.range"),
        ("/phases/2/percent", 99, "plan.phases.sum"),
        ("/phases/1/percent", 2, "plan.phases.sum"),
        ("/phases/1/name", "canary", "plan.name.duplicate"),
        ("/halt/1/name", "failures", "plan.name.duplicate"),
        ("/cohort/stratify_by", ["hardware_model", "hardware_model"], "plan.name.duplicate"),
        ("/priority", 1_001, "plan.priority"),
        ("/priority", -1, "plan.priority"),
        ("/supersede", "always", "plan.field.value"),
    ],
)
def test_what_is_wrong_has_a_code_and_a_sentence(data, pointer, value, code):
    error = refusal(changed(data, pointer, value))
    assert [item["code"] for item in error.errors] == [code]
    assert error.code == code
    assert error.status == 422
    item = error.errors[0]
    written = pointer.replace("~", "~0")
    assert written.startswith(item["pointer"]) or item["pointer"].startswith(written)
    assert item["detail"].endswith(".")
    assert item["detail"] in error.detail


def test_all_problems_are_reported_together(data):
    data = changed(changed(changed(data, "/offer_ttl", "soon"), "/halt/0/p0", 2), "/phases/0/name", ...)
    error = refusal(data)
    assert error.code == "plan.invalid"
    assert {(item["pointer"], item["code"]) for item in error.errors} == {
        ("/offer_ttl", "plan.duration"),
        ("/halt/0/p0", "plan.rate.range"),
        ("/phases/0/name", "plan.field.missing"),
    }
    assert error.fields["errors"] == error.errors


def test_parts_that_do_not_fit_together_are_reported_together(data):
    data = changed(changed(data, "/phases/2/percent", 50), "/phases/1/name", "canary")
    data = changed(data, "/cohort/include", ["d1", "d2"])
    data = changed(data, "/cohort/exclude", ["d2"])
    assert {item["code"] for item in refusal(data).errors} == {
        "plan.phases.sum",
        "plan.name.duplicate",
        "plan.cohort.overlap",
    }


def test_an_entry_that_is_wrong_is_not_also_reported_as_missing(data):
    data["halt"] = [{"name": "failures", "scope": "campaign", "p0": 2, "alpha": 0.01}]
    assert [item["pointer"] for item in refusal(data).errors] == ["/halt/0/p0"]


def test_messages_speak_of_lists(data):
    assert refusal(changed(data, "/phases", "all")).errors[0]["detail"] == "Input should be a valid list."


@pytest.mark.parametrize("data", [None, "text", [], 7])
def test_something_that_is_no_plan_at_all_is_refused(data):
    assert refusal(data).code == "plan.field.type"


def test_min_count_does_not_go_with_count(data):
    data["phases"][0] = {"name": "canary", "count": 40, "min_count": 60, "soak": "1m"}
    assert refusal(data).code == "plan.phase.size"


def test_counts_must_rise_like_percentages(data):
    data["phases"] = [
        {"name": "a", "count": 40, "soak": "1m"},
        {"name": "b", "count": 40, "soak": "1m"},
        {"name": "c", "percent": 100, "soak": "1m"},
    ]
    assert refusal(data).code == "plan.phases.sum"


def test_sizes_are_cumulative_rounded_up_and_capped(data):
    plan = parse_plan(data)
    assert plan.phase_counts(1_980) == (60, 396, 1_980)
    assert plan.phase_counts(10_001) == (201, 2_001, 10_001)
    assert plan.phase_counts(40) == (40, 8, 40)
    assert plan.holdback_count(1_999) == 19


def test_percentages_mean_what_was_written_and_not_their_binary_neighbour(data):
    plan = parse_plan(changed(data, "/phases/1/percent", 7))
    assert plan.phases[1].reached(100) == 7
    assert parse_plan(changed(data, "/phases/1/percent", 2.2)).phases[1].reached(1_000) == 22


def test_a_plan_that_suits_the_fleet_has_no_problems(data):
    assert found(data) == set()


def test_shares_of_alpha_are_added_as_they_were_written(data):
    assert 0.001 + 0.008 + 0.001 > 0.01
    for index, alpha in enumerate((0.001, 0.008, 0.001)):
        data = changed(data, f"/halt/{index}/alpha", alpha)
    assert found(data, alpha_total=0.01) == set()
    assert found(data, alpha_total=0.0099) == {("/halt", "plan.halt.alpha")}
    assert found(changed(data, "/halt/0/alpha", 0.0011)) == {("/halt", "plan.halt.alpha")}


def test_a_promote_test_that_cannot_pass_names_the_devices_it_needs(data):
    data = changed(data, "/phases/0/min_count", 35)
    (problem,) = validate_against(parse_plan(data), strata_sizes={"a": 1_000}, release_models=MODELS)
    assert problem == Problem("/phases/0/promote", "plan.promote.impossible", problem.detail)
    assert "adds 35 devices" in problem.detail
    assert "at least 36 devices" in problem.detail


def test_a_promote_test_counts_only_the_devices_its_phase_adds(data):
    # 20 % of 540 are 108 devices, but only 48 of them are new, and 74 clean ones are needed.
    assert found(data, {"a": 545}) == {("/phases/1/promote", "plan.promote.impossible")}


def test_a_phase_without_devices_of_its_own_is_refused(data):
    assert found(data, {"a": 300}) == {("/phases/1", "plan.phase.size")}
    assert found(data, {"a": 60}) == {("/phases/1", "plan.phase.size"), ("/phases/2", "plan.phase.size")}


def test_an_empty_cohort_is_refused(data):
    assert found(data, {}) == {("/cohort", "plan.cohort.empty")}
    assert found(changed(data, "/halt/0/alpha", 0.5), {"a": 0}) == {
        ("/cohort", "plan.cohort.empty"),
        ("/halt", "plan.halt.alpha"),
    }


def test_a_schedule_is_kept_as_it_was_written_and_in_milliseconds(data):
    written = {
        "start_at": "2026-12-01T00:00:00Z",
        "freezes": [{"from": "2026-12-24T00:00:00Z", "to": "2026-12-27T00:00:00Z", "reason": "holidays"}],
        "windows": [{"days": ["mon"], "from": "22:00", "to": "05:00"}],
        "timezone": "device",
    }
    plan = parse_plan(changed(data, "/schedule", written))
    stored = plan.canonical()["schedule"]
    assert stored["start_at"] == 1_796_083_200_000
    assert stored["windows"] == [{"days": ["mon"], "from": "22:00", "to": "05:00"}]
    assert parse_plan(json.loads(json.dumps(plan.canonical()))) == plan


SITES = {"label": "attribute.site", "max_percent": 10}


@pytest.mark.parametrize(
    ("budget", "pointer", "code"),
    [
        ([SITES | {"max_percent": 0}], "/budget/0/max_percent", "plan.budget.range"),
        ([SITES | {"max_percent": 100.5}], "/budget/0/max_percent", "plan.budget.range"),
        ([SITES | {"min_count": 0}], "/budget/0/min_count", "plan.budget.range"),
        ([SITES | {"label": "site"}], "/budget/0/label", "plan.field.value"),
        ([SITES, SITES | {"max_percent": 20}], "/budget", "plan.name.duplicate"),
        ([SITES | {"label": f"attribute.a{n}"} for n in range(5)], "/budget", "plan.field.value"),
    ],
)
def test_what_is_wrong_with_a_budget_has_a_place_and_a_code(data, budget, pointer, code):
    with pytest.raises(PlanError) as caught:
        parse_plan(data | {"budget": budget})
    assert {(item["pointer"], item["code"]) for item in caught.value.errors} == {(pointer, code)}


def test_the_dossier_says_how_many_devices_of_each_value_may_be_away(data):
    budget = [SITES | {"min_count": 2}, {"label": "hardware_model", "max_percent": 25}]
    plan = parse_plan(data | {"budget": budget})
    counted = [{"lyon": 900, "-": 5, "berlin": 95}, {"sensor-a": 1_000}]
    made = freeze(plan, strata_sizes=SIZES, release_digest="sha256:feed", budget=counted)
    assert [limits.limits for limits in made.budget] == [{"-": 2, "berlin": 9, "lyon": 90}, {"sensor-a": 250}]
    assert [limits.limit("new") for limits in made.budget] == [2, 1]
    assert Dossier.model_validate(json.loads(json.dumps(made.canonical()))) == made
    more = [{**counted[0], "berlin": 96}, counted[1]]
    other = freeze(plan, strata_sizes=SIZES, release_digest="sha256:feed", budget=more)
    assert dossier_digest(other) != dossier_digest(made)
    with pytest.raises(ValueError, match="shorter"):
        freeze(plan, strata_sizes=SIZES, release_digest="sha256:feed", budget=counted[:1])


def test_a_selector_that_cannot_be_read_is_refused_with_its_place(data):
    with pytest.raises(PlanError) as caught:
        parse_plan(changed(data, "/cohort/selector", "version=gt=two"))
    (problem,) = caught.value.errors
    assert (problem["pointer"], problem["code"]) == ("/cohort/selector", "plan.cohort.selector")
    assert problem["detail"].splitlines()[1:] == ["version=gt=two", "           ^"]


def test_a_hardware_model_that_the_release_does_not_support_is_refused(data):
    data = changed(data, "/cohort/hardware_models", ["sensor-a", "toaster"])
    assert found(data) == {("/cohort/hardware_models/1", "plan.cohort.hardware_model")}


@pytest.fixture
def dossier(data) -> Dossier:
    return freeze(parse_plan(data), strata_sizes=SIZES, release_digest="sha256:feed")


def test_the_dossier_resolves_every_number(dossier):
    assert dossier.strata == SIZES
    assert dossier.holdback == {"a": 14, "b": 6}
    assert [(share.name, share.size, share.reached) for share in dossier.phases] == [
        ("canary", 60, 60),
        ("early", 336, 396),
        ("everyone", 1_584, 1_980),
    ]
    assert dossier.phases[0].strata == {"a": 42, "b": 18}


def test_every_process_of_a_rule_gets_its_part_of_alpha(dossier):
    campaign, phase, stratum = dossier.rules
    assert (campaign.processes, campaign.alpha) == (1, 0.006)
    assert (phase.processes, phase.alpha) == (3, pytest.approx(0.002 / 3))
    assert (stratum.processes, stratum.alpha) == (2, 0.001)


def test_halt_tables_reach_as_far_as_their_scope(dossier):
    campaign, phase, stratum = dossier.rules
    assert (campaign.horizons[-1], phase.horizons[-1], stratum.horizons[-1]) == (2_000, 2_000, 1_400)
    assert stratum.horizons[:4] == (0, 0, 0, 0)
    assert f_star(campaign.horizons, 60) == 8


def test_a_stored_dossier_reads_back_with_the_same_digest(dossier):
    stored = json.loads(json.dumps(dossier.canonical()))
    assert Dossier.model_validate(stored) == dossier
    assert digest_of(stored) == dossier_digest(dossier)


def test_a_dossier_that_an_earlier_version_froze_keeps_its_digest_and_still_loads(dossier):
    stored = json.loads((Path(__file__).parent / "golden" / "dossier-1.json").read_bytes())
    assert digest_of(stored) == "sha256:cc824b5280abdefbf6ed622d8f0c0e1b187841b3b2727075b14bceb75f0f1516"
    # What a plan has by default since then was not approved with it.
    counted_all = dossier.plan.cohort.model_copy(update={"skip_current": False})
    without = dossier.plan.model_copy(update={"breaker": None, "cohort": counted_all})
    assert Dossier.model_validate(stored) == dossier.model_copy(update={"plan": without})


def test_the_digest_changes_with_anything_that_was_approved(data, dossier):
    other_plan = freeze(parse_plan(changed(data, "/offer_ttl", "3d")), strata_sizes=SIZES, release_digest="sha256:feed")
    other_fleet = freeze(parse_plan(data), strata_sizes=SIZES | {"b": 601}, release_digest="sha256:feed")
    other_release = freeze(parse_plan(data), strata_sizes=SIZES, release_digest="sha256:beef")
    assert len({dossier_digest(item) for item in (dossier, other_plan, other_fleet, other_release)}) == 4


def test_how_a_plan_was_written_does_not_change_the_digest(data, dossier):
    data = changed(changed(data, "/offer_ttl", "PT48H"), "/phases/0/percent", 2.0)
    again = freeze(parse_plan(data), strata_sizes={"b": 600, "a": 1_400}, release_digest="sha256:feed")
    assert dossier_digest(again) == dossier_digest(dossier)


def test_a_breaker_is_on_by_default_and_can_be_switched_off(data):
    spec = parse_plan(data).breaker
    assert spec is not None
    assert (spec.share, spec.minimum, spec.window, spec.cool_down) == (0.3, 20, 600_000, 300_000)
    assert (spec.probes, spec.stale) == (10, 300_000)
    for off in ("off", False, None):
        plan = parse_plan({**data, "breaker": off})
        assert plan.breaker is None
        assert parse_plan(plan.canonical()) == plan


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("share", 0, "plan.breaker.share"),
        ("share", 1.5, "plan.breaker.share"),
        ("minimum", 0, "plan.field.value"),
        ("probes", 1_001, "plan.field.value"),
        ("window", "0s", "plan.duration.range"),
        ("stale", "soon", "plan.duration"),
    ],
)
def test_a_wrong_breaker_says_where(data, field, value, code):
    with pytest.raises(PlanError) as caught:
        parse_plan({**data, "breaker": {field: value}})
    assert [(item["pointer"], item["code"]) for item in caught.value.errors] == [(f"/breaker/{field}", code)]


def grouped(data: dict[str, Any], *phases: dict[str, Any]) -> dict[str, Any]:
    last = data["phases"][-1]
    cohort = data["cohort"] | {"groups": {"lab": "attribute.site==lab"}}
    named = [{"name": f"n{index}", "soak": 0, **phase} for index, phase in enumerate(phases)]
    return data | {"cohort": cohort, "phases": [*named, last]}


@pytest.mark.parametrize(
    "size",
    [{"group": "lab", "percent": 5.0}, {"group": "lab", "devices": ["d"]}, {"devices": ["d"], "min_count": 3}, {}],
)
def test_a_phase_has_one_way_to_say_whom_it_takes(data, size):
    assert refusal(grouped(data, size)).code == "plan.phase.size"


def test_what_a_phase_names_must_be_there(data):
    assert refusal(grouped(data, {"group": "labs"})).errors[0]["pointer"] == "/phases/0/group"
    assert refusal(grouped(data, {"group": "labs"})).code == "plan.phase.group"
    assert refusal(grouped(data, {"devices": []})).errors[0]["pointer"] == "/phases/0/devices"
    wrong = grouped(data, {"group": "lab"})
    wrong["cohort"]["groups"]["lab"] = "attribute.site="
    assert refusal(wrong).errors[0]["pointer"] == "/cohort/groups/lab"


def test_the_last_phase_takes_everybody_else(data):
    plan = grouped(data, {"group": "lab"})
    assert refusal(plan | {"phases": plan["phases"][:1]}).code == "plan.phases.sum"


def test_a_group_without_a_device_of_its_own_is_refused_with_the_fleet(data):
    plan = parse_plan(grouped(data, {"group": "lab"}, {"devices": ["d"]}))
    problems = validate_against(plan, strata_sizes=SIZES, named={0: {"a": 5}}, release_models=MODELS)
    assert [(problem.pointer, problem.code) for problem in problems] == [("/phases/1", "plan.phase.size")]


def test_a_dossier_freezes_what_is_taken_by_name(data):
    plan = parse_plan(grouped(data, {"group": "lab"}))
    dossier = freeze(plan, strata_sizes=SIZES, named={0: {"a": 5}}, release_digest="sha256:feed")
    assert dossier.phases[0].strata == {"a": 5, "b": 0}
    assert dossier.named == {0: {"a": 5, "b": 0}}
    assert Dossier.model_validate(json.loads(json.dumps(dossier.canonical()))) == dossier
