"""The blast radius: how many devices can fail at most before the gate has acted.

While no rule has crossed, at most f*(n) - 1 failures are known, and everything not yet known is in flight. Offers
stop at the commit that crosses, so failures in all are at most ``max(f*(n_end), min_failures) + K - 1``, with
``n_end`` the devices allowed to start so far and ``K`` the in-flight cap. It holds for any order and delay of
reports.

It covers what feeds the verdict and shows before a device confirms. For later harm there is the soak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.domain.boundary import f_star
from orchestrator.domain.dossier import Dossier
from orchestrator.domain.halt_rule import HaltTable
from orchestrator.domain.pacing import in_flight_cap


@dataclass(frozen=True, slots=True)
class PhaseBound:
    """The bound at the end of a phase.

    Attributes:
        phase: its name.
        reached: devices that may have started by then.
        in_flight: the in-flight cap in force.
        failures: failures since launch, at most, before offers stop.
    """

    phase: str
    reached: int
    in_flight: int
    failures: int


def blast_bound(horizons: Sequence[int], min_failures: int, n_end: int, in_flight: int) -> int:
    """Failures at most among ``n_end`` devices, with ``in_flight`` of them unresolved at a time."""
    return min(n_end, _unnoticed(horizons, min_failures, n_end) + in_flight)


def phase_bounds(dossier: Dossier) -> list[PhaseBound]:
    """The bound for every phase of a plan; the tightest of its rules, as each of them halts alone."""
    plan = dossier.plan
    bounds: list[PhaseBound] = []
    highest = 0
    for index, share in enumerate(dossier.phases):
        cap = plan.max_in_flight
        in_flight = in_flight_cap(cap.initial, cap.maximum, index, plan.phases[index].max_in_flight)
        # Where a phase lowers the cap, stragglers of the phase before may still be in flight.
        highest = max(highest, in_flight)
        unnoticed = min(_unnoticed_by(table, dossier, index) for table in dossier.rules)
        failures = min(share.reached, unnoticed + highest)
        bounds.append(PhaseBound(phase=share.name, reached=share.reached, in_flight=in_flight, failures=failures))
    return bounds


def _unnoticed(horizons: Sequence[int], min_failures: int, n_end: int) -> int:
    """Most known failures among ``n_end`` devices that do not halt."""
    needed = f_star(horizons, n_end)
    return n_end if needed is None else max(needed, min_failures) - 1


def _unnoticed_by(table: HaltTable, dossier: Dossier, last: int) -> int:
    """Most known failures up to the end of phase ``last`` that do not make any process of this rule cross."""
    phases = dossier.phases[: last + 1]
    if table.scope == "campaign":
        sizes = [phases[-1].reached]
    elif table.scope == "phase":
        sizes = [phase.size for phase in phases]
    else:
        sizes = [sum(phase.strata.get(key, 0) for phase in phases) for key in dossier.strata]
    return sum(_unnoticed(table.horizons, table.min_failures, size) for size in sizes)
