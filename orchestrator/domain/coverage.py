"""What a dossier leaves in the dark: strata that the first phase does not try, and strata too small to be judged by themselves.

Nothing of it keeps a plan from running; who approves should know it.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.domain.boundary import f_star
from orchestrator.domain.dossier import Dossier
from orchestrator.domain.halt_rule import HaltTable


@dataclass(frozen=True, slots=True)
class Coverage:
    """Strata by key.

    Attributes:
        untried: strata without a device in the first phase, to the name of the phase that has the first; None if all are held back.
        unjudged: halt rules over strata, to those strata that could fail to the last device and would not halt them.
    """

    untried: dict[str, str | None]
    unjudged: dict[str, list[str]]


def coverage(dossier: Dossier) -> Coverage:
    """The report for a frozen dossier."""
    untried: dict[str, str | None] = {}
    treated: dict[str, int] = {}
    for key, size in sorted(dossier.strata.items()):
        if not size:
            continue
        treated[key] = size - dossier.holdback.get(key, 0)
        if not dossier.phases[0].strata.get(key, 0):
            untried[key] = next((phase.name for phase in dossier.phases if phase.strata.get(key, 0)), None)
    unjudged = {
        table.name: [key for key, size in treated.items() if not _can_halt(table, size)]
        for table in dossier.rules
        if table.scope == "stratum"
    }
    return Coverage(untried=untried, unjudged={name: keys for name, keys in unjudged.items() if keys})


def _can_halt(table: HaltTable, devices: int) -> bool:
    """Whether the rule can cross among so many devices: if it cannot when all of them failed, it never can."""
    needed = f_star(table.horizons, devices)
    return needed is not None and max(needed, table.min_failures) <= devices
