"""The blast radius: how many devices can fail at most before the gate has acted.

While no rule has crossed, at most f*(n) - 1 failures are known, and everything not yet known is in flight. Offers
stop at the commit that crosses, so failures in all are at most ``max(f*(n_end), min_failures) + K - 1``, with
``n_end`` the devices allowed to start so far and ``K`` the largest in-flight cap so far: a cap that grows inside a
phase counts as what it can grow to if every device of the phase confirms. It holds for any order and delay of
reports.

It covers what feeds the verdict and shows before a device confirms. For later harm there are the soak and the rules on health, which
bound nothing.
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
        in_flight_start: the in-flight cap when the phase opens, if no halt puts it back before.
        in_flight: the largest in-flight cap that it can reach.
        failures: failures since launch, at most, before offers stop.
    """

    phase: str
    reached: int
    in_flight_start: int
    in_flight: int
    failures: int


def blast_bound(horizons: Sequence[int], min_failures: int, n_end: int, in_flight: int) -> int:
    """Failures at most among ``n_end`` devices, with ``in_flight`` of them unresolved at a time."""
    return min(n_end, _unnoticed(horizons, min_failures, n_end) + in_flight)


def phase_bounds(dossier: Dossier) -> list[PhaseBound]:
    """The bound for every phase of a plan; the tightest of its rules, as each of them halts alone."""
    bounds: list[PhaseBound] = []
    highest = 0
    for index, share in enumerate(dossier.phases):
        in_flight = reachable_cap(dossier, index, share.size + dossier.room)
        # Where a phase or a revision lowers the cap, stragglers of before may still be in flight.
        earlier = dossier.revised_from[index] if dossier.revised_from else 0
        highest = max(highest, in_flight, earlier)
        unnoticed = min(_unnoticed_by(table, dossier, index) for table in dossier.rules)
        bounds.append(
            PhaseBound(
                phase=share.name,
                reached=share.reached,
                in_flight_start=reachable_cap(dossier, index, 0),
                in_flight=in_flight,
                failures=min(share.reached + dossier.room, unnoticed + highest),
            )
        )
    return bounds


def reachable_cap(dossier: Dossier, phase: int, confirmed: int) -> int:
    """The in-flight cap in a phase that has confirmed so many devices, when nothing has gone wrong."""
    cap = dossier.plan.max_in_flight
    own = dossier.plan.phases[phase].max_in_flight
    return in_flight_cap(cap.initial, cap.maximum, phase, own, growth=cap.growth(confirmed))


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
    # Late members may all be of one process, and nobody knows of which.
    return sum(_unnoticed(table.horizons, table.min_failures, size + dossier.room) for size in sizes)
