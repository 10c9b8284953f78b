"""Who is in which phase: deterministic, stratified, and only ever growing.

A phase that names its devices, by a group or a list, takes those of its members that no earlier such phase took; they
are never held back. A salted hash orders the others within each stratum. The other phases take from the front of that
order, the holdback from its far end. Who is where follows from salt, ids, strata and names alone: the same plan gives
the same canaries on any machine, in any input order.

Percentages and counts are of the whole treated cohort and count what earlier phases reached by name; only the
others fill them up.

Quotas over strata are handed out one device at a time by highest averages (Webster, Sainte-Laguë), after one device
for every stratum. Largest remainder would not do: with three strata or more a larger total can *take* a device from
a stratum (the Alabama paradox), and then raising a percentage would move devices out of a phase. By construction
here, the quotas of a larger total contain those of a smaller one.

Not done here: which devices belong to a campaign at all (selection is a query), and any choice of numbers (that is
the plan).
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from orchestrator.domain.plan import Plan

ALL: Final = "all"
"""Key of the only stratum of a plan that does not stratify."""

MISSING: Final = "-"
"""Stands in a stratum's key for an attribute that a device does not have."""

HOLDBACK: Final = -1
"""In place of a phase's number: held back."""

Named = Mapping[int, Mapping[str, int]]
"""Devices that phases take by name: phase to stratum to how many."""

NOBODY: Final[Named] = MappingProxyType({})
"""No phase takes a device by name."""

_RESOLUTION_BITS: Final = 48
_ESCAPES: Final = str.maketrans(
    {**{chr(code): f"%{code:02X}" for code in range(32)}, "%": "%25", ",": "%2C", "=": "%3D"}
)
_ESCAPED: Final = re.compile(r"%([0-9A-F]{2})")


class Member(NamedTuple):
    """A device that belongs to a campaign's cohort."""

    device_id: str
    stratum: str
    device_no: int
    named: int | None = None
    """The first phase that names it."""


@dataclass(frozen=True, slots=True)
class Allotment:
    """How many devices of each stratum are held back, and how many each phase *adds*."""

    strata: dict[str, int]
    holdback: dict[str, int]
    phases: tuple[dict[str, int], ...]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Device numbers by stratum, each in the order of the hash: the holdback, and what each phase adds."""

    strata: dict[str, int]
    holdback: dict[str, tuple[int, ...]]
    phases: tuple[dict[str, tuple[int, ...]], ...]

    def offer_order(self, phase: int) -> list[int]:
        """The devices that a phase adds, strata interleaved."""
        return interleave(self.phases[phase])


def unit_hash(salt: str, device_id: str) -> int:
    """The device's place in the order: the first 8 bytes of sha256(salt, NUL, device id)."""
    return int.from_bytes(sha256(f"{salt}\0{device_id}".encode()).digest()[:8])


def stratum_key(stratify_by: Sequence[str], hardware_model: str, attributes: Mapping[str, str]) -> str:
    """The stratum of a device: ``hardware_model=sensor-a,attribute.hw_revision=B``.

    Values are escaped like in URLs where they would be ambiguous, so two different devices never share a key by
    accident.
    """
    return stratum_of(
        stratify_by,
        [
            hardware_model if dimension == "hardware_model" else attributes.get(dimension.removeprefix("attribute."))
            for dimension in stratify_by
        ],
    )


def stratum_of(stratify_by: Sequence[str], values: Sequence[str | None]) -> str:
    """The stratum's key from a value per dimension; None where devices do not have the attribute."""
    if not stratify_by:
        return ALL
    pairs = zip(stratify_by, values, strict=True)
    return ",".join(f"{dimension}={_escape(value)}" for dimension, value in pairs)


def stratum_values(stratify_by: Sequence[str], key: str) -> tuple[str | None, ...]:
    """The values that :func:`stratum_of` made a key of."""
    parts = key.split(",") if stratify_by else []
    pairs = zip(stratify_by, parts, strict=True)
    return tuple(_unescape(part.removeprefix(f"{dimension}=")) for dimension, part in pairs)


def quotas(total: int, sizes: Mapping[str, int], *, cover: bool = True) -> dict[str, int]:
    """Share ``total`` devices among strata in proportion to their sizes.

    With ``cover`` every stratum gets one device before any gets a second, the largest first if there are not
    enough. Ties go to the larger stratum, then to the lower key. Raising ``total`` never lowers a quota.

    Raises:
        ValueError: the strata do not have that many devices.
    """
    available = sum(sizes.values())
    if not 0 <= total <= available:
        raise ValueError(f"cannot take {total} of {available} devices")
    given = {key: 0 for key, size in sorted(sizes.items()) if size > 0}
    left = total
    if cover:
        for key in sorted(given, key=lambda key: (-sizes[key], key))[:total]:
            given[key] = 1
        left -= sum(given.values())
        if not left:
            return {key: given.get(key, 0) for key in sizes}

    # Device r (from 0) of a stratum of size s is due at (2r + 1) / 2s. Bisection finds a time at which not too many
    # are due; the heap then hands out the few that are left, in exact order.
    unit = 1 << _RESOLUTION_BITS
    first = 1 if cover else 0

    def due(key: str, time: int) -> int:
        return max(first, (2 * time * sizes[key] + unit) // (2 * unit))

    low, high = 0, unit + 1
    while high - low > 1:
        middle = (low + high) // 2
        if sum(due(key, middle) for key in given) <= total:
            low = middle
        else:
            high = middle
    given = {key: due(key, low) for key in given}

    def entry(key: str) -> tuple[Fraction, int, str]:
        return Fraction(2 * given[key] + 1, 2 * sizes[key]), -sizes[key], key

    queue = [entry(key) for key in given if given[key] < sizes[key]]
    heapq.heapify(queue)
    for _ in range(total - sum(given.values())):
        key = queue[0][2]
        given[key] += 1
        if given[key] < sizes[key]:
            heapq.heapreplace(queue, entry(key))
        else:
            heapq.heappop(queue)
    return {key: given.get(key, 0) for key in sizes}


def allot(strata: Mapping[str, int], plan: Plan, named: Named = NOBODY) -> Allotment:
    """Device counts of every phase and stratum: what the plan means for strata of these sizes, ``named`` included."""
    others = others_of(strata, named)
    held = min(plan.holdback_count(sum(strata.values())), sum(others.values()))
    # Held-back devices are not covered first: a stratum of one device would be held back whole and never tried.
    holdback = quotas(held, others, cover=False)
    treated = {key: size - holdback[key] for key, size in others.items()}
    counts = plan.phase_counts(sum(strata.values()) - held)
    added: list[dict[str, int]] = []
    before, by_name = dict.fromkeys(strata, 0), 0
    for index, phase in enumerate(plan.phases):
        if phase.names:
            found = named.get(index, {})
            by_name += sum(found.values())
            added.append({key: found.get(key, 0) for key in strata})
            continue
        filled = max(sum(before.values()), min(counts[index] - by_name, sum(treated.values())))
        after = quotas(filled, treated)
        added.append({key: after[key] - before[key] for key in strata})
        before = after
    return Allotment(strata=dict(strata), holdback=holdback, phases=tuple(added))


def others_of(strata: Mapping[str, int], named: Named) -> dict[str, int]:
    """Devices of each stratum that no phase takes by name."""
    return {key: size - sum(found.get(key, 0) for found in named.values()) for key, size in strata.items()}


def assign_phases(members: Iterable[Member], plan: Plan) -> Enrolment:
    """Put every member into the phase that names it or adds it, or into the holdback."""
    ordered: dict[tuple[int | None, str], list[tuple[int, str, int]]] = {}
    salt = plan.salt
    for device_id, stratum, device_no, phase in members:
        ordered.setdefault((phase, stratum), []).append((unit_hash(salt, device_id), device_id, device_no))
    for devices in ordered.values():
        devices.sort()
    places = {where: tuple(device_no for _, _, device_no in devices) for where, devices in ordered.items()}
    strata = dict.fromkeys(sorted({key for _, key in places}), 0)
    named: dict[int, dict[str, int]] = {}
    for (phase, key), numbers in places.items():
        strata[key] += len(numbers)
        if phase is not None:
            named.setdefault(phase, {})[key] = len(numbers)
    allotment = allot(strata, plan, named)

    taken = dict.fromkeys(strata, 0)
    phases: list[dict[str, tuple[int, ...]]] = []
    for index, added in enumerate(allotment.phases):
        if plan.phases[index].names:
            phases.append({key: places[index, key] for key, count in added.items() if count})
            continue
        slices = {key: places[None, key][taken[key] : taken[key] + count] for key, count in added.items() if count}
        phases.append(slices)
        taken = {key: taken[key] + added[key] for key in taken}
    holdback = {key: places[None, key][-count:] for key, count in allotment.holdback.items() if count}
    return Enrolment(strata=allotment.strata, holdback=holdback, phases=tuple(phases))


def interleave(strata: Mapping[str, Sequence[int]]) -> list[int]:
    """One queue out of all strata, each spread evenly over it.

    Offers go out in this order, so that a stratum in trouble shows early instead of after all the others.
    """

    def spread(key: str, devices: Sequence[int]) -> Iterator[tuple[float, str, int]]:
        return (((index + 0.5) / len(devices), key, device_no) for index, device_no in enumerate(devices))

    return [device_no for _, _, device_no in heapq.merge(*(spread(key, strata[key]) for key in sorted(strata)))]


def _escape(value: str | None) -> str:
    if value is None:
        return MISSING
    return "%2D" if value == MISSING else value.translate(_ESCAPES)


def _unescape(text: str) -> str | None:
    return None if text == MISSING else _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
