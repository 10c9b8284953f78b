"""Patience: when a phase has waited so long for its gate that people are told.

It never decides anything: a phase that is told of waits on as before. Counted are the reasons that people can do something about
(:data:`COUNTED`); the soak is meant to last, and trouble with facts or infrastructure has alarms of its own. Time counts from when the
phase could first have been promoted, whatever held it since.

Not here: who is told, and that each is told once (the campaign's state knows).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from orchestrator.domain.gate import GateVerdict, Hold
from schemas.campaign_events import HoldOutlasted

COUNTED: Final = frozenset({Hold.APPROVAL, Hold.EXTERNAL, Hold.EVIDENCE})


def outlasted(
    phase: Mapping[str, Any],
    number: int,
    verdict: GateVerdict,
    waiting: Mapping[str, str],
    *,
    gate_epoch: int,
    since: int,
    now: int,
) -> Iterator[HoldOutlasted]:
    """The holds that have outlasted their patience at ``now``; several only where several external gates hold.

    Args:
        phase: of the canonical plan.
        number: of that phase.
        verdict: what the gate says now.
        waiting: external gates that hold, with what is waited for.
        gate_epoch: the running one.
        since: when the phase could first have been promoted, ms.
        now: ms.
    """
    if verdict.reason not in COUNTED:
        return
    of_phase: int | None = phase.get("patience")
    holds: list[tuple[str | None, int | None, str]] = [(None, of_phase, verdict.detail)]
    if verdict.reason is Hold.EXTERNAL:
        own: dict[str, int | None] = {gate["name"]: gate.get("patience") for gate in phase["external"]}
        holds = [(name, own[name] or of_phase, detail) for name, detail in waiting.items()]
    for gate, patience, detail in holds:
        if patience is not None and now >= since + patience:
            yield HoldOutlasted(
                phase=number,
                reason=str(verdict.reason),
                detail=detail,
                gate=gate,
                gate_epoch=gate_epoch,
                since=since,
                at=now,
                patience=patience,
                matured=verdict.n,
                failures=verdict.f,
                log_e=verdict.log_e,
                limit=verdict.limit,
            )
