"""Why a campaign does not move: the conditions that hold it now, in the order in which they have to be dealt with.

:data:`CONDITIONS` is the one table: a code that stays, what it means, and the rule that finds it in a :class:`.view.View`. The order
is part of the contract: the first condition is the answer, those below would hold next. A new reason to wait is one more line there.

Invariants
- A condition is only said of what was read; whatever the reading cannot know is not guessed.
- Every campaign has at least one condition. One that nothing holds says what happens next.

Not here: reading (one snapshot, ``adapters/sql/explain``), devices (:mod:`.device`), times to come
(:mod:`orchestrator.domain.eta`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from orchestrator.domain.campaign import TERMINAL
from orchestrator.domain.explain import offers, phase, states
from orchestrator.domain.explain.view import Condition, Found, View


class Rule(NamedTuple):
    """A line of the table."""

    code: str
    meaning: str
    find: Callable[[View], Found | None]


CONDITIONS: Final = (
    Rule("why.draft", "not submitted", states.draft),
    Rule("why.submitted", "waits for approvals of its plan", states.submitted),
    Rule("why.quarantine", "its release was halted elsewhere after the approval", states.quarantine),
    Rule("why.not_launched", "approved, and nobody has launched it", states.not_launched),
    Rule("why.aborted", "ended by people", states.aborted),
    Rule("why.fleet_stopped", "the whole fleet is stopped", states.fleet),
    Rule("why.halted", "a halt rule, a gate or people stopped it; resuming needs an approval", states.halted),
    Rule("why.paused", "people hold it", states.paused),
    Rule("why.breaker.open", "infrastructure trouble, or silence of the log, holds offers", offers.breaker_open),
    Rule("why.breaker.probing", "a few offers find out whether the trouble is over", offers.breaker_probing),
    Rule("why.unattended", "deadlines are over and nobody deals with them", offers.unattended),
    Rule("why.enrolling", "the cohort is being taken up", offers.enrolling),
    Rule("why.schedule", "before its start, after its end, frozen, or outside its windows", offers.shut),
    Rule("why.opening", "the next phase opens", offers.opening),
    Rule("why.in_flight", "the in-flight cap is full", offers.cap),
    Rule("why.rate", "the rate of offers is used up", offers.rate),
    Rule("why.budget", "the exposure budget of those who wait is full", offers.budget),
    Rule("why.busy", "those who wait are in flight for other campaigns", offers.busy),
    Rule("why.outranked", "those who wait go to campaigns of higher priority first", offers.outranked),
    Rule("why.offering", "devices wait for their offer", offers.offering),
    Rule("why.retries", "devices pause before their next attempt", phase.retries),
    Rule("why.soak", "the phase soaks", phase.soak),
    Rule("why.soak_devices", "the soak waits for matured devices", phase.soak_devices),
    Rule("why.approval", "the phase waits for people", phase.approval),
    Rule("why.external", "the phase waits for an external gate", phase.external),
    Rule("why.strata", "a stratum has no matured device yet", phase.strata),
    Rule("why.evidence", "the promote test needs more matured devices", phase.evidence),
    Rule("why.under_way", "the last devices are under way", phase.under_way),
    Rule("why.withheld", "devices that their owners or the preconditions withhold", phase.withheld),
    Rule("why.completed", "it has ended well", phase.completed),
)
"""In the order in which they are asked."""

MOVING: Final = "why.moving"
"""Of a campaign that nothing holds; the last code, and not in the table because it is found by the absence of the others."""


def explain(view: View) -> list[Condition]:
    """What holds the campaign, the first condition first; those after it would hold next."""
    asked = ((rule.code, rule.find(view)) for rule in CONDITIONS)
    found = [
        Condition(code=code, detail=each.detail, data=each.data, remedy=each.remedy, until=each.until)
        for code, each in asked
        if each is not None
    ]
    if not found:
        ending = view.last and not view.is_open and view.campaign.state not in TERMINAL
        what = "It completes" if ending else "The phase promotes"
        found.append(Condition(code=MOVING, detail=f"Nothing holds it. {what} when the worker looks next."))
    return found
