from __future__ import annotations

from itertools import accumulate
from math import log

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.boundary import crosses
from orchestrator.domain.gate import RuleCount, evaluate_strata
from orchestrator.domain.halt_rule import EProcessRule, halt_table, threshold_horizons
from orchestrator.domain.plan_fields import exact
from orchestrator.domain.sequential import log_e_harm

KEYS = "abcde"
ALPHA, P0 = 0.05, 0.02
RULE = EProcessRule(name="revision", scope="stratum", p0=P0, alpha=ALPHA, min_failures=1, halts="stratum")
TABLES = {m: halt_table(RULE, 1, dict.fromkeys(KEYS[:m], 400)) for m in range(1, len(KEYS) + 1)}

cells = st.integers(0, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, min(n, 40))))


def halted(cells: list[tuple[int, int]]) -> set[str]:
    table = TABLES[len(cells)]
    counts = [RuleCount(table, f"stratum/{key}", n, f) for key, (n, f) in zip(KEYS, cells, strict=False)]
    return {verdict.scope_key for verdict in evaluate_strata(counts)}


@given(st.lists(cells, min_size=1, max_size=len(KEYS)))
def test_the_strata_that_halt_are_those_of_e_bh(cells):
    evidence = sorted((log_e_harm(f, n, P0) if n else 0.0, key) for key, (n, f) in zip(KEYS, cells, strict=False))
    evidence.reverse()
    m = len(cells)
    enough = [k for k in range(1, m + 1) if evidence[k - 1][0] >= log(m / (ALPHA * k))]
    expected = {f"stratum/{key}" for _, key in evidence[: max(enough, default=0)]}
    assert halted(cells) == expected


@given(st.lists(cells, min_size=1, max_size=len(KEYS)), st.data())
def test_a_further_failure_never_spares_a_stratum(cells, data):
    at = data.draw(st.integers(0, len(cells) - 1))
    n, f = cells[at]
    worse = [*cells[:at], (max(n, f + 1), f + 1), *cells[at + 1 :]]
    if n == worse[at][0]:
        assert halted(cells) <= halted(worse)


@given(st.lists(st.booleans(), min_size=1, max_size=120), st.floats(0.02, 0.6), st.integers(1, 60))
def test_a_threshold_halts_a_release_if_and_only_if_its_share_was_ever_reached(outcome, share, after):
    share = round(share, 3)
    horizons = threshold_horizons(share, after, max(after, len(outcome)))
    counts = list(enumerate(accumulate(outcome), 1))
    ever = any(crosses(horizons, n, f) for n, f in counts)
    # Heard of before the minimum, the same failures are still there at the minimum, however the devices between them fared.
    later = [(max(n, after), f) for n, f in counts]
    assert ever == any(f >= exact(share) * n and f <= n for n, f in later)
