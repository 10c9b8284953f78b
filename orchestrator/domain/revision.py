"""A revision: other values for the pace of a campaign that already runs, approved like the plan itself.

Exactly these fields can change: ``rate``, ``max_in_flight`` and ``jitter`` of phases, and the plan's ``max_in_flight``.
Whom a campaign is about, what stops it and what every device was counted for stay as they were approved, so halt
tables, phase sizes, deadlines and strata of a revised dossier are those of the first.

The dossier of a revision also says which in-flight caps it follows, because devices that were offered under them may
still be in flight: its blast bound counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from msgspec import Struct

from orchestrator.domain.blast import phase_bounds
from orchestrator.domain.dossier import Dossier
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.plan_fields import PlanError, Problem, pointer_part
from orchestrator.errors import ConflictError

PHASE_FIELDS: Final = ("rate", "max_in_flight", "jitter")
"""What a revision may change in a phase."""

PLAN_FIELDS: Final = ("max_in_flight",)
"""What it may change in the plan beside its phases."""


class UnchangedError(ConflictError):
    """The revision changes nothing."""

    code = "campaign.revision.unchanged"
    remedy = "Give at least one value that differs from the approved plan."


class StaleRevisionError(ConflictError):
    """The plan was revised in the meantime."""

    code = "campaign.revision.stale"
    remedy = "Read the campaign again and propose the revision anew."


class Revision(Struct, frozen=True, kw_only=True):
    """A proposal that waits for its approvals; the campaign runs on under the approved plan."""

    digest: str
    dossier: dict[str, Any]
    actor: str
    reason: str
    approvals: tuple[str, ...] = ()


class PaceChange(Struct, frozen=True, kw_only=True):
    """One value of the plan that a revision changes."""

    pointer: str
    """JSON pointer into the plan."""
    before: Any
    after: Any


def revised(dossier: Dossier, changes: Mapping[str, Any]) -> Dossier:
    """The dossier under other values of its pace.

    Args:
        dossier: the approved one.
        changes: ``max_in_flight`` of the plan, and ``phases``: fields by the phase's name. A value replaces the old
            one whole; None takes it out.

    Raises:
        PlanError: with everything that is wrong with the changes, or with the plan they make.
        UnchangedError: nothing differs.
    """
    problems = list(_problems(dossier, changes))
    if problems:
        raise PlanError(problems)
    plan = dossier.plan.canonical()
    plan |= {name: changes[name] for name in PLAN_FIELDS if name in changes}
    of_phases = changes.get("phases", {})
    plan["phases"] = [phase | of_phases.get(phase["name"], {}) for phase in plan["phases"]]
    parsed = parse_plan(plan)
    if parsed == dossier.plan:
        raise UnchangedError
    return dossier.model_copy(update={"plan": parsed, "revised_from": _caps(dossier)})


def pace_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[PaceChange]:
    """What differs between two versions of a plan (canonical) that a revision lies between."""
    return list(_differing(before, after))


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[PaceChange]:
    for index, (old, new) in enumerate(zip(before["phases"], after["phases"], strict=True)):
        for name in PHASE_FIELDS:
            if old.get(name) != new.get(name):
                yield PaceChange(pointer=f"/phases/{index}/{name}", before=old.get(name), after=new.get(name))
    for name in PLAN_FIELDS:
        if before[name] != after[name]:
            yield PaceChange(pointer=f"/{name}", before=before[name], after=after[name])


def _caps(dossier: Dossier) -> tuple[int, ...]:
    """The largest in-flight cap up to each phase that this version, or one before it, allowed."""
    caps: list[int] = []
    for index, bound in enumerate(phase_bounds(dossier)):
        earlier = dossier.revised_from[index] if dossier.revised_from else 0
        caps.append(max(bound.in_flight, earlier, *caps[-1:]))
    return tuple(caps)


def _problems(dossier: Dossier, changes: Mapping[str, Any]) -> Iterator[Problem]:
    for name in changes:
        if name not in {*PLAN_FIELDS, "phases"}:
            yield _fixed(f"/{pointer_part(name)}", name)
    phases: object = changes.get("phases", {})
    if not isinstance(phases, Mapping):
        yield Problem("/phases", "plan.field.type", "Phases are given by their names here.")
        return
    known = {share.name for share in dossier.phases}
    for name, fields in cast("Mapping[str, object]", phases).items():
        pointer = f"/phases/{pointer_part(name)}"
        if name not in known:
            yield Problem(pointer, "plan.revision.phase", f"The plan has no phase '{name}'.")
        elif not isinstance(fields, Mapping):
            yield Problem(pointer, "plan.field.type", f"What changes in '{name}' is given by field.")
        else:
            wrong = [field for field in cast("Mapping[str, object]", fields) if field not in PHASE_FIELDS]
            yield from (_fixed(f"{pointer}/{pointer_part(field)}", field) for field in wrong)


def _fixed(pointer: str, name: str) -> Problem:
    allowed = ", ".join(PHASE_FIELDS)
    detail = f"A revision cannot change '{name}': only {allowed} of phases and max_in_flight of the plan."
    return Problem(pointer, "plan.revision.field", detail)
