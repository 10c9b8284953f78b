"""Phases that take devices by name, beside those that take them by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.domain.cohort import Enrolment, Member, assign_phases, others_of
from orchestrator.domain.dossier import freeze
from orchestrator.domain.plan import Plan, parse_plan
from orchestrator.domain.selection import Target, is_current, select

untimed = settings(deadline=None)  # a busy machine is no defect

TARGET = Target(version="2", artifacts={"m": "aa"})
GROUPS = {"lab": "attribute.site==lab", "early": "attribute.ring==early"}


class Device:
    hardware_model = "m"

    def __init__(self, number: int, attributes: dict[str, str]) -> None:
        self.device_no, self.device_id, self.attributes = number, f"dev-{number}", attributes
        self.version: str | None = None
        self.digest: str | None = None
        self.outdated = False


attributes = st.fixed_dictionaries(
    {"hw": st.sampled_from("abc")},
    optional={"site": st.sampled_from(["lab", "field"]), "ring": st.sampled_from(["early", "late"])},
)
fleets = st.lists(attributes, max_size=120).map(lambda all_: [Device(number, each) for number, each in enumerate(all_)])
naming = st.sampled_from([{"group": "lab"}, {"group": "early"}, {"devices": [f"dev-{n}" for n in range(0, 90, 7)]}])
numbers = st.lists(st.integers(1, 99), unique=True, max_size=3).map(sorted)


@st.composite
def phase_lists(draw) -> list[dict[str, Any]]:
    """Named phases at any place among rising percentages and counts."""
    sizes = [draw(st.sampled_from([{"percent": float(number)}, {"count": number}])) for number in draw(numbers)]
    for named in draw(st.lists(naming, max_size=3)):
        sizes.insert(draw(st.integers(0, len(sizes))), named)
    return sizes


def plan_of(sizes: Sequence[dict[str, Any]], holdback: float = 0.0) -> Plan:
    return parse_plan(
        {
            "release": "rel_1",
            "cohort": {
                "groups": GROUPS,
                "stratify_by": ["attribute.hw"],
                "holdback_percent": holdback,
                "salt": "salt",
            },
            "phases": [
                {"name": f"p{index}", "soak": 0, **size} for index, size in enumerate([*sizes, {"percent": 100.0}])
            ],
            "confirm_deadline": "10m",
            "offer_ttl": "1h",
            "halt": [{"name": "failures", "scope": "campaign", "p0": 0.02, "alpha": 0.01}],
            "max_in_flight": {"initial": 10, "maximum": 100},
        }
    )


def enrol(fleet: Sequence[Device], plan: Plan) -> Enrolment:
    return assign_phases(select(plan, fleet, TARGET), plan)


def reached(enrolment: Enrolment, phase: int) -> set[int]:
    return {no for groups in enrolment.phases[: phase + 1] for numbers in groups.values() for no in numbers}


def names(size: dict[str, Any], device: Device) -> bool:
    group = {"lab": ("site", "lab"), "early": ("ring", "early")}.get(size.get("group", ""))
    return device.device_id in size.get("devices", ()) or (
        group is not None and device.attributes.get(group[0]) == group[1]
    )


@untimed
@given(fleet=fleets, sizes=phase_lists(), holdback=st.integers(0, 50))
def test_every_member_is_in_one_phase_or_held_back(fleet, sizes, holdback):
    enrolment = enrol(fleet, plan_of(sizes, holdback))
    groups = [*enrolment.phases, enrolment.holdback]
    placed = [no for group in groups for numbers in group.values() for no in numbers]
    assert sorted(placed) == [device.device_no for device in fleet]


@untimed
@given(fleet=fleets, sizes=phase_lists(), holdback=st.integers(0, 50))
def test_the_first_phase_that_names_a_device_takes_it_and_nothing_holds_it_back(fleet, sizes, holdback):
    enrolment = enrol(fleet, plan_of(sizes, holdback))
    for device in fleet:
        first = next((index for index, size in enumerate(sizes) if names(size, device)), None)
        taken = {
            index
            for index, groups in enumerate(enrolment.phases)
            if any(device.device_no in numbers for numbers in groups.values())
        }
        if first is not None:
            assert taken == {first}
        else:
            assert all(
                "percent" in size or "count" in size for size in (([*sizes, {"percent": 100}])[i] for i in taken)
            )


@untimed
@given(fleet=fleets, sizes=phase_lists(), holdback=st.integers(0, 50), more=st.integers(1, 30), data=st.data())
def test_raising_a_percentage_moves_nobody_out(fleet, sizes, holdback, more, data):
    places = [index for index, size in enumerate(sizes) if "percent" in size]
    assume(places)
    where = data.draw(st.sampled_from(places))
    raised = [dict(size) for size in sizes]
    for index in places:
        if index >= where:
            raised[index]["percent"] = min(99.9, raised[index]["percent"] + more)
    assume(len({size["percent"] for size in raised if "percent" in size}) == len(places))
    before, after = enrol(fleet, plan_of(sizes, holdback)), enrol(fleet, plan_of(raised, holdback))
    assert before.holdback == after.holdback
    for index in range(len(sizes) + 1):
        assert reached(before, index) <= reached(after, index)


@untimed
@given(fleet=fleets, sizes=phase_lists(), holdback=st.integers(0, 50), data=st.data())
def test_the_order_of_the_input_does_not_matter(fleet, sizes, holdback, data):
    plan = plan_of(sizes, holdback)
    assert enrol(data.draw(st.permutations(fleet)), plan) == enrol(fleet, plan)


@untimed
@given(fleet=fleets, sizes=phase_lists(), holdback=st.integers(0, 50))
def test_a_phase_by_number_counts_what_was_reached_by_name(fleet, sizes, holdback):
    plan = plan_of(sizes, holdback)
    enrolment = enrol(fleet, plan)
    treated = len(fleet) - sum(map(len, enrolment.holdback.values()))
    later = 0
    for index in reversed(range(len(sizes) + 1)):
        phase = plan.phases[index]
        count = len(reached(enrolment, index))
        if not phase.names:
            assert count >= min(phase.reached(treated), treated - later)
        later += sum(map(len, enrolment.phases[index].values())) if phase.names else 0


@untimed
@given(fleet=fleets, sizes=phase_lists(), holdback=st.integers(0, 50))
def test_a_dossier_has_the_numbers_that_are_enrolled(fleet, sizes, holdback):
    assume(fleet)
    plan = plan_of(sizes, holdback)
    strata: dict[str, int] = {}
    named: dict[int, dict[str, int]] = {}
    for member in select(plan, fleet, TARGET):
        strata[member.stratum] = strata.get(member.stratum, 0) + 1
        if member.named is not None:
            part = named.setdefault(member.named, {})
            part[member.stratum] = part.get(member.stratum, 0) + 1
    dossier, enrolment = freeze(plan, strata_sizes=strata, named=named, release_digest="d"), enrol(fleet, plan)
    for share, groups in zip(dossier.phases, enrolment.phases, strict=True):
        assert {key: n for key, n in share.strata.items() if n} == {key: len(found) for key, found in groups.items()}
    assert {key: n for key, n in dossier.holdback.items() if n} == {
        key: len(found) for key, found in enrolment.holdback.items()
    }
    assert all(n >= 0 for n in others_of(strata, named).values())


@given(version=st.sampled_from([None, "1", "2"]), digest=st.sampled_from([None, "aa", "bb"]))
def test_a_device_is_current_if_all_that_it_reported_says_so(version, digest):
    device = Device(1, {})
    device.version, device.digest = version, digest
    assert is_current(device, TARGET) == ((version, digest) in {("2", None), (None, "aa"), ("2", "aa")})
    assert len(list(select(plan_of([]), [device], TARGET))) == (not is_current(device, TARGET))


def test_a_member_names_its_phase():
    device = Device(1, {"hw": "a", "site": "lab", "ring": "early"})
    plan = plan_of([{"group": "early"}, {"group": "lab"}])
    assert list(select(plan, [device], TARGET)) == [Member("dev-1", "attribute.hw=a", 1, 0)]
