from __future__ import annotations

from functools import lru_cache
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.blast import blast_bound
from orchestrator.domain.boundary import crosses, halt_horizons

untimed = settings(deadline=None)  # a busy machine is no defect

FLEET = 400


@lru_cache
def horizons(minimum: int) -> tuple[int, ...]:
    return halt_horizons(0.02, 0.01, minimum, FLEET)


@untimed
@given(
    minimum=st.integers(1, 12),
    cap=st.integers(1, 80),
    percent=st.integers(0, 100),
    failures_last=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_no_order_or_delay_of_reports_exceeds_the_bound(minimum, cap, percent, failures_last, seed):
    """Offers go out whenever there is room; reports come in any order; offers stop at the report that crosses."""
    random = Random(seed)
    in_flight: list[bool] = []
    started = known = 0
    while not crosses(horizons(minimum), started, known):
        room = min(cap - len(in_flight), FLEET - started)
        offered = random.randint(0, room)
        in_flight += [random.randrange(100) < percent for _ in range(offered)]
        started += offered
        if not in_flight and started == FLEET:
            break
        if in_flight and (room == 0 or random.random() < 0.7):
            # The worst case for the gate: good devices confirm and make room, bad ones keep silent for as long as they can.
            index = in_flight.index(False) if failures_last and False in in_flight else random.randrange(len(in_flight))
            known += in_flight.pop(index)
    assert known + sum(in_flight) <= blast_bound(horizons(minimum), minimum, started, cap)


@untimed
@given(minimum=st.integers(1, 12), n=st.integers(1, FLEET - 1), cap=st.integers(1, 80))
def test_the_bound_grows_with_devices_and_with_the_cap(minimum, n, cap):
    bound = blast_bound(horizons(minimum), minimum, n, cap)
    assert bound <= blast_bound(horizons(minimum), minimum, n + 1, cap)
    assert bound <= blast_bound(horizons(minimum), minimum, n, cap + 1)
