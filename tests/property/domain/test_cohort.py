from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.cohort import (
    Enrolment,
    Member,
    assign_phases,
    interleave,
    quotas,
    stratum_key,
    stratum_of,
    stratum_values,
)
from orchestrator.domain.plan import Plan, parse_plan

untimed = settings(deadline=None)  # a busy machine is no defect

sizes = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(0, 200), min_size=1, max_size=12)
percents = st.integers(1, 9_999).map(lambda hundredths: hundredths / 100)
cohorts = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=150).map(
    lambda strata: [Member(f"dev-{number}", stratum, number) for number, stratum in enumerate(strata)]
)


def plan_of(*percent: float, holdback: float = 0.0) -> Plan:
    return parse_plan(
        {
            "release": "rel_1",
            "cohort": {"holdback_percent": holdback, "salt": "salt"},
            "phases": [
                {"name": f"p{index}", "percent": value, "soak": 0} for index, value in enumerate((*percent, 100))
            ],
            "confirm_deadline": "10m",
            "offer_ttl": "1h",
            "halt": [{"name": "failures", "scope": "campaign", "p0": 0.02, "alpha": 0.01}],
            "max_in_flight": {"initial": 10, "maximum": 100},
        }
    )


def devices(groups: dict[str, tuple[int, ...]]) -> set[int]:
    return {device_no for group in groups.values() for device_no in group}


def reached(enrolment: Enrolment, phase: int) -> set[int]:
    return set().union(*(devices(groups) for groups in enrolment.phases[: phase + 1]))


@untimed
@given(sizes=sizes, cover=st.booleans(), data=st.data())
def test_quotas_add_up_and_stay_within_the_strata(sizes, cover, data):
    total = data.draw(st.integers(0, sum(sizes.values())))
    given_out = quotas(total, sizes, cover=cover)
    assert sum(given_out.values()) == total
    assert given_out.keys() == sizes.keys()
    assert all(0 <= given_out[key] <= sizes[key] for key in sizes)


@untimed
@given(sizes=sizes, cover=st.booleans(), data=st.data())
def test_a_larger_total_never_takes_a_device_from_a_stratum(sizes, cover, data):
    total = data.draw(st.integers(0, sum(sizes.values())))
    less = data.draw(st.integers(0, total))
    before, after = quotas(less, sizes, cover=cover), quotas(total, sizes, cover=cover)
    assert all(before[key] <= after[key] for key in sizes)


@untimed
@given(sizes=sizes, data=st.data())
def test_every_stratum_is_covered_as_soon_as_there_is_one_device_for_each(sizes, data):
    present = [key for key, size in sizes.items() if size]
    total = data.draw(st.integers(0, sum(sizes.values())))
    covered = [key for key in present if quotas(total, sizes)[key]]
    assert len(covered) == min(total, len(present))


@untimed
@given(first=st.integers(0, 500), second=st.integers(0, 500), data=st.data())
def test_two_strata_get_their_exact_share_to_the_device(first, second, data):
    total = data.draw(st.integers(0, first + second))
    share = Fraction(total * first, first + second) if first + second else Fraction(0)
    assert quotas(total, {"a": first, "b": second}, cover=False)["a"] in {floor(share), ceil(share)}


@untimed
@given(sizes=sizes, data=st.data())
def test_quotas_follow_the_definition_of_highest_averages(sizes, data):
    total = data.draw(st.integers(0, sum(sizes.values())))
    due = sorted((Fraction(2 * r + 1, 2 * size), -size, key) for key, size in sizes.items() for r in range(size))
    expected = dict.fromkeys(sizes, 0)
    for _, _, key in due[:total]:
        expected[key] += 1
    assert quotas(total, sizes, cover=False) == expected


@untimed
@given(members=cohorts, low=percents, high=percents, holdback=st.integers(0, 50))
def test_raising_a_percentage_only_adds_devices(members, low, high, holdback):
    low, high = min(low, high), max(low, high)
    smaller, larger = (assign_phases(members, plan_of(percent, holdback=holdback)) for percent in (low, high))
    assert reached(smaller, 0) <= reached(larger, 0)
    assert smaller.holdback == larger.holdback


@untimed
@given(members=cohorts, percent=percents, low=st.integers(0, 50), high=st.integers(0, 50))
def test_raising_the_holdback_only_adds_devices_to_it(members, percent, low, high):
    smaller, larger = (
        assign_phases(members, plan_of(percent, holdback=holdback)) for holdback in (min(low, high), max(low, high))
    )
    assert devices(smaller.holdback) <= devices(larger.holdback)


@untimed
@given(members=cohorts, holdback=st.integers(0, 50), data=st.data())
def test_the_same_plan_gives_the_same_enrolment_in_any_input_order(members, holdback, data):
    plan = plan_of(10, 40, holdback=holdback)
    shuffled = data.draw(st.permutations(members))
    assert assign_phases(shuffled, plan) == assign_phases(members, plan)


@untimed
@given(members=cohorts, holdback=st.integers(0, 50), percent=percents)
def test_phases_and_holdback_share_out_the_cohort(members, holdback, percent):
    plan = plan_of(percent, holdback=holdback)
    enrolment = assign_phases(members, plan)
    groups = [devices(enrolment.holdback), *(devices(phase) for phase in enrolment.phases)]
    assert set().union(*groups) == {member.device_no for member in members}
    assert sum(map(len, groups)) == len(members)
    treated = len(members) - plan.holdback_count(len(members))
    assert [len(reached(enrolment, index)) for index in range(2)] == list(plan.phase_counts(treated))


@untimed
@given(members=cohorts, percent=percents)
def test_the_canary_has_every_stratum_as_far_as_it_reaches(members, percent):
    enrolment = assign_phases(members, plan_of(percent))
    canary = enrolment.phases[0]
    assert len(canary) == min(len(enrolment.strata), len(devices(canary)))


@untimed
@given(members=cohorts, late=st.integers(0, 10**6))
def test_a_device_elsewhere_does_not_reorder_a_stratum(members, late):
    joined = [*members, Member(f"late-{late}", "z", 10**7)]
    plan = plan_of()
    before, after = assign_phases(members, plan).phases[0], assign_phases(joined, plan).phases[0]
    assert {key: after[key] for key in before} == before


@untimed
@given(strata=st.dictionaries(st.text(max_size=2), st.lists(st.integers(), min_size=1, max_size=30), max_size=5))
def test_interleaving_keeps_each_order_and_spreads_each_stratum(strata):
    tagged = {key: [(key, index) for index in range(len(group))] for key, group in strata.items()}
    queue = interleave(tagged)  # type: ignore[arg-type]
    for key, group in tagged.items():
        places = [place for place, device in enumerate(queue) if device[0] == key]
        assert [queue[place] for place in places] == group
        assert places[0] <= len(queue) / len(group)


@untimed
@given(
    one=st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=12)),
    two=st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=12)),
)
def test_two_devices_share_a_stratum_only_if_their_attributes_are_equal(one, two):
    dimensions = ["attribute.a", "attribute.b"]
    assert (stratum_key(dimensions, "m", one) == stratum_key(dimensions, "m", two)) == (one == two)


@given(
    dimensions=st.lists(st.sampled_from(["hardware_model", "attribute.a", "attribute.b.c"]), unique=True),
    data=st.data(),
)
def test_a_stratum_key_gives_back_the_values_that_it_was_made_of(dimensions, data):
    values = tuple(data.draw(st.none() | st.text("-%,=2CD\x1fü", max_size=4)) for _ in dimensions)
    assert stratum_values(dimensions, stratum_of(dimensions, values)) == values
