"""Halt policies as the simulation runs them: the product's own tables of integers, looked up instead of computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from orchestrator.domain.boundary import f_star
from orchestrator.domain.dossier import Dossier, freeze
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.sequential import devices_to_promote

FLEET: Final = 10_000
PER_MINUTE: Final = 50
DEADLINE: Final = 240.0
"""Minutes from a device's start: silence beyond it is failure."""
SOAK: Final = 60.0
"""Minutes from the moment a phase's queue is empty."""

PHASES: Final = (
    {"name": "canary", "percent": 1, "soak": "1h", "promote": {"p1": 0.10, "beta": 0.05}},
    {"name": "early", "percent": 10, "soak": "1h", "promote": {"p1": 0.02, "beta": 0.05}},
    {"name": "everyone", "percent": 100, "soak": "1h"},
)
RULES: Final = (
    {"name": "fleet", "scope": "campaign", "p0": 0.02, "alpha": 0.006},
    {"name": "phase", "scope": "phase", "p0": 0.02, "alpha": 0.004},
)
NEVER: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class Phase:
    """``promotes[f]``: fewest matured devices that promote with f failures among them; empty without a promote test."""

    size: int
    promotes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """Entry n of a bound: the fewest failures that halt among n started devices.

    ``naive`` (share, after) replaces them by a share of the devices that have *completed*.
    """

    name: str
    phases: tuple[Phase, ...]
    campaign: Sequence[int]
    phase: Sequence[int]
    naive: tuple[float, int] | None = None


def _bound(horizons: Sequence[int], least: int) -> list[int]:
    found = [f_star(horizons, n) for n in range(FLEET + 1)]
    return [NEVER if f is None else max(f, least) for f in found]


@lru_cache(maxsize=4)
def _promotes(p1: float, beta: float) -> tuple[int, ...]:
    return tuple(devices_to_promote(failures, p1, beta) for failures in range(60))


def _dossier(phases: Sequence[dict[str, object]], rules: Sequence[dict[str, object]]) -> Dossier:
    plan = parse_plan(
        {
            "release": "rel_1",
            "cohort": {"stratify_by": []},
            "phases": list(phases),
            "confirm_deadline": "4h",
            "offer_ttl": "1d",
            "halt": list(rules),
            "max_in_flight": {"initial": FLEET, "maximum": FLEET},
        }
    )
    return freeze(plan, strata_sizes={"all": FLEET}, release_digest="sha256:simulated")


def make(name: str, phases: Sequence[dict[str, object]], rules: Sequence[dict[str, object]]) -> Policy:
    """A policy out of a plan's phases and rules."""
    dossier = _dossier(phases, rules)
    bounds = {table.scope: _bound(table.horizons, table.min_failures) for table in dossier.rules}
    never = [NEVER] * (FLEET + 1)
    return Policy(
        name=name,
        phases=tuple(
            Phase(share.size, _promotes(phase.promote.p1, phase.promote.beta) if phase.promote else ())
            for share, phase in zip(dossier.phases, dossier.plan.phases, strict=True)
        ),
        campaign=bounds.get("campaign", never),
        phase=bounds.get("phase", never),
    )


def policies() -> list[Policy]:
    """The default policy, its rule alone as in the reference's tables, and what peers do."""
    at_once = ({"name": "all", "percent": 100, "soak": "1h"},)
    alone = make("rule alone", at_once, ({"name": "fleet", "scope": "campaign", "p0": 0.02, "alpha": 0.01},))
    never = [NEVER] * (FLEET + 1)
    return [
        make("default", PHASES, RULES),
        alone,
        Policy("5 % of completed after 100", alone.phases, never, never, naive=(0.05, 100)),
    ]
