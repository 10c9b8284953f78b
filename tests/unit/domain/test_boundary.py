from __future__ import annotations

from math import log

import pytest

from orchestrator.domain.boundary import BoundaryExceededError, crosses, f_star, halt_horizons
from orchestrator.domain.sequential import log_e_harm, log_e_safe

# A changed cell is a changed promise: it needs an architecture decision record, not a new number here.
DEVICES = (5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 10_000)
FEWEST_THAT_HALT = {
    (0.01, 0.01): (2, 3, 4, 5, 7, 11, 17, 26, 83, 147),
    (0.02, 0.01): (3, 4, 5, 7, 10, 16, 25, 41, 145, 264),
    (0.05, 0.01): (3, 5, 7, 10, 15, 28, 47, 81, 318, 597),
    (0.02, 0.001): (3, 4, 6, 8, 11, 18, 28, 44, 151, 272),
}
MATURED = (50, 100, 250, 500, 1_000, 5_000)
MOST_THAT_PROMOTE = {
    0.02: (-1, -1, 0, 2, 8, 70),
    0.05: (-1, 0, 4, 11, 30, 200),
    0.10: (0, 2, 12, 30, 71, 428),
}


@pytest.mark.parametrize(("rates", "row"), FEWEST_THAT_HALT.items())
def test_the_fewest_failures_that_halt_are_the_published_ones(rates, row):
    horizons = halt_horizons(*rates, 1, 10_000)
    assert tuple(f_star(horizons, n) for n in DEVICES) == row


@pytest.mark.parametrize(("p1", "row"), MOST_THAT_PROMOTE.items())
def test_the_most_failures_that_promote_are_the_published_ones(p1, row):
    for n, most in zip(MATURED, row, strict=True):
        if most >= 0:
            assert log_e_safe(most, n, p1) >= log(20)
        assert log_e_safe(most + 1, n, p1) < log(20)


def test_horizons_are_the_published_ones():
    horizons = halt_horizons(0.02, 0.01, 3, 10_000)
    assert (horizons[3], horizons[10], horizons[100]) == (9, 117, 3_205)


def test_the_table_of_a_large_fleet_ends_where_a_million_devices_do():
    horizons = halt_horizons(0.02, 0.01, 3, 1_000_000)
    assert f_star(horizons, 1_000_000) == 20_680
    assert len(horizons) == 20_681
    assert horizons[-1] == 1_000_000


@pytest.mark.parametrize(("p0", "alpha"), [(0.01, 0.01), (0.02, 0.001), (0.3, 0.05), (0.9, 0.01)])
def test_the_table_agrees_with_direct_evaluation_everywhere(p0, alpha):
    horizons = halt_horizons(p0, alpha, 1, 300)
    for n in range(1, 301):
        direct = next((f for f in range(1, n + 1) if log_e_harm(f, n, p0) >= -log(alpha)), None)
        assert f_star(horizons, n) == direct


def test_fewer_failures_than_the_guard_never_halt():
    unguarded, guarded = halt_horizons(0.01, 0.01, 1, 500), halt_horizons(0.01, 0.01, 6, 500)
    assert guarded[:6] == (0,) * 6
    assert guarded[6:] == unguarded[6:]
    assert f_star(guarded, 5) is None
    assert f_star(guarded, 6) == 6


def test_so_few_devices_can_never_halt():
    horizons = halt_horizons(0.02, 0.01, 3, 2)
    assert horizons == (0, 0, 0)
    assert f_star(horizons, 2) is None
    assert not crosses(horizons, 2, 2)
    assert halt_horizons(0.02, 0.01, 3, 0) == (0,)


def test_nothing_crosses_before_a_device_has_started():
    horizons = halt_horizons(0.02, 0.01, 3, 100)
    assert f_star(horizons, 0) is None
    assert not crosses(horizons, 0, 0)


def test_crossing_is_reaching_the_fewest_failures():
    horizons = halt_horizons(0.02, 0.01, 3, 1_000)
    assert not crosses(horizons, 100, 9)
    assert crosses(horizons, 100, 10)
    assert crosses(horizons, 1_000, 1_000)


def test_more_devices_than_the_table_was_made_for_are_an_error_and_not_a_pass():
    horizons = halt_horizons(0.02, 0.01, 3, 100)
    with pytest.raises(BoundaryExceededError) as caught:
        crosses(horizons, 101, 50)
    assert caught.value.code == "gate.boundary.exceeded"
