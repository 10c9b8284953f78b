"""The dossier: a plan worked out for a release and a fleet, which is what people approve.

:func:`validate_against` asks whether a plan suits a fleet (phases that resolve to devices, promote tests that can
pass). :func:`freeze` then works out every number the campaign will obey, so that an approval is bound to them and
not to a formula: device counts per phase and stratum, the integer tables of the halt rules, and the budget's limits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import model_validator

from orchestrator.domain.budget import MAX_VALUES, BudgetLimits, limits
from orchestrator.domain.cohort import NOBODY, Named, allot
from orchestrator.domain.digest import digest_of
from orchestrator.domain.halt_rule import MAX_LEVELS, EProcessRule, HaltRule, HaltTable, ThresholdRule, halt_table
from orchestrator.domain.health_rule import HealthGate, VersusRule, health_gate
from orchestrator.domain.plan import Plan
from orchestrator.domain.plan_fields import PlanModel, Problem, exact
from orchestrator.domain.sequential import clean_devices_needed

ALPHA_TOTAL: Final = 0.01
"""Default of the setting: probability of a false halt over the whole life of a campaign, shared out among its rules."""


def validate_against(
    plan: Plan,
    *,
    strata_sizes: Mapping[str, int],
    release_models: Collection[str],
    named: Named = NOBODY,
    alpha_total: float = ALPHA_TOTAL,
    budget: Sequence[Mapping[str, int]] = (),
) -> list[Problem]:
    """What keeps this plan from running on this fleet; empty if nothing does.

    Args:
        plan: the plan.
        strata_sizes: devices of the cohort per stratum, the holdback included.
        release_models: hardware models that the release supports.
        named: those of these devices that phases take by name.
        alpha_total: highest sum of the rules' ``alpha``.
        budget: registered devices by value of each label of the budget; counting may end with the first value that is too many.
    """
    problems: list[Problem] = []
    for index, (rule, values) in enumerate(zip(plan.budget, budget, strict=False)):
        if len(values) > MAX_VALUES:
            detail = f"Devices have more than {MAX_VALUES} different values of '{rule.label}'."
            problems.append(Problem(f"/budget/{index}/label", "plan.budget.values", detail))
    for index, model in enumerate(plan.cohort.hardware_models):
        if model not in release_models:
            detail = f"The release does not support the hardware model '{model}'."
            problems.append(Problem(f"/cohort/hardware_models/{index}", "plan.cohort.hardware_model", detail))
    spent = sum(exact(rule.alpha) for rule in plan.halt if not isinstance(rule, ThresholdRule))
    if spent > exact(alpha_total):
        detail = f"The halt rules spend {float(spent):g} of alpha together; at most {alpha_total:g} is allowed."
        problems.append(Problem("/halt", "plan.halt.alpha", detail))
    problems.extend(strata_problems(plan.halt, strata_sizes))
    total = sum(strata_sizes.values())
    if not total:
        problems.append(Problem("/cohort", "plan.cohort.empty", "No device matches the cohort."))
        return problems

    most = plan.cohort.max_members
    if most is not None and most < total:
        detail = f"The cohort has {total} devices already; at most {most} may be members."
        problems.append(Problem("/cohort/max_members", "plan.cohort.max_members", detail))

    allotment = allot(strata_sizes, plan, named)
    held = sum(allotment.holdback.values())
    for index, rule in enumerate(plan.halt):
        if isinstance(rule, VersusRule) and not held:
            detail = f"The rule '{rule.name}' compares with a holdback, but of {total} devices none is held back."
            problems.append(Problem(f"/halt/{index}", "plan.halt.holdback", detail))
    treated = total - held
    counts = plan.phase_counts(treated)
    for index, (phase, added) in enumerate(zip(plan.phases, allotment.phases, strict=True)):
        own = sum(added.values())
        if own < 1 and phase.names:
            detail = (
                f"Phase '{phase.name}' adds no device: it names no device of the cohort that no phase before it names."
            )
            problems.append(Problem(f"/phases/{index}", "plan.phase.size", detail))
        elif own < 1:
            detail = (
                f"Phase '{phase.name}' adds no device: it reaches {counts[index]} of {treated} devices, "
                "and the phases before it already do."
            )
            problems.append(Problem(f"/phases/{index}", "plan.phase.size", detail))
        elif phase.promote and (needed := clean_devices_needed(phase.promote.p1, phase.promote.beta)) > own:
            detail = (
                f"Phase '{phase.name}' adds {own} devices, but ruling out a failure rate of {phase.promote.p1:g} at "
                f"beta {phase.promote.beta:g} takes at least {needed} devices without a single failure. "
                "Enlarge the phase, raise p1, or leave its promote test out."
            )
            problems.append(Problem(f"/phases/{index}/promote", "plan.promote.impossible", detail))
    return problems


def strata_problems(rules: Iterable[HaltRule], strata_sizes: Mapping[str, int]) -> Iterator[Problem]:
    """Rules that halt single strata of more strata than a table can be made for."""
    strata = sum(1 for size in strata_sizes.values() if size)
    for index, rule in enumerate(rules):
        if isinstance(rule, EProcessRule) and rule.halts == "stratum" and strata > MAX_LEVELS:
            detail = f"The rule '{rule.name}' halts single strata of at most {MAX_LEVELS}; the cohort has {strata}."
            yield Problem(f"/halt/{index}", "plan.halt.strata", detail)


class PhaseShare(PlanModel):
    """A phase in devices: how many it adds, how many are reached with it, and the added ones per stratum."""

    name: str
    size: int
    reached: int
    strata: dict[str, int]


class Dossier(PlanModel):
    """What an approval is bound to: the plan, and every number that follows for this release and this cohort."""

    release_digest: str
    plan: Plan
    strata: dict[str, int]
    holdback: dict[str, int]
    phases: tuple[PhaseShare, ...]
    rules: tuple[HaltTable, ...]
    """Of failures among started devices."""
    health: tuple[HealthGate, ...] = ()
    """Of health after the update."""
    revised_from: tuple[int, ...] = ()
    """Of a revision: the largest in-flight cap that versions before it allowed up to each phase, and that may still be in flight."""
    budget: tuple[BudgetLimits, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _as_approved(cls, data: Any) -> Any:
        # What plans have by default now was not approved with a dossier of before: no breaker, and current devices were counted.
        match data:
            case {"plan": {"cohort": {**cohort}} as plan}:
                return {**data, "plan": {"breaker": None, **plan, "cohort": {"skip_current": False, **cohort}}}
            case _:
                return data

    @property
    def named(self) -> dict[int, dict[str, int]]:
        """Devices that phases take by name: phase to stratum to how many."""
        return {index: self.phases[index].strata for index, phase in enumerate(self.plan.phases) if phase.names}

    @property
    def room(self) -> int:
        """Devices that may join while the campaign runs."""
        return max(0, (self.plan.cohort.max_members or 0) - sum(self.strata.values()))

    def canonical(self) -> dict[str, Any]:
        """Plain data to store; reads back as the same dossier, with the same digest."""
        return self.model_dump(mode="json", by_alias=True)


def freeze(
    plan: Plan,
    *,
    strata_sizes: Mapping[str, int],
    release_digest: str,
    named: Named = NOBODY,
    budget: Sequence[Mapping[str, int]] = (),
) -> Dossier:
    """Work out the dossier of a plan that :func:`validate_against` has nothing against.

    A million devices at p0 = 2 % take about a second per rule.

    Raises:
        ValueError: ``budget`` does not count the devices of every label.
    """
    allotment = allot(strata_sizes, plan, named)
    room = max(0, (plan.cohort.max_members or 0) - sum(strata_sizes.values()))
    phases: list[PhaseShare] = []
    reached = 0
    for phase, added in zip(plan.phases, allotment.phases, strict=True):
        size = sum(added.values())
        reached += size
        phases.append(PhaseShare(name=phase.name, size=size, reached=reached, strata=added))
    return Dossier(
        release_digest=release_digest,
        plan=plan,
        strata=allotment.strata,
        holdback=allotment.holdback,
        phases=tuple(phases),
        budget=tuple(limits(rule, devices) for rule, devices in zip(plan.budget, budget, strict=True)),
        rules=tuple(
            halt_table(rule, len(plan.phases), strata_sizes, room)
            for rule in plan.halt
            if isinstance(rule, EProcessRule | ThresholdRule)
        ),
        health=tuple(
            health_gate(rule, len(plan.phases), strata_sizes)
            for rule in plan.halt
            if not isinstance(rule, EProcessRule | ThresholdRule)
        ),
    )


def dossier_digest(dossier: Dossier) -> str:
    """The digest that approvals are bound to: ``sha256:...`` of the dossier's canonical JSON."""
    return digest_of(dossier.canonical())
