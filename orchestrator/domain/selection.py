"""Which devices a plan's cohort takes in: the same rule when it is counted for approval and when it is enrolled.

A device that runs the release already is no member (``cohort.skip_current``): there is nothing to do for it, and it would count as
a success that nobody had.

Not here: whom another campaign updated (``remediation``); of a plan that asks for those, they alone are candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from orchestrator.domain.cohort import Member, stratum_key
from orchestrator.domain.plan import Phase, Plan
from orchestrator.domain.query import Subject, matches, parse


class Twin(Subject, Protocol):
    """A device with all that it has said it runs."""

    @property
    def digest(self) -> str | None: ...
    @property
    def outdated(self) -> bool:
        """It has confirmed an update after it last said what it runs, so what it said is no reason to leave it out."""
        ...


class Candidate(Twin, Protocol):
    """A registered device."""

    @property
    def device_no(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Target:
    """What a campaign brings its devices to."""

    version: str
    artifacts: Mapping[str, str]
    """Hardware model to the sha256 of its artifact."""


def models(plan: Plan, release_models: Collection[str]) -> list[str]:
    """Hardware models that the plan asks for and the release supports."""
    return sorted(set(plan.cohort.hardware_models or release_models) & set(release_models))


def is_current(device: Twin, target: Target) -> bool:
    """Whether the device runs the release already: it has reported a version or a digest, and all that it has reported says so.

    What it said before an update that it has confirmed since counts for nothing: a campaign back to that version must reach it.
    """
    if device.outdated:
        return False
    said = [
        (device.version, target.version),
        (device.digest, target.artifacts.get(device.hardware_model)),
    ]
    return any(found is not None for found, _ in said) and all(found in {None, wanted} for found, wanted in said)


def selected(plan: Plan) -> Callable[[Candidate], bool]:
    """Whether a device is what the plan asks for, by its lists and its selector; models and version apart."""
    include, exclude = frozenset(plan.cohort.include), frozenset(plan.cohort.exclude)
    query = plan.query

    def check(device: Candidate) -> bool:
        if device.device_id in exclude or (include and device.device_id not in include):
            return False
        return query is None or matches(query, device)

    return check


def select(plan: Plan, candidates: Iterable[Candidate], target: Target) -> Iterator[Member]:
    """The candidates that belong to the cohort, with their strata and the phases that name them."""
    wanted, allowed = selected(plan), frozenset(models(plan, target.artifacts))
    namers = [(index, _namer(plan, phase)) for index, phase in enumerate(plan.phases) if phase.names]
    for device in candidates:
        if device.hardware_model not in allowed or not wanted(device):
            continue
        if plan.cohort.leaves_out_current and is_current(device, target):
            continue
        stratum = stratum_key(plan.cohort.stratify_by, device.hardware_model, device.attributes)
        named = next((index for index, names in namers if names(device)), None)
        yield Member(device.device_id, stratum, device.device_no, named)


def _namer(plan: Plan, phase: Phase) -> Callable[[Candidate], bool]:
    if phase.group is not None:
        query = parse(plan.cohort.groups[phase.group])
        return lambda device: matches(query, device)
    listed = frozenset(phase.devices or ())
    return lambda device: device.device_id in listed
