"""What roles report of their work, turned into measurements."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.domain.gate import Verdict
from orchestrator.telemetry.instruments import Instruments, kafka

if TYPE_CHECKING:
    from orchestrator.adapters.sql.facts import Applied

CAMPAIGN_KIND = "update"
"""``campaign.kind`` of every campaign there is: it moves devices to a release."""


def projector_observer(instruments: Instruments, topic: str, group: str) -> Callable[[Applied, float], None]:
    """For ``Projector(observe=…)``: called after the commit of a batch with what it did and the seconds it took."""
    process = kafka("process", topic, group=group)

    def observe(applied: Applied, seconds: float) -> None:
        instruments.process_duration.record(seconds, process)
        instruments.consumed_messages.add(applied.facts + len(applied.dead), process)
        for state, n in applied.transitions.items():
            instruments.transitions.add(n, {"to": state, "campaign.kind": CAMPAIGN_KIND})
        for failure_class, n in applied.failures.items():
            instruments.failures.add(n, {"class": failure_class})
        for event_type, n in applied.duplicates.items():
            instruments.events_duplicates.add(n, {"type": event_type})
        held = applied.evaluations - len(applied.halts)
        for verdict, n in ((Verdict.HOLD, held), (Verdict.HALT, len(applied.halts))):
            if n:
                instruments.gate_evaluations.add(n, {"verdict": str(verdict), "reason": "evidence"})
        for code in applied.dead:
            instruments.dead_letters.add(1, {"topic": topic, "reason": code})
        if applied.oldest_at is not None:
            instruments.events_lag.set(max(0.0, time.time() - applied.oldest_at / 1_000), {"topic": topic})

    return observe
