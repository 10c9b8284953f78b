"""The page that the simulation writes: ``deploy/docs/halting.md``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from tests.bench.policies.policy import DEADLINE, FLEET, PER_MINUTE, PHASES, RULES

if TYPE_CHECKING:
    from tests.bench.policies.__main__ import Cell

REFERENCE: Final[dict[tuple[int, float, float], int]] = {
    (FLEET, 5.0, 0.04): 1_734,
    (FLEET, 5.0, 0.06): 792,
    (FLEET, 5.0, 0.10): 436,
    (FLEET, 5.0, 0.30): 149,
    (FLEET, 60.0, 0.06): 4_485,
    (FLEET, 60.0, 0.10): 2_506,
    (FLEET, 60.0, 0.30): 852,
    (500, 60.0, 0.06): 1_577,
    (500, 60.0, 0.10): 966,
    (500, 60.0, 0.30): 525,
    (100, 60.0, 0.06): 566,
    (100, 60.0, 0.10): 306,
    (100, 60.0, 0.30): 117,
}
"""Devices started at the halt, median, of the same test in the simulation it was designed with: an independent program."""

HEALTHY: Final = (0.002, 0.01)


def document(cells: Sequence[Cell], runs: int, seed: int) -> str:
    """The whole page."""
    return "\n".join(_lines(cells, runs, seed)) + "\n"


def _lines(cells: Sequence[Cell], runs: int, seed: int) -> Iterator[str]:
    yield "# How halts behave"
    yield ""
    yield "Written by `python -m tests.bench.policies --write`; nothing on this page is typed by hand."
    yield ""
    yield (
        f"**Setting.** {FLEET:,} devices, {PER_MINUTE} starts a minute. Failures show after an exponential time (mean 5 or 60 min), "
        f"successes after 20 minutes and an exponential time of mean 20. What is not confirmed {DEADLINE / 60:.0f} h after its start "
        f"has failed. {runs:,} runs per cell, seed {seed}; the same devices for every policy and cap. K is the in-flight cap."
    )
    yield ""
    yield "**Policies.** All look after every report."
    yield ""
    rules = "; ".join(f"{rule['scope']} p0 {rule['p0']:g}, alpha {rule['alpha']:g}" for rule in RULES)
    phases = "; ".join(_phase(phase) for phase in PHASES)
    yield f"- **default**: {phases}. Halt rules: {rules}; together alpha is 0.01."
    yield "- **rule alone**: one phase, one halt rule (p0 0.02, alpha 0.01), no promote test: what the statistics promise alone."
    yield "- **5 % of completed after 100**: what peers do. It sees the quick failures first, so it halts whatever fails quickly."
    yield ""
    yield (
        "*Held* is the third verdict: nothing is under way, the phase's promote test does not rule out what it has to, and the gate"
        " waits for people. Nothing more is offered meanwhile."
    )
    for minutes in (5.0, 60.0):
        yield ""
        yield f"## Healthy releases, failures after {minutes:g} minutes"
        yield ""
        yield "| policy | K | true rate | false halts | held | completed unaided | median hours to complete |"
        yield "|---|---|---|---|---|---|---|"
        for cell in cells:
            if cell.fail_minutes == minutes and cell.p in HEALTHY:
                yield (
                    f"| {cell.policy} | {_cap(cell.cap)} | {cell.p:.1%} | {_share(cell.halted, runs)} | {_share(cell.held, runs)}"
                    f" | {_share(cell.completed, runs)} | {_number(cell.hours_to_complete, 1)} |"
                )
        yield ""
        yield f"## Bad releases, failures after {minutes:g} minutes"
        yield ""
        yield (
            "| policy | K | true rate | halted | held | completed | devices started at the halt | reference | when stopped"
            " (halted or held) |"
        )
        yield "|---|---|---|---|---|---|---|---|---|"
        for cell in cells:
            if cell.fail_minutes == minutes and cell.p not in HEALTHY:
                reference = REFERENCE.get((cell.cap, cell.fail_minutes, cell.p))
                yield (
                    f"| {cell.policy} | {_cap(cell.cap)} | {cell.p:.0%} | {_share(cell.halted, runs)} | {_share(cell.held, runs)}"
                    f" | {_share(cell.completed, runs)} | {_number(cell.started_at_halt)} | {_number(reference)}"
                    f" | {_number(cell.started_when_stopped)} |"
                )
    yield ""
    yield "## Silent releases"
    yield ""
    yield (
        "Failing devices never report again. Their silence is known at the confirm deadline, so the first halt is possible"
        f" {DEADLINE / 60:.0f} h after the first starts; what limits the harm until then is the size of the first phase, or the cap."
    )
    yield ""
    yield "| policy | K | silent devices | halted | devices started at the halt | hours to the halt |"
    yield "|---|---|---|---|---|---|"
    for cell in cells:
        if not cell.fail_minutes:
            yield (
                f"| {cell.policy} | {_cap(cell.cap)} | {cell.p:.0%} | {_share(cell.halted, runs)} | {_number(cell.started_at_halt)}"
                f" | {_number(cell.hours_to_stop, 2)} |"
            )
    yield ""
    yield "## What must hold"
    yield ""
    for text, good in _promises(cells, runs):
        yield f"- {'holds' if good else '**does not hold**'}: {text}"


def _promises(cells: Sequence[Cell], runs: int) -> Iterator[tuple[str, bool]]:
    ours = [cell for cell in cells if cell.policy == "default"]
    healthy = [cell for cell in ours if cell.p in HEALTHY]
    worst = max(cell.halted for cell in healthy)
    yield (
        f"false halts of the default policy at 0.2 % and 1 %: at most {worst} of {runs} in any cell, alpha is 1 %.",
        worst <= runs / 100,
    )
    least = min(cell.completed for cell in healthy if cell.p == HEALTHY[0])
    yield f"0.2 % releases complete unaided: at least {least} of {runs} in any cell, wanted 99 %.", least >= 0.99 * runs
    known = [cell for cell in ours if (cell.cap, cell.fail_minutes, cell.p) in REFERENCE]
    limits = [(cell, REFERENCE[cell.cap, cell.fail_minutes, cell.p]) for cell in known]
    over = [cell for cell, limit in limits if (cell.started_when_stopped or 0) > limit]
    late = [cell for cell, limit in limits if (cell.started_at_halt or 0) > limit]
    text = f"devices started when a bad release is stopped, median: above the reference in {len(over)} of {len(known)} cells."
    yield text, not over
    named = "".join(f" (K {_cap(cell.cap)}, {cell.p:.0%}, {cell.fail_minutes:g} minutes)" for cell in late)
    yield (
        (
            f"the same of halted runs alone: above the reference in {len(late)} of {len(known)} cells{named}. There most are held in"
            " the canary, and this median is over the few that were lucky in it and halted later."
        ),
        not late,
    )
    going = max(cell.completed for cell in ours if cell.p not in HEALTHY and cell.fail_minutes)
    yield (
        f"bad releases that the default policy lets through to the end: at most {going} of {runs} in any cell.",
        going == 0,
    )
    silent = [cell for cell in ours if not cell.fail_minutes]
    alive = [cell for cell in silent if cell.halted < runs]
    yield f"silent releases halt: in all runs of {len(silent) - len(alive)} of {len(silent)} cells.", not alive


def _phase(phase: dict[str, object]) -> str:
    test = phase.get("promote")
    ruled = (
        f", promotes once a rate of {test['p1']:g} is ruled out (beta {test['beta']:g})"
        if isinstance(test, dict)
        else ""
    )
    return f"{phase['name']} {phase['percent']} %, soak {phase['soak']}{ruled}"


def _cap(cap: int) -> str:
    return "none" if cap >= FLEET else str(cap)


def _share(count: int, runs: int) -> str:
    return f"{count / runs:.1%}"


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
