"""External gates: people or machines outside, such as a laboratory, whose verdict a phase waits for.

A phase promotes only after each of its external gates has said *promote* in the running gate epoch; of several verdicts of one gate
the last counts. A gate that holds, or has not spoken, holds the phase; one that halts, halts the campaign. After a halt and its resume
every gate of the phases that are not promoted is asked anew.

Not here: who may speak for a gate, and how it is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from orchestrator.domain.actors import RESERVED
from orchestrator.domain.plan_fields import Deadline, Name, PlanModel
from schemas.campaign_events import ExternalVerdictGiven

MAX_EXTERNAL: Final = 10
"""External gates of a phase: each is a party that has to be asked."""


MAX_VERDICTS: Final = 100
"""Verdicts of one gate on one phase in one gate epoch. Every decision folds the campaign's whole stream, so what a bench says again
and again would make all of them slower, a halt too."""


def _own_name(value: str) -> str:
    # A halt by a gate bears its name, so it must not be one of ours.
    if value in RESERVED:
        raise PydanticCustomError(
            "plan.external.name", "'{name}' is what the system calls itself in the log.", {"name": value}
        )
    return value


class ExternalGate(PlanModel):
    """A party outside whose verdict the phase needs."""

    name: Annotated[Name, AfterValidator(_own_name)]
    patience: Deadline | None = None
    """How long it may hold the phase up before people are told; the phase's patience if there is none."""


def gate_names(phase: Mapping[str, Any]) -> list[str]:
    """External gates of a phase of a canonical plan; plans of before there were any have none."""
    return [gate["name"] for gate in phase.get("external", ())]


def missing(phase: Mapping[str, Any], number: int, given: Iterable[ExternalVerdictGiven]) -> dict[str, str]:
    """External gates that keep the phase from promoting, in the plan's order: name to what is waited for, as a sentence.

    Args:
        phase: of the canonical plan.
        number: of that phase.
        given: verdicts of the running gate epoch, the oldest first.
    """
    last = {verdict.gate: verdict for verdict in given if verdict.phase == number}
    found: dict[str, str] = {}
    for name in gate_names(phase):
        verdict = last.get(name)
        if verdict is None:
            found[name] = f"The phase waits for the verdict of the external gate '{name}'."
        elif verdict.verdict != "promote":
            found[name] = f"The external gate '{name}' says {verdict.verdict}: {verdict.reason}"
    return found


def latest(given: Sequence[ExternalVerdictGiven], verdict: ExternalVerdictGiven) -> tuple[ExternalVerdictGiven, ...]:
    """``given`` with this verdict in the place of an earlier one of the same gate and phase."""
    rest = (each for each in given if (each.phase, each.gate) != (verdict.phase, verdict.gate))
    return (*rest, verdict)
