"""What a policy would have done agrees with the gate, whatever happened and however it is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.backtest import (
    Course,
    Replay,
    Tally,
    UnsupportedRuleError,
    parse_policy,
    policy_tables,
)
from orchestrator.domain.dossier import freeze
from orchestrator.domain.gate import Cell, judge
from orchestrator.domain.halt_rule import HaltTable
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.plan_fields import PlanError
from tests.support.world import plan

STRATA = {"a": 60, "b": 40}
RULES = [
    {"name": "alone", "scope": "stratum", "halts": "stratum", "p0": 0.02, "alpha": 0.004},
    {"name": "all", "scope": "campaign", "p0": 0.02, "alpha": 0.006, "min_failures": 2},
]
STRICT = [{"name": "any", "test": "threshold", "scope": "campaign", "share": 0.01, "after": 1}]
LAX = [{"name": "half", "test": "threshold", "scope": "campaign", "share": 0.6, "after": 90}]
COURSE = Course(strata=("a", "b"), epochs=((0, 1),), phases=((0, 0), (30, 1)), ended_at=None)


def tables(rules: list[dict[str, object]]) -> tuple[HaltTable, ...]:
    dossier = freeze(parse_plan(plan(halt=rules)), strata_sizes=STRATA, release_digest="sha256:r")
    return policy_tables(parse_policy({"halt": rules}), dossier)


KNOWN = {"own": tables(RULES), "strict": tables(STRICT), "lax": tables(LAX)}

device = st.tuples(st.integers(0, 60), st.integers(0, 30), st.booleans(), st.sampled_from(["a", "b"]))
"""(start, time to the failure, fails, stratum)"""
histories = st.lists(device, max_size=40)


def told(history: list[tuple[int, int, bool, str]]) -> list[Tally]:
    found = [Tally(start, int(start >= 30), stratum, 1, 1, 0) for start, _, _, stratum in history]
    found += [
        Tally(start + wait, int(start >= 30), stratum, 1, 0, 1) for start, wait, fails, stratum in history if fails
    ]
    return sorted(found, key=lambda tally: tally.at)


def replayed(
    policy: tuple[HaltTable, ...], history: list[tuple[int, int, bool, str]], course: Course = COURSE
) -> Replay:
    replay = Replay(policy, course, [20])
    replay.take(told(history))
    replay.finish()
    return replay


def counted(history: list[tuple[int, int, bool, str]], at: int) -> list[Cell]:
    sums: dict[tuple[int, str], list[int]] = {}
    for start, wait, fails, stratum in history:
        if start <= at:
            cell = sums.setdefault((int(start >= 30), stratum), [0, 0])
            cell[0] += 1
            cell[1] += fails and start + wait <= at
    return [Cell(phase, stratum, n, f) for (phase, stratum), (n, f) in sums.items()]


@given(histories, st.sampled_from(sorted(KNOWN)))
def test_it_halts_at_the_first_moment_at_which_the_gate_would_and_with_its_numbers(history, name):
    policy, halted, alone = KNOWN[name], None, set()
    for at in sorted({start + wait for start, wait, fails, _ in history if fails}):
        judged = judge(policy, counted(history, at), alone, ("a", "b"))
        alone |= {verdict.scope_key.removeprefix("stratum/") for verdict in judged.strata}
        if judged.campaign is not None:
            halted = (at, judged.campaign.rule, judged.campaign.n, judged.campaign.f, judged.campaign.f_star)
            break
    replay = replayed(policy, history)
    found = replay.halt
    assert halted == (found and (found.at, found.rule, found.n, found.f, found.bound))
    assert {each.stratum for each in replay.strata} == alone
    if found is not None:
        assert found.exposed == sum(start <= found.at for start, *_ in history)
        assert found.failures == sum(fails and start + wait <= found.at for start, wait, fails, _ in history)
    assert replay.total.exposed == len(history)
    assert replay.exposure(20).exposed == sum(start <= 20 for start, *_ in history)


@given(histories, st.lists(st.integers(0, 80), max_size=6))
def test_pages_of_any_size_tell_the_same(history, cuts):
    whole, parts, tallies = replayed(KNOWN["own"], history), Replay(KNOWN["own"], COURSE, [20]), told(history)
    before = 0
    for cut in [*sorted(cuts), len(tallies)]:
        parts.take(tallies[before:cut])
        before = max(before, cut)
    parts.finish()
    assert (parts.halt, parts.strata, parts.total) == (whole.halt, whole.strata, whole.total)


@given(histories)
def test_a_stricter_policy_never_halts_later_and_a_laxer_one_never_sooner(history):
    halts = [replayed(KNOWN[name], history).halt for name in ("strict", "own", "lax")]
    times = [float("inf") if halt is None else halt.at for halt in halts]
    assert times[0] <= times[1]
    assert times[0] <= times[2]
    if halts[0] is not None and halts[1] is not None:
        assert halts[0].exposed <= halts[1].exposed


@given(histories, st.integers(0, 90))
def test_nothing_halts_after_the_end(history, end):
    course = Course(strata=("a", "b"), epochs=((0, 1),), phases=(), ended_at=end)
    halt = replayed(KNOWN["strict"], history, course).halt
    assert halt is None or halt.at < end


def test_a_resume_begins_with_fresh_counts_and_late_failures_of_before_it_halt_nothing():
    course = Course(strata=("a", "b"), epochs=((0, 1), (10, 2)), phases=((0, 0),), ended_at=None)
    before = [Tally(1, 0, "a", 1, 30, 0), Tally(12, 0, "a", 1, 0, 20)]
    replay = Replay(KNOWN["own"], course)
    replay.take([*before, Tally(13, 0, "a", 2, 30, 0), Tally(14, 0, "a", 2, 0, 8)])
    replay.finish()
    assert [each.halt.n for each in replay.strata] == [30]
    assert replay.strata[0].halt.gate_epoch == 2
    assert replay.strata[0].halt.exposed == 60


def test_a_policy_of_the_plans_rules_has_the_tables_that_were_frozen():
    dossier = freeze(parse_plan(plan(halt=RULES)), strata_sizes=STRATA, release_digest="sha256:r")
    assert policy_tables(parse_policy({"halt": RULES}), dossier) == dossier.rules


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({}, "plan.field.missing"),
        ([], "plan.field.type"),
        ({"halt": []}, "plan.field.value"),
        ({"halt": STRICT, "phases": []}, "plan.field.unknown"),
        ({"halt": [*STRICT, *STRICT]}, "plan.name.duplicate"),
        ({"halt": [{**RULES[0], "p0": 2.0}]}, "plan.rate.range"),
        ({"halt": [{"name": "h", "test": "exposure"}]}, "backtest.rule.unsupported"),
        ({"halt": [{"name": "h", "test": {}}]}, "backtest.rule.unsupported"),
    ],
)
def test_what_is_no_policy_is_refused_with_a_code(policy, code):
    with pytest.raises((PlanError, UnsupportedRuleError)) as refused:
        parse_policy(policy)
    assert refused.value.code == code


def test_a_rule_for_more_strata_than_it_can_halt_alone_is_refused():
    many = {f"s{i:02}": 4 for i in range(25)}
    dossier = freeze(parse_plan(plan()), strata_sizes=many, release_digest="sha256:r")
    with pytest.raises(PlanError) as refused:
        policy_tables(parse_policy({"halt": RULES}), dossier)
    assert refused.value.code == "plan.halt.strata"
