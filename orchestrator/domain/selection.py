"""Which devices a plan's cohort takes in: the same rule when it is counted for approval and when it is enrolled.

Not here: whom another campaign updated (``remediation``); of a plan that asks for those, they alone are candidates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

from orchestrator.domain.cohort import Member, stratum_key
from orchestrator.domain.plan import Plan
from orchestrator.domain.query import Subject, matches


class Candidate(Subject, Protocol):
    """A registered device."""

    @property
    def device_no(self) -> int: ...


def models(plan: Plan, release_models: Collection[str]) -> list[str]:
    """Hardware models that the plan asks for and the release supports."""
    return sorted(set(plan.cohort.hardware_models or release_models) & set(release_models))


def select(plan: Plan, candidates: Iterable[Candidate]) -> Iterator[Member]:
    """The candidates that belong to the cohort, with their strata."""
    include, exclude = frozenset(plan.cohort.include), frozenset(plan.cohort.exclude)
    query = plan.query
    for device in candidates:
        if device.device_id in exclude or (include and device.device_id not in include):
            continue
        if query is not None and not matches(query, device):
            continue
        stratum = stratum_key(plan.cohort.stratify_by, device.hardware_model, device.attributes)
        yield Member(device.device_id, stratum, device.device_no)
