from __future__ import annotations

from functools import lru_cache

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.boundary import halt_horizons
from orchestrator.domain.gate import Cell, RuleCount, Verdict, evaluate_halt, evaluate_promote, tally
from orchestrator.domain.halt_rule import HaltTable

untimed = settings(deadline=None)  # a busy machine is no defect


@lru_cache
def table(scope: str) -> HaltTable:
    return HaltTable.model_validate(
        {
            "name": scope,
            "scope": scope,
            "p0": 0.02,
            "alpha": 0.01,
            "processes": 1,
            "min_failures": 3,
            "horizons": halt_horizons(0.02, 0.01, 3, 2_000),
        }
    )


cells = st.lists(
    st.builds(
        lambda phase, stratum, n, share: Cell(phase, stratum, n, n * share // 100),
        st.integers(0, 2),
        st.sampled_from("ab"),
        st.integers(0, 150),
        st.integers(0, 20),
    ),
    min_size=1,
    max_size=8,
)


@untimed
@given(cells=cells, data=st.data())
def test_adding_a_failure_never_turns_a_halt_into_anything_else(cells, data):
    tables = [table("campaign"), table("phase"), table("stratum")]
    index = data.draw(st.integers(0, len(cells) - 1))
    cell = cells[index]
    if evaluate_halt(tally(tables, cells)) is None or cell.f == cell.n:
        return
    worse = [*cells[:index], Cell(cell.phase, cell.stratum, cell.n, cell.f + 1), *cells[index + 1 :]]
    assert evaluate_halt(tally(tables, worse)) is not None


@untimed
@given(cells=cells)
def test_counters_add_up_for_every_rule(cells):
    for scope in ("campaign", "phase", "stratum"):
        counts = tally([table(scope)], cells)
        assert sum(count.n for count in counts) == sum(cell.n for cell in cells)
        assert sum(count.f for count in counts) == sum(cell.f for cell in cells)


@untimed
@given(n=st.integers(0, 2_000), data=st.data())
def test_adding_a_failure_never_promotes(n, data):
    f = data.draw(st.integers(0, n))

    def verdict(failures: int) -> Verdict:
        return evaluate_promote(
            n, failures, 0.05, 0.05, soaked=True, approval_missing=False, stale=False, strata_covered=True
        ).verdict

    assert not (verdict(f) is Verdict.HOLD and f < n and verdict(f + 1) is Verdict.PROMOTE)


@untimed
@given(
    outcomes=st.lists(st.booleans() | st.sampled_from([False] * 9), max_size=150),
    data=st.data(),
)
def test_a_release_halts_only_if_the_order_of_its_starts_does(outcomes, data):
    """Whatever the delays: at any moment, failures seen so far are at most those among the devices started so far."""
    halts_in_order = any(
        evaluate_halt([RuleCount(table("campaign"), "campaign", n, sum(outcomes[:n]))])
        for n in range(len(outcomes) + 1)
    )
    delays = data.draw(st.lists(st.integers(0, 40), min_size=len(outcomes), max_size=len(outcomes)))
    for started in range(len(outcomes) + 1):
        seen = sum(failed for index, failed in enumerate(outcomes[:started]) if index + delays[index] < started)
        if evaluate_halt([RuleCount(table("campaign"), "campaign", started, seen)]):
            assert halts_in_order
