from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import gate
from orchestrator.domain.boundary import BoundaryExceededError, halt_horizons
from orchestrator.domain.gate import (
    Cell,
    GateVerdict,
    Hold,
    RuleCount,
    Verdict,
    evaluate_halt,
    evaluate_promote,
    evaluate_strata,
    judge,
    scope_key,
    soak_goal,
    suspects,
    tally,
)
from orchestrator.domain.halt_rule import HaltTable
from orchestrator.domain.sequential import NotConvergedError, log_e_harm


def table(name: str = "failures", scope: str = "campaign", p0: float = 0.02, minimum: int = 3) -> HaltTable:
    return HaltTable.model_validate(
        {
            "name": name,
            "scope": scope,
            "p0": p0,
            "alpha": 0.01,
            "processes": 1,
            "min_failures": minimum,
            "horizons": halt_horizons(p0, 0.01, minimum, 1_000),
        }
    )


def asked(n: int, f: int, *, p1: float | None = 0.05, beta: float | None = 0.05, **facts: object) -> GateVerdict:
    clear = {"soaked": True, "approval_missing": False, "stale": False, "strata_covered": True}
    return evaluate_promote(n, f, p1, beta, **clear | facts)


def test_a_rule_halts_from_its_fewest_failures_on():
    assert evaluate_halt([RuleCount(table(), "campaign", 100, 9)]) is None
    verdict = evaluate_halt([RuleCount(table(), "campaign", 100, 10)])
    assert verdict is not None
    assert (verdict.rule, verdict.scope, verdict.scope_key) == ("failures", "campaign", "campaign")
    assert (verdict.n, verdict.f, verdict.f_star, verdict.p0, verdict.alpha) == (100, 10, 10, 0.02, 0.01)
    assert verdict.log_e == pytest.approx(log_e_harm(10, 100, 0.02))
    assert verdict.log_e >= verdict.limit
    assert verdict.detail == (
        "10 of 100 started devices failed in campaign; rule 'failures' halts from 10 failures on (acceptable rate 0.02)."
    )


def test_fewer_failures_than_the_guard_do_not_halt():
    assert evaluate_halt([RuleCount(table(minimum=5), "campaign", 4, 4)]) is None
    assert evaluate_halt([RuleCount(table(minimum=5), "campaign", 5, 5)]) is not None


def test_the_guard_holds_even_if_the_table_was_made_without_it():
    unguarded = table(minimum=1).model_copy(update={"min_failures": 5})
    assert evaluate_halt([RuleCount(unguarded, "campaign", 10, 4)]) is None
    verdict = evaluate_halt([RuleCount(unguarded, "campaign", 10, 5)])
    assert verdict is not None
    assert verdict.f_star == 5


def test_the_first_rule_that_crosses_is_named():
    counts = [
        RuleCount(table("calm"), "campaign", 100, 2),
        RuleCount(table("first", "phase"), "phase/1", 50, 40),
        RuleCount(table("second", "stratum"), "stratum/x", 50, 50),
    ]
    verdict = evaluate_halt(counts)
    assert verdict is not None
    assert (verdict.rule, verdict.scope_key) == ("first", "phase/1")


def test_no_rule_crosses_without_data():
    assert evaluate_halt([]) is None
    assert evaluate_halt([RuleCount(table(), "campaign", 0, 0)]) is None


def test_a_halt_does_not_wait_for_a_number_that_is_only_shown(monkeypatch):
    def fails(*_: object) -> float:
        raise NotConvergedError

    monkeypatch.setattr(gate, "log_e_harm", fails)
    verdict = evaluate_halt([RuleCount(table(), "campaign", 10, 10)])
    assert verdict is not None
    assert verdict.log_e is None


def test_counts_of_different_snapshots_are_no_evidence():
    with pytest.raises(ValueError, match="snapshot"):
        RuleCount(table(), "campaign", 3, 4)
    with pytest.raises(ValueError, match="snapshot"):
        asked(3, 4)


def test_more_devices_than_were_approved_are_an_error():
    with pytest.raises(BoundaryExceededError):
        evaluate_halt([RuleCount(table(), "campaign", 1_001, 0)])


def test_counters_are_summed_up_for_every_process_of_every_rule():
    tables = [table("all"), table("by-phase", "phase"), table("by-stratum", "stratum")]
    cells = [Cell(0, "x", 40, 1), Cell(0, "y", 20, 2), Cell(1, "x", 100, 4)]
    found = [(count.table.name, count.scope_key, count.n, count.f) for count in tally(tables, iter(cells))]
    assert found == [
        ("all", "campaign", 160, 7),
        ("by-phase", "phase/0", 60, 3),
        ("by-phase", "phase/1", 100, 4),
        ("by-stratum", "stratum/x", 140, 5),
        ("by-stratum", "stratum/y", 20, 2),
    ]


def test_an_unknown_scope_is_refused():
    with pytest.raises(ValueError):
        scope_key("galaxy", 0, "x")


def test_enough_matured_devices_promote():
    verdict = asked(74, 0)
    assert (verdict.verdict, verdict.reason) == (Verdict.PROMOTE, None)
    assert verdict.log_e is not None
    assert verdict.limit is not None
    assert verdict.log_e >= verdict.limit
    assert "ruled out" in verdict.detail


def test_too_few_matured_devices_hold_and_say_how_many_it_takes():
    verdict = asked(73, 0)
    assert (verdict.verdict, verdict.reason) == (Verdict.HOLD, Hold.EVIDENCE)
    assert "takes 74 matured devices" in verdict.detail


def test_none_of_four_does_not_promote_and_one_of_four_does_not_halt():
    assert asked(4, 0).verdict is Verdict.HOLD
    assert evaluate_halt([RuleCount(table(), "campaign", 4, 1)]) is None


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (
            {"stale": True, "breaker_open": True, "soaked": False, "approval_missing": True, "strata_covered": False},
            Hold.STALE,
        ),
        (
            {"breaker_open": True, "soaked": False, "approval_missing": True, "strata_covered": False},
            Hold.INFRASTRUCTURE,
        ),
        ({"soaked": False, "approval_missing": True, "strata_covered": False}, Hold.SOAK),
        ({"approval_missing": True, "strata_covered": False}, Hold.APPROVAL),
        ({"soak_devices": 1_001, "approval_missing": True, "strata_covered": False}, Hold.SOAK),
        ({"approval_missing": True, "external_missing": "lab", "strata_covered": False}, Hold.APPROVAL),
        ({"external_missing": "lab", "strata_covered": False}, Hold.EXTERNAL),
        ({"strata_covered": False}, Hold.EVIDENCE),
    ],
)
def test_the_first_reason_to_hold_is_the_one_shown(facts, reason):
    verdict = asked(1_000, 0, **facts)
    assert (verdict.verdict, verdict.reason) == (Verdict.HOLD, reason)
    assert verdict.log_e is not None


def test_the_order_of_the_reasons_is_a_contract():
    assert list(Hold) == ["stale", "infrastructure", "soak", "approval", "external", "evidence"]


def test_a_soak_waits_for_its_devices_and_says_how_many():
    verdict = asked(39, 0, soak_devices=40)
    assert (verdict.reason, "39 of 40 devices" in verdict.detail) == (Hold.SOAK, True)
    assert asked(40, 0, p1=0.1, soak_devices=40).verdict is Verdict.PROMOTE


@given(asked_for=st.integers(1, 500), matured=st.integers(0, 500), outstanding=st.integers(0, 500))
def test_a_soak_waits_for_what_was_asked_or_for_all_there_is(asked_for, matured, outstanding):
    goal = soak_goal(asked_for, matured, outstanding)
    assert goal <= asked_for
    assert (matured >= goal) == (matured >= asked_for or not outstanding), "it ends, and not a device early"
    assert soak_goal(None, matured, outstanding) == 0


def test_a_phase_without_a_promote_test_promotes_once_nothing_holds_it():
    verdict = asked(3, 2, p1=None, beta=None)
    assert (verdict.verdict, verdict.log_e, verdict.limit) == (Verdict.PROMOTE, None, None)
    assert asked(3, 2, p1=None, beta=None, soaked=False).reason is Hold.SOAK


def test_the_stratum_that_causes_it_is_named_first():
    found = suspects({"rev=A": (700, 12), "rev=B": (30, 9), "rev=C": (300, 0), "rev=D": (5, 1)}, 0.02)
    assert [suspect.stratum for suspect in found] == ["rev=B", "rev=D", "rev=A"]
    assert (found[0].n, found[0].f) == (30, 9)
    assert found[0].log_e == pytest.approx(log_e_harm(9, 30, 0.02))


def test_equal_suspects_are_ordered_by_name():
    assert [suspect.stratum for suspect in suspects({"b": (10, 2), "a": (10, 2)}, 0.02)] == ["a", "b"]


def test_a_threshold_that_crosses_says_so_and_claims_no_evidence():
    given = table(p0=0.05).model_copy(update={"alpha": None, "test": "threshold"})
    verdict = evaluate_halt([RuleCount(given, "campaign", 100, 20)])
    assert verdict is not None
    assert (verdict.log_e, verdict.limit, verdict.alpha) == (None, None, None)
    assert verdict.detail.endswith("(a share of 0.05).")


def test_a_rule_that_halts_single_strata_never_halts_the_campaign():
    given = table(scope="stratum").model_copy(update={"halts": "stratum"})
    counts = [RuleCount(given, "stratum/a", 100, 60)]
    assert evaluate_halt(counts) is None
    assert [verdict.scope_key for verdict in evaluate_strata(counts)] == ["stratum/a"]


REVISION = table("revision", "stratum").model_copy(update={"halts": "stratum"})
FLEET = table("fleet")


def test_a_bad_stratum_is_halted_alone_before_its_failures_halt_the_campaign():
    cells = [Cell(0, "a", 100, 0), Cell(0, "b", 20, 19)]
    judged = judge([FLEET, REVISION], cells, set(), ["a", "b"])
    assert judged.campaign is None
    assert [each.scope_key for each in judged.strata] == ["stratum/b"]
    assert {(count.table.name, count.scope_key, count.n) for count in judged.counts} == {
        ("revision", "stratum/a", 100),
        ("revision", "stratum/b", 20),
        ("fleet", "campaign", 100),
    }


def test_what_is_left_still_halts_the_campaign():
    cells = [Cell(0, "a", 50, 2), Cell(1, "c", 200, 20), Cell(0, "b", 20, 19)]
    judged = judge([FLEET], cells, {"b"}, ["a", "b", "c"])
    assert judged.campaign is not None
    assert (judged.campaign.n, judged.campaign.f) == (250, 22)


def test_a_stratum_is_halted_once():
    judged = judge([REVISION], [Cell(0, "a", 100, 0), Cell(0, "b", 20, 19)], {"b"}, ["a", "b"])
    assert (judged.campaign, judged.strata) == (None, ())


def test_the_campaign_halts_instead_of_its_last_stratum():
    judged = judge([REVISION], [Cell(0, "a", 20, 19), Cell(0, "b", 20, 19)], {"b"}, ["a", "b"])
    assert judged.strata == ()
    assert judged.campaign is not None
    assert judged.campaign.scope_key == "stratum/a"
