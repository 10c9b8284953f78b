"""The end of the demonstration, for people: what happened, what was checked, where to look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from orchestrator.demo.report import Expectation, Report, StoppedRun, stratum_label


def tell(console: Console, report: Report, checks: Iterable[Expectation]) -> None:
    """Print the story and the table of expectations."""
    console.print()
    console.print(Panel("\n\n".join(_story(report)), title="What happened", title_align="left", padding=(1, 2)))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("what must hold", ratio=1)
    table.add_column("found", ratio=1, overflow="fold")
    for check in checks:
        mark = Text("ok", style="green") if check.holds else Text("FAILED", style="bold red")
        table.add_row(mark, check.what, Text(check.found))
    console.print()
    console.print(table)
    setup = "" if report.setup_seconds is None else f" after {report.setup_seconds:.0f} s of set-up"
    console.print()
    console.print(
        f"{report.devices} devices, {report.seconds:.0f} s{setup}, {report.peak_pss_mb:.0f} MB for all processes together.",
        highlight=False,
    )


def _story(report: Report) -> Iterator[str]:
    good = report.good
    yield (
        f"The good release went out in phases, by itself: {good.confirmed} devices confirmed it in {good.seconds:.0f} s,"
        f" {good.failed} failed, {good.holdback} were held back to compare with."
    )
    yield f"The bad release was signed just as well, but some devices fail their self-test. {_halted(report.bad)}"
    yield f"The silent release makes the same devices stop talking in trial. {_halted(report.silent)}"
    events = report.events
    yield (
        f"The gateway acknowledged {events.acknowledged} reports; {events.missing} of them are missing from what is stored,"
        f" and {events.extra} are stored that no device sent."
    )
    if report.kills:
        killed = ", ".join(f"{name} {times}×" for name, times in sorted(report.kills.items()))
        yield f"Meanwhile these were killed with SIGKILL and came back: {killed}."


def _halted(run: StoppedRun) -> str:
    if run.halted_by is None:
        return f"It was not halted: it is {run.state}."
    told = (
        f"{'The gate' if run.halted_by == 'gate' else run.halted_by} halted it in phase '{run.phase}' after"
        f" {run.seconds:.0f} s, when {run.failures_at_halt} of {run.started_at_halt} started devices had failed and"
        f" {run.bound} were enough to halt"
    )
    if run.detection_seconds is not None:
        told += f", {run.detection_seconds * 1000:.0f} ms after the failure that crossed the bound"
    told += f". The strongest evidence is in {stratum_label(run.culprit)}. " if run.culprit else ". "
    return told + (
        f"{run.exposed} devices had started and {run.failures} of them failed in the end; {run.spared} were spared."
        f" After the halt: {run.offers_after_halt} offers, {run.starts_after_halt} starts,"
        f" {run.revealed_after_halt} images shown."
    )
