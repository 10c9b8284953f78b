from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.exposure import events_to_halt, log_e_exposure
from orchestrator.domain.health_rule import HELD, Cell, HealthGate, Reading, counted, standings
from orchestrator.domain.versus import Score, log_e_versus, scored

HOUR = 3_600_000
COUNTS = st.integers(0, 2_000)
EXPOSURES = st.integers(0, 10**6 * HOUR)
RATES = st.floats(1e-6, 100.0)
CELLS = st.lists(
    st.builds(
        Cell,
        phase=st.sampled_from([HELD, 0, 1]),
        stratum=st.sampled_from("ab"),
        events=st.integers(0, 5),
        exposure_ms=st.integers(0, 50 * HOUR),
        span=st.integers(0, 4),
    ),
    max_size=20,
)
EXPOSURE = HealthGate(
    name="e", test="exposure", signal="crash", scope="stratum", alpha=0.01, processes=2, per_hour=0.1, min_events=3
)
VERSUS = HealthGate(
    name="v", test="canary-vs-holdback", signal="crash", scope="campaign", alpha=0.01, processes=1, span=1_000
)


@given(COUNTS, EXPOSURES, RATES)
def test_evidence_per_exposure_rises_with_events_and_falls_with_time(events, exposure, rate):
    here = log_e_exposure(events, exposure, rate)
    assert log_e_exposure(events + 1, exposure, rate) >= here - 1e-9
    assert log_e_exposure(events, exposure + HOUR, rate) <= here + 1e-9


@given(st.integers(0, 10**5 * HOUR), st.integers(1, 100), st.floats(1e-4, 1.0))
def test_the_bound_of_events_never_falls_with_time(exposure, hours, rate):
    assert events_to_halt(exposure, rate, 0.002, 3) <= events_to_halt(exposure + hours * HOUR, rate, 0.002, 3)


@given(*(st.integers(0, 500),) * 2, *(st.integers(1, 10**9),) * 2)
def test_a_failure_of_the_treated_is_evidence_and_one_of_the_others_is_not(treated, held, treated_ms, held_ms):
    here = log_e_versus(scored(Score(), treated, held, treated_ms, held_ms))
    assert log_e_versus(scored(Score(), treated + 1, held, treated_ms, held_ms)) >= here - 1e-9
    assert log_e_versus(scored(Score(), treated, held + 1, treated_ms, held_ms)) <= here + 1e-9


@given(CELLS, st.randoms(use_true_random=False), st.sampled_from([EXPOSURE, VERSUS]), st.sampled_from(["", "a"]))
def test_neither_order_nor_looks_change_what_is_counted(cells, dice, gate, halted):
    """Spans are whole: what is split over looks is split between spans."""
    at_once = counted(gate, Reading(until=0), cells, 10)
    spans = [[cell for cell in cells if cell.span == span] for span in range(5)]
    dice.shuffle(spans)
    bit_by_bit = Reading(until=0)
    for until, part in enumerate(spans, 6):
        dice.shuffle(part)
        bit_by_bit = counted(gate, bit_by_bit, part, until)
    assert bit_by_bit.cells == at_once.cells
    for one, other in zip(standings(gate, at_once, [halted]), standings(gate, bit_by_bit, [halted]), strict=True):
        assert abs((one.log_e or 0) - (other.log_e or 0)) < 1e-6
        assert (one.scope_key, one.events, one.exposure_ms, one.held_events) == (
            other.scope_key,
            other.events,
            other.exposure_ms,
            other.held_events,
        )


@given(CELLS)
def test_another_event_never_takes_a_halt_back(cells):
    more = [*cells, Cell(phase=0, stratum="a", events=1, exposure_ms=0)]
    before = {each.scope_key: each for each in standings(EXPOSURE, counted(EXPOSURE, Reading(until=0), cells, 1), ())}
    after = {each.scope_key: each for each in standings(EXPOSURE, counted(EXPOSURE, Reading(until=0), more, 1), ())}
    assert all(after[key].halts for key, each in before.items() if each.halts)


@given(CELLS)
def test_a_stratum_that_was_halted_alone_does_not_speak_for_the_others(cells):
    rest = [cell for cell in cells if cell.stratum != "a"]
    for gate in (EXPOSURE, VERSUS):
        without = standings(gate, counted(gate, Reading(until=0), cells, 1), ["a"])
        assert without == standings(gate, counted(gate, Reading(until=0), rest, 1), [])
