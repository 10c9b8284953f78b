"""An independent judge of what the system holds after faults. It imports nothing of the product and shares no code with it.

It reads four witnesses: what the fleet was told (its truth file), what the devices' flash holds, the topic of facts as the broker has
it, and the tables. From the two logs alone (facts and decisions) it works out what every assignment, counter, timeline row, dead
letter, slot, queue entry and deadline must be, as ``retelling`` has it, and reports every
difference under one of the kinds of ``KINDS``.
"""

from __future__ import annotations

from tests.support.oracle import facts, gates, logs, rows
from tests.support.oracle.case import KINDS, Case, Evidence, Verdict

__all__ = ["KINDS", "Evidence", "Verdict", "judge"]


def judge(evidence: Evidence) -> Verdict:
    """Compare everything with everything else."""
    case = Case(evidence, Verdict())
    checks = (
        logs.chains,
        logs.ledger,
        logs.controls,
        logs.commands,
        facts.facts,
        facts.fleet,
        rows.assignments,
        rows.queues,
        rows.counters,
        gates.gates,
    )
    for check in checks:
        check(case)
    return case.verdict
