"""The exposure budget: how many devices of one site, customer or model may be in flight at once, over all campaigns.

A plan names labels; a device has one value of each, :data:`MISSING` if it lacks the attribute. The devices of every value are counted
over the whole fleet when the plan is submitted, so the approved dossier says how many of each site may be away at a time.

Invariants of :func:`admit`
- No value gets above its limit; what is above it already gets nothing.
- Devices are taken in the order in which they come, and nobody is passed over who has room.

Not here: what is in flight (a count over the devices' slots) and which devices are asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from orchestrator.domain.cohort import MISSING
from orchestrator.domain.plan_fields import MAX_COUNT, Dimension, Integer, Number, PlanModel, between, exact

MAX_LABELS: Final = 4
"""Labels of a plan's budget: each is a count over the fleet at submission and a column of every slice's look at the queue."""

MAX_VALUES: Final = 5_000
"""Values of a label: all of them stand in the dossier, which every event of the campaign writes again."""


def _percent(value: float) -> float:
    if not 0.0 < value <= 100.0:
        raise PydanticCustomError("plan.budget.range", "A percentage lies in (0, 100], got {value}.", {"value": value})
    return value


class BudgetRule(PlanModel):
    """At most this share of the devices that have one value of the label, and at least ``min_count``, so that small sites move."""

    label: Dimension
    max_percent: Annotated[Number, AfterValidator(_percent)]
    min_count: Annotated[Integer, between("plan.budget.range", 1, MAX_COUNT)] = 1

    def limit(self, devices: int) -> int:
        """Devices of a value that may be in flight, out of ``devices`` that have it."""
        return max(floor(exact(self.max_percent) * devices / 100), self.min_count)


class BudgetLimits(PlanModel):
    """A rule worked out for a fleet. A value that is not in it appeared later and is held to ``other``."""

    label: str
    devices: dict[str, int]
    """Registered devices by value, of the whole fleet."""
    limits: dict[str, int]
    other: int

    def limit(self, value: str) -> int:
        """Devices of the value that may be in flight."""
        return self.limits.get(value, self.other)


def limits(rule: BudgetRule, devices: Mapping[str, int]) -> BudgetLimits:
    """The rule's limits for a fleet that has so many devices of each value."""
    known = dict(sorted(devices.items()))
    return BudgetLimits(
        label=rule.label,
        devices=known,
        limits={value: rule.limit(count) for value, count in known.items()},
        other=rule.min_count,
    )


def value_of(label: str, hardware_model: str, attributes: Mapping[str, str]) -> str:
    """A device's value of a label. Devices without the attribute have :data:`MISSING` together."""
    return hardware_model if label == "hardware_model" else attributes.get(label.removeprefix("attribute."), MISSING)


Place = tuple[int, str]
"""(number of the label, value)"""


class Candidate(NamedTuple):
    """A device that could be offered now."""

    device_no: int
    values: tuple[str, ...]
    """Of each label, in the order of the limits."""
    held: bool = False
    """In flight already, for a campaign that it is taken over from: it adds nothing."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How full the places are."""

    in_flight: Mapping[Place, int] = field(default_factory=dict[Place, int])


@dataclass(frozen=True, slots=True)
class Admission:
    """What :func:`admit` found. Candidates beyond the room are in neither: nobody has looked at them."""

    admitted: tuple[int, ...]
    refused: dict[int, Place]
    """Device to the first place that was full."""
    usage: Usage


def admit(candidates: Iterable[Candidate], usage: Usage, rules: Sequence[BudgetLimits], room: int) -> Admission:
    """Who of the candidates, in their order, may be offered: at most ``room`` devices, and no place above its limit."""
    in_flight = dict(usage.in_flight)
    admitted: list[int] = []
    refused: dict[int, Place] = {}
    for device_no, values, held in candidates:
        if len(admitted) == room:
            break
        places = list(enumerate(values))
        added = 0 if held else 1
        full = next((p for p in places if in_flight.get(p, 0) + added > rules[p[0]].limit(p[1])), None)
        if full is None:
            admitted.append(device_no)
            for place in places:
                in_flight[place] = in_flight.get(place, 0) + added
        else:
            refused[device_no] = full
    return Admission(tuple(admitted), refused, Usage(in_flight))
