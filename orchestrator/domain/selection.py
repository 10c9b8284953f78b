"""Which devices a plan's cohort takes in: the same rule when it is counted for approval and when it is enrolled."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Protocol

from orchestrator.domain.cohort import Member, stratum_key
from orchestrator.domain.plan import Plan


class Candidate(Protocol):
    """A registered device."""

    @property
    def device_no(self) -> int: ...
    @property
    def device_id(self) -> str: ...
    @property
    def hardware_model(self) -> str: ...
    @property
    def attributes(self) -> Mapping[str, str]: ...


def models(plan: Plan, release_models: Collection[str]) -> list[str]:
    """Hardware models that the plan asks for and the release supports."""
    return sorted(set(plan.cohort.hardware_models or release_models) & set(release_models))


def select(plan: Plan, candidates: Iterable[Candidate]) -> Iterator[Member]:
    """The candidates that belong to the cohort, with their strata."""
    include, exclude = frozenset(plan.cohort.include), frozenset(plan.cohort.exclude)
    for device in candidates:
        if device.device_id in exclude or (include and device.device_id not in include):
            continue
        stratum = stratum_key(plan.cohort.stratify_by, device.hardware_model, device.attributes)
        yield Member(device.device_id, stratum, device.device_no)
