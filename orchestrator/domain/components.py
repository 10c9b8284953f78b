"""Components: the parts of one device that a release updates together, the OS last and once.

Invariants
- The order is a function of the set of components: each after all that it names, of those that could come next the first by name, and
  the OS after everything else. Whoever installs in this order reboots once.
- A report that names components is judged by itself, and failures win: the fold of an assignment stays a join, so no order of reports
  and no repetition makes a device confirmed whose modem failed.
- What is known of a component is a join too (:func:`observe`): the latest attempt's highest outcome and its earliest record.

Not here: who installs and rolls back. That is the device's part; these are the rules for what it is shown and for what it says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from orchestrator.domain.assignment import FailureClass, State
from schemas.registry_events import ReleaseComponent

MAX_COMPONENTS: Final = 16
"""Components of one device in a release: module ids have four bits for them."""

MAX_NAME_CHARS: Final = 32
"""Longest name of a component: it is a part of failure reasons, which have 64."""

INCOMPLETE: Final = "component.incomplete"
"""Reason of a report that says more of the device than its components bear out."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", re.ASCII)
_MODULES: Final = 1 << 30


class Kind(StrEnum):
    """What a component is to the device."""

    APP = "app"
    """Installed beside the running system; it has a way back of its own."""
    OS = "os"
    """The system image: it is tried by a reboot, and confirms or reverts as a whole."""


class Outcome(StrEnum):
    """What became of a component, in order of rank."""

    INSTALLED = "installed"
    CONFIRMED = "confirmed"
    """Installed, and made permanent after its self-test."""
    FAILED = "failed"
    """It was never in."""
    ROLLED_BACK = "rolled_back"
    """It was in, and the device went back to what this component was before; the others stayed."""


IN: Final = frozenset({Outcome.INSTALLED, Outcome.CONFIRMED})
"""Outcomes after which a component is in."""

OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}

_RANK: Final = {outcome: rank for rank, outcome in enumerate(Outcome)}
_BLAME: Final = {Outcome.FAILED: FailureClass.INSTALL, Outcome.ROLLED_BACK: FailureClass.HEALTH}
"""Class of a failure that the device gave none."""


# --------------------------------------------------------------------------- what a release holds


class Problem(Struct, frozen=True):
    """Why components cannot be released together. ``pointer`` is relative to their list."""

    pointer: str
    code: str
    detail: str


def problems(components: Sequence[ReleaseComponent]) -> list[Problem]:
    """What keeps these from being one device's components; empty if :func:`ordered` has an order for them."""
    if not 0 < len(components) <= MAX_COMPONENTS:
        detail = f"There are {len(components)} components; a device has 1 to {MAX_COMPONENTS}."
        return [Problem("", "release.component.count", detail)]
    found: list[Problem] = []
    kinds: dict[str, str] = {}
    for at, each in enumerate(components):
        name = each.name[:MAX_NAME_CHARS]
        if not _NAME.fullmatch(each.name):
            detail = f"{name!r} is not a name of a component: 1 to {MAX_NAME_CHARS} of letters, digits and . _ -."
            found.append(Problem(f"/{at}/name", "release.component.name", detail))
        elif each.name in kinds:
            found.append(Problem(f"/{at}/name", "release.component.duplicate", f"'{name}' is there twice."))
        if each.kind not in {kind.value for kind in Kind}:
            detail = f"kind is {each.kind[:MAX_NAME_CHARS]!r}; it is {' or '.join(Kind)}."
            found.append(Problem(f"/{at}/kind", "release.component.kind", detail))
        elif each.kind == Kind.OS and Kind.OS in kinds.values():
            detail = f"'{name}' is a second OS image; a device has one."
            found.append(Problem(f"/{at}/kind", "release.component.second_os", detail))
        kinds.setdefault(each.name, each.kind)
    for at, each in enumerate(components):
        for number, wanted in enumerate(each.after):
            pointer = f"/{at}/after/{number}"
            if wanted not in kinds:
                detail = f"'{each.name[:MAX_NAME_CHARS]}' comes after {wanted[:MAX_NAME_CHARS]!r}, which is not there."
                found.append(Problem(pointer, "release.component.unknown_dependency", detail))
            elif kinds[wanted] == Kind.OS and each.kind != Kind.OS:
                detail = f"'{each.name[:MAX_NAME_CHARS]}' comes after '{wanted}', but an OS image is installed last."
                found.append(Problem(pointer, "release.component.after_os", detail))
    if not found and len(ordered(components)) < len(components):
        placed = {each.name for each in ordered(components)}
        names = ", ".join(sorted(each.name for each in components if each.name not in placed))
        detail = f"No order is possible: {names} wait for each other."
        found.append(Problem("", "release.component.cycle", detail))
    return found


def ordered(components: Sequence[ReleaseComponent]) -> list[ReleaseComponent]:
    """The order of installation. Of components with a cycle, those that do not wait for it."""
    waiting = sorted(components, key=lambda each: (each.kind == Kind.OS, each.name))
    placed: dict[str, ReleaseComponent] = {}
    while True:
        ready = next((each for each in waiting if placed.keys() >= set(each.after)), None)
        # An OS image is last in ``waiting``: if it is the first that could come, whatever is left before it waits for ever.
        if ready is None or (ready.kind == Kind.OS and len(waiting) > 1):
            return list(placed.values())
        waiting.remove(ready)
        placed[ready.name] = ready


def module_id(action_id: int, index: int) -> int:
    """Id under which a device asks for the artifact of one of several components: int32, and never an action id below 2^30.

    ``index`` counts the components in their order. Two modules of two actions are the same only if 2^26 actions lie between them.
    """
    return _MODULES | (action_id * MAX_COMPONENTS + index) % _MODULES


# --------------------------------------------------------------------------- what a device says


class Judged(Struct, frozen=True):
    """What a report says of the assignment once its components are looked at; ``state`` is None for none."""

    state: State | None
    failure_class: str | None
    reason: str | None


def judge(
    components: Mapping[str, Kind],
    outcomes: Mapping[str, Outcome],
    state: State | None,
    failure_class: str | None,
    reason: str | None,
) -> Judged:
    """Judge a report of ``state`` that names outcomes of some of the release's ``components``.

    A component that failed makes the assignment failed, under the class that the device gave; an OS that went back, reverted. The
    assignment confirms only in a report that names every component as in. It is in trial only once the OS is in, which comes last.
    """
    bad = sorted(name for name, outcome in outcomes.items() if outcome not in IN)
    if bad:
        first = next((name for name in bad if components[name] is not Kind.OS), bad[0])
        went_back = any(components[name] is Kind.OS and outcomes[name] is Outcome.ROLLED_BACK for name in bad)
        worst = State.REVERTED if went_back or state is State.REVERTED else State.FAILED
        return Judged(worst, failure_class or _BLAME[outcomes[first]].value, f"component.{first}")
    complete = outcomes.keys() >= components.keys()
    if state in {State.CONFIRMED, State.INSTALLED, State.TRIAL} and not complete:
        os_in = any(components[name] is Kind.OS for name in outcomes)
        if not os_in:
            return Judged(None, None, INCOMPLETE)
        if state is State.CONFIRMED:
            return Judged(State.TRIAL, None, INCOMPLETE)
    return Judged(state, failure_class, reason)


class ComponentState(Struct, frozen=True, kw_only=True, array_like=True):
    """What is known of one component of a device in one campaign. Times are milliseconds since the epoch, from records."""

    device_no: int
    campaign_no: int
    name: str
    attempt: int
    outcome: Outcome
    changed_at: int
    """When the outcome was first recorded."""
    failure_class: str | None = None


def observe(row: ComponentState | None, seen: ComponentState) -> ComponentState:
    """Join one statement into the row: the latest attempt, in it the highest outcome, of that the earliest record."""
    if row is None:
        return seen
    known, new = (row.attempt, _RANK[row.outcome]), (seen.attempt, _RANK[seen.outcome])
    if known != new:
        return max((known, row), (new, seen), key=lambda pair: pair[0])[1]
    return min(row, seen, key=lambda each: (each.changed_at, each.failure_class or ""))
