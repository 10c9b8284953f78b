from __future__ import annotations

import pytest

from orchestrator.domain.assignment import State
from orchestrator.domain.components import INCOMPLETE, Kind, Outcome, judge, ordered, problems
from schemas.registry_events import ReleaseComponent

SHA = "a" * 64
TWO = {"modem": Kind.APP, "os": Kind.OS}
THREE = {"display": Kind.APP, "modem": Kind.APP, "os": Kind.OS}


def part(name: str, *after: str, kind: str = "app") -> ReleaseComponent:
    return ReleaseComponent(name=name, kind=kind, sha256=SHA, after=list(after))


def os(*after: str, name: str = "os") -> ReleaseComponent:
    return part(name, *after, kind="os")


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ([os(name="a"), part("b"), part("c")], ["b", "c", "a"]),
        ([part("a", "c"), part("b"), part("c")], ["b", "c", "a"]),
        ([os("modem"), part("modem", "bus"), part("bus")], ["bus", "modem", "os"]),
        ([os()], ["os"]),
    ],
)
def test_the_order_is_by_name_where_nothing_else_decides_and_the_os_is_last(given, order):
    assert problems(given) == []
    assert [each.name for each in ordered(given)] == order


@pytest.mark.parametrize(
    ("given", "pointer", "code"),
    [
        ([], "", "count"),
        ([part(f"c{i}") for i in range(17)], "", "count"),
        ([part("a"), part("a")], "/1/name", "duplicate"),
        ([part("a b")], "/0/name", "name"),
        ([part("x" * 33)], "/0/name", "name"),
        ([part("a", kind="bios")], "/0/kind", "kind"),
        ([os(), part("a"), os(name="os2")], "/2/kind", "second_os"),
        ([part("a", "b")], "/0/after/0", "unknown_dependency"),
        ([os(), part("a", "os")], "/1/after/0", "after_os"),
        ([part("a", "a")], "", "cycle"),
        ([part("a", "b"), part("b", "c"), part("c", "a"), part("d"), os()], "", "cycle"),
        ([os("os")], "", "cycle"),
    ],
)
def test_what_cannot_be_installed_together_is_refused_with_a_stable_code(given, pointer, code):
    (found,) = problems(given)
    assert (found.pointer, found.code) == (pointer, f"release.component.{code}")


def test_a_cycle_is_told_with_those_that_wait_for_it():
    (found,) = problems([part("a", "b"), part("b", "a"), part("c"), os()])
    assert found.detail == "No order is possible: a, b, os wait for each other."


IN, OK, BAD, BACK = Outcome.INSTALLED, Outcome.CONFIRMED, Outcome.FAILED, Outcome.ROLLED_BACK


@pytest.mark.parametrize(
    ("kinds", "outcomes", "state", "judged"),
    [
        # Confirmed only if every component is in.
        (TWO, {"modem": IN, "os": OK}, State.CONFIRMED, State.CONFIRMED),
        (TWO, {"modem": OK, "os": OK}, State.CONFIRMED, State.CONFIRMED),
        (TWO, {"os": OK}, State.CONFIRMED, State.TRIAL),
        (TWO, {"modem": IN}, State.CONFIRMED, None),
        ({"modem": Kind.APP, "bus": Kind.APP}, {"modem": OK}, State.CONFIRMED, None),
        # A trial is the OS's, and comes after all others.
        (TWO, {"modem": IN}, State.INSTALLED, None),
        (TWO, {"modem": IN}, State.TRIAL, None),
        (TWO, {"modem": IN, "os": IN}, State.TRIAL, State.TRIAL),
        (TWO, {"os": IN}, State.INSTALLED, State.INSTALLED),
        # What failed is told, whatever else the report says.
        (TWO, {"modem": BAD}, State.CONFIRMED, State.FAILED),
        (TWO, {"modem": BAD}, State.TRIAL, State.FAILED),
        (TWO, {"modem": BACK, "os": IN}, State.INSTALLED, State.FAILED),
        (TWO, {"modem": BACK}, None, State.FAILED),
        (TWO, {"modem": IN, "os": BAD}, State.FAILED, State.FAILED),
        (TWO, {"modem": IN, "os": BACK}, State.FAILED, State.REVERTED),
        (TWO, {"modem": BACK}, State.REVERTED, State.REVERTED),
        # What says nothing of the outcome stays what it is.
        (TWO, {"modem": IN}, State.DOWNLOADING, State.DOWNLOADING),
        (TWO, {"modem": IN}, State.FAILED, State.FAILED),
        (TWO, {"modem": IN}, State.REJECTED, State.REJECTED),
        (TWO, {"modem": IN}, None, None),
    ],
)
def test_what_a_report_with_components_says_of_the_assignment(kinds, outcomes, state, judged):
    assert judge(kinds, outcomes, state, None, None).state is judged


def test_a_failure_keeps_its_class_and_names_the_component_that_came_first():
    outcomes = {"display": IN, "modem": BAD, "os": BAD}
    judged = judge(THREE, outcomes, State.FAILED, "integrity", "digest_mismatch")
    assert (judged.failure_class, judged.reason) == ("integrity", "component.modem")


@pytest.mark.parametrize(("outcome", "blame"), [(BAD, "install"), (BACK, "health")])
def test_a_failure_without_a_class_blames_the_release(outcome, blame):
    assert judge(TWO, {"modem": outcome}, None, None, None).failure_class == blame


def test_a_report_that_says_too_much_is_kept_with_the_reason():
    assert judge(TWO, {"os": OK}, State.CONFIRMED, None, "done").reason == INCOMPLETE
