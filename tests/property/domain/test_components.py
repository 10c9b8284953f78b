from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.assignment import RANK, Observation, Offer, State, offered
from orchestrator.domain.assignment import observe as fold
from orchestrator.domain.components import (
    IN,
    MAX_COMPONENTS,
    ComponentState,
    Kind,
    Outcome,
    judge,
    module_id,
    observe,
    ordered,
    problems,
)
from schemas.registry_events import ReleaseComponent

NAMES = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=MAX_COMPONENTS, unique=True)


@st.composite
def components(draw: st.DrawFn, *, sound: bool) -> list[ReleaseComponent]:
    """With dependencies on earlier ones only if ``sound``, and on any one else."""
    names = draw(NAMES)
    os = draw(st.sampled_from([None, len(names) - 1] if sound else [None, *range(len(names))]))
    made = []
    for at, name in enumerate(names):
        others = names[:at] if sound else names
        after = draw(st.lists(st.sampled_from(others), max_size=3, unique=True)) if others else []
        made.append(ReleaseComponent(name=name, kind="os" if at == os else "app", sha256="a" * 64, after=after))
    return draw(st.permutations(made))


@given(components(sound=True))
def test_every_dependency_is_in_before_what_needs_it_and_the_os_is_last(given_components):
    assert problems(given_components) == []
    order = ordered(given_components)
    assert sorted(each.name for each in order) == sorted(each.name for each in given_components)
    place = {each.name: at for at, each in enumerate(order)}
    assert all(place[wanted] < place[each.name] for each in order for wanted in each.after)
    assert all(each.kind != Kind.OS for each in order[:-1])


@given(components(sound=True), st.randoms())
def test_the_order_does_not_depend_on_how_the_components_were_listed(given_components, dice: random.Random):
    listed = list(given_components)
    dice.shuffle(listed)
    assert ordered(listed) == ordered(given_components)


@given(components(sound=False))
def test_components_are_refused_exactly_if_there_is_no_order_for_them(given_components):
    needs = {each.name: set(each.after) for each in given_components}
    os = {each.name for each in given_components if each.kind == Kind.OS}
    for name in os:
        needs[name] |= needs.keys() - os  # the OS is last
    reached: set[str] = set()
    while new := {name for name, wanted in needs.items() if wanted <= reached} - reached:
        reached |= new
    assert (problems(given_components) == []) == (reached == needs.keys())


@given(st.lists(st.integers(1_000_001, 2**31 - 1), min_size=1, max_size=50))
def test_module_ids_are_int32_and_neither_another_module_nor_an_early_action(actions):
    near = {1_000_001 + (action - 1_000_001) % 2**26 for action in actions}
    ids = [module_id(action, index) for action in near for index in range(MAX_COMPONENTS)]
    assert len(set(ids)) == len(ids)
    assert all(2**30 <= number < 2**31 for number in ids)


STATEMENTS = st.builds(
    ComponentState,
    device_no=st.just(1),
    campaign_no=st.just(1),
    name=st.just("modem"),
    attempt=st.integers(1, 3),
    outcome=st.sampled_from(Outcome),
    changed_at=st.integers(1, 4),
    failure_class=st.sampled_from([None, "health", "install"]),
)


@given(st.lists(STATEMENTS, min_size=1, max_size=8), st.randoms())
def test_any_order_with_any_repetition_gives_the_same_state_of_a_component(said, dice: random.Random):
    def folded(statements: list[ComponentState]) -> ComponentState | None:
        row = None
        for each in statements:
            row = observe(row, each)
        return row

    again = said + dice.choices(said, k=5)
    dice.shuffle(again)
    assert folded(again) == folded(said)
    # Also where a part of them was joined before, as in a batch.
    assert observe(folded(again[:3]), folded(again[3:])) == folded(said)  # pyright: ignore[reportArgumentType]


KINDS = {"bus": Kind.APP, "modem": Kind.APP, "os": Kind.OS}
REPORTS = st.tuples(
    st.dictionaries(st.sampled_from(sorted(KINDS)), st.sampled_from(Outcome), min_size=1),
    st.sampled_from([None, *(state for state in RANK if state is not State.EXPIRED)]),
)


@given(st.lists(REPORTS, min_size=1, max_size=6), st.randoms())
def test_a_device_is_confirmed_only_by_a_report_with_all_components_in_and_never_if_one_failed(said, dice):
    """Whatever the order and the repetition of the reports."""
    row = offered(1, 1, 0, 0, Offer(attempt=1, action_id=7, gate_epoch=1, at=0))
    folded = []
    for order in (said, [*dice.sample(said, len(said)), *said]):
        found = row
        for outcomes, state in order:
            judged = judge(KINDS, outcomes, state, None, None)
            if judged.state is not None:
                at = 10 + said.index((outcomes, state))
                seen = Observation(
                    attempt=1, state=judged.state, at=at, failure_class=judged.failure_class, reason=judged.reason
                )
                found = fold(found, seen)
        folded.append(found)
    assert folded[0] == folded[1]
    final = folded[0]
    failed = any(outcome not in IN for outcomes, _ in said for outcome in outcomes.values())
    if failed:
        assert final.state in {State.FAILED, State.REVERTED}
        assert final.failed_at is not None
    if final.state is State.CONFIRMED:
        assert any(state is State.CONFIRMED and outcomes.keys() == KINDS.keys() for outcomes, state in said)
    if final.progress in {State.INSTALLED, State.TRIAL}:
        assert any("os" in outcomes for outcomes, _ in said), "in trial before the OS was in"
