from __future__ import annotations

from hashlib import sha256

import pytest

from orchestrator.domain.cohort import Member, allot, assign_phases, interleave, quotas, stratum_key, unit_hash
from orchestrator.domain.plan import Plan, parse_plan


def plan_of(*phases: dict[str, object], holdback: float = 0, salt: str = "salt") -> Plan:
    return parse_plan(
        {
            "release": "rel_1",
            "cohort": {"holdback_percent": holdback, "salt": salt},
            "phases": [{"name": f"p{index}", "soak": "0s", **phase} for index, phase in enumerate(phases)],
            "confirm_deadline": "10m",
            "offer_ttl": "1h",
            "halt": [{"name": "failures", "scope": "campaign", "p0": 0.02, "alpha": 0.01}],
            "max_in_flight": {"initial": 10, "maximum": 100},
        }
    )


def members_of(strata: dict[str, int]) -> list[Member]:
    keys = [key for key, size in strata.items() for _ in range(size)]
    return [Member(f"dev-{number}", key, number) for number, key in enumerate(keys)]


def test_the_hash_is_the_documented_one():
    assert unit_hash("s", "dev-1") == int(sha256(b"s\x00dev-1").hexdigest()[:16], 16)
    assert unit_hash("s", "dev-1") != unit_hash("t", "dev-1")


def test_a_stratum_is_named_by_its_attributes():
    key = stratum_key(["hardware_model", "attribute.hw_revision"], "sensor-a", {"hw_revision": "B"})
    assert key == "hardware_model=sensor-a,attribute.hw_revision=B"


def test_a_missing_attribute_is_a_stratum_of_its_own():
    assert stratum_key(["attribute.site"], "sensor-a", {}) == "attribute.site=-"
    assert stratum_key(["attribute.site"], "sensor-a", {"site": "-"}) == "attribute.site=%2D"


def test_values_cannot_forge_another_stratum():
    assert stratum_key(["attribute.a", "attribute.b"], "m", {"a": "x,attribute.b=y\n"}) == (
        "attribute.a=x%2Cattribute.b%3Dy%0A,attribute.b=-"
    )


def test_a_plan_that_does_not_stratify_has_one_stratum():
    assert stratum_key([], "sensor-a", {"site": "x"}) == "all"


def test_quotas_are_proportional():
    assert quotas(60, {"a": 700, "b": 300}) == {"a": 42, "b": 18}
    assert quotas(10, {"a": 500, "b": 300, "c": 200}, cover=False) == {"a": 5, "b": 3, "c": 2}


def test_every_stratum_gets_one_device_before_any_gets_two():
    assert quotas(5, {"big": 10_000, "tiny": 1, "small": 3, "empty": 0}) == {
        "big": 3,
        "tiny": 1,
        "small": 1,
        "empty": 0,
    }


def test_the_largest_strata_come_first_when_there_is_not_one_for_each():
    assert quotas(2, {"c": 5, "a": 5, "b": 9}) == {"a": 1, "b": 1, "c": 0}
    assert quotas(0, {"c": 5}) == {"c": 0}


def test_without_cover_tiny_strata_are_left_alone():
    assert quotas(5, {"big": 500, "tiny": 1}, cover=False) == {"big": 5, "tiny": 0}


def test_a_larger_total_never_takes_a_device_from_a_stratum_where_largest_remainder_would():
    sizes = {"a": 6, "b": 6, "c": 2}  # the textbook Alabama paradox: c has 2 of 10 and 1 of 11 by largest remainder
    assert quotas(10, sizes, cover=False)["c"] <= quotas(11, sizes, cover=False)["c"]


def test_quotas_can_take_everybody_and_no_more():
    assert quotas(8, {"a": 5, "b": 3}) == {"a": 5, "b": 3}
    assert quotas(0, {}) == {}
    with pytest.raises(ValueError):
        quotas(9, {"a": 5, "b": 3})
    with pytest.raises(ValueError):
        quotas(-1, {"a": 5})


def test_an_allotment_adds_up_to_the_cohort():
    plan = plan_of({"percent": 2, "min_count": 60}, {"percent": 20}, {"percent": 100}, holdback=1)
    allotment = allot({"a": 1_400, "b": 600}, plan)
    assert allotment.holdback == {"a": 14, "b": 6}
    assert allotment.phases == ({"a": 42, "b": 18}, {"a": 235, "b": 101}, {"a": 1_109, "b": 475})


def test_a_stratum_of_one_device_is_tried_and_not_held_back():
    allotment = allot({"big": 500, "tiny": 1}, plan_of({"percent": 2}, {"percent": 100}, holdback=2))
    assert allotment.holdback == {"big": 10, "tiny": 0}
    assert allotment.phases[0] == {"big": 9, "tiny": 1}


def test_every_member_is_in_exactly_one_place():
    plan = plan_of({"percent": 10}, {"count": 30}, {"percent": 100}, holdback=5)
    members = members_of({"a": 60, "b": 39, "c": 1})
    enrolment = assign_phases(members, plan)
    placed = [
        device_no
        for group in (enrolment.holdback, *enrolment.phases)
        for device_nos in group.values()
        for device_no in device_nos
    ]
    assert sorted(placed) == list(range(100))
    assert enrolment.strata == {"a": 60, "b": 39, "c": 1}
    assert [sum(map(len, phase.values())) for phase in enrolment.phases] == [10, 20, 65]
    assert sum(map(len, enrolment.holdback.values())) == 5


def test_phases_take_from_the_front_of_the_order_and_the_holdback_from_its_end():
    plan = plan_of({"percent": 50}, {"percent": 100}, holdback=20)
    enrolment = assign_phases(members_of({"a": 10}), plan)
    order = sorted(range(10), key=lambda number: unit_hash("salt", f"dev-{number}"))
    assert enrolment.phases[0]["a"] == tuple(order[:4])
    assert enrolment.phases[1]["a"] == tuple(order[4:8])
    assert enrolment.holdback["a"] == tuple(order[8:])


def test_another_salt_chooses_other_canaries():
    members = members_of({"a": 1_000})
    first, second = (
        set(assign_phases(members, plan_of({"percent": 10}, {"percent": 100}, salt=salt)).phases[0]["a"])
        for salt in ("one", "two")
    )
    assert len(first & second) < 40  # 10 are expected by chance


def test_a_plan_without_a_salt_is_salted_by_its_release():
    plan = plan_of({"percent": 100})
    unsalted = plan.model_copy(update={"cohort": plan.cohort.model_copy(update={"salt": None})})
    assert unsalted.salt == "rel_1"


def test_nobody_is_enrolled_in_an_empty_cohort():
    enrolment = assign_phases([], plan_of({"percent": 100}, holdback=10))
    assert enrolment.strata == {}
    assert enrolment.phases == ({},)


def test_strata_are_interleaved_so_that_each_shows_early():
    assert interleave({"b": [7, 8], "a": [1, 2, 3, 4]}) == [1, 7, 2, 3, 8, 4]
    assert interleave({}) == []


def test_the_offer_order_holds_every_device_of_the_phase_once():
    enrolment = assign_phases(members_of({"a": 60, "b": 39, "c": 1}), plan_of({"percent": 40}, {"percent": 100}))
    expected = sorted(device_no for group in enrolment.phases[0].values() for device_no in group)
    assert sorted(enrolment.offer_order(0)) == expected
