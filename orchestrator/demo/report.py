"""The machine-readable report, and what must hold of it. Other tools read the fields: add, do not rename."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from orchestrator.demo.scenario import BAD_REVISION, Play

MOST_MEMORY_MB: Final = 4096
"""All processes together."""


class GoodRun(msgspec.Struct, kw_only=True):
    campaign_id: str
    state: str
    cohort: int
    confirmed: int
    failed: int
    holdback: int
    seconds: float
    """From the launch to the completion."""


class StoppedRun(msgspec.Struct, kw_only=True):
    campaign_id: str
    state: str
    halted_by: str | None = None
    phase: str | None = None
    rule: str | None = None
    scope: str | None = None
    started_at_halt: int | None = None
    failures_at_halt: int | None = None
    bound: int | None = None
    """The fewest failures among ``started_at_halt`` devices that halt."""
    culprit: str | None = None
    """The stratum with the strongest evidence."""
    cohort: int
    holdback: int
    exposed: int
    """Devices that started."""
    failures: int
    """Devices with a release failure in the end, those included that were in flight at the halt."""
    spared: int
    """Cohort less exposed less holdback."""
    halt_position: int | None = None
    """Of the decision ledger."""
    offers_after_halt: int = 0
    starts_after_halt: int = 0
    revealed_after_halt: int = 0
    """Requests sent after the halt whose answer showed the deployment to a device for the first time."""
    detection_seconds: float | None = None
    """From the record of the crossing failure to that of the halt."""
    api_agrees: bool = True
    """The API tells the same numbers of the halt."""
    seconds: float


class Events(msgspec.Struct, kw_only=True):
    """Sets of statements, never counts of records."""

    acknowledged: int
    projected: int
    dead_letters: int
    missing: int
    """Acknowledged, but neither in the timeline nor among the dead letters."""
    extra: int
    """Stored, but never sent by any device."""
    unacknowledged: int
    """Stored and sent, but never answered 200: the answer was lost."""


class Invariants(msgspec.Struct, kw_only=True):
    counters_match: bool
    one_active_assignment: bool
    rebuild_equal: bool


class FleetRecord(msgspec.Struct, kw_only=True):
    """What the devices met with."""

    polls: int
    reports: int
    downloads: int
    retries: int
    resumed_downloads: int
    refused: int
    stale_links: int
    lost_links: int
    unreadable: int
    defects: int


class Report(msgspec.Struct, kw_only=True):
    devices: int
    seconds: float
    setup_seconds: float | None
    peak_pss_mb: float
    good: GoodRun
    bad: StoppedRun
    silent: StoppedRun
    events: Events
    invariants: Invariants
    fleet: FleetRecord
    forged_image_refused: bool
    kills: dict[str, int]
    """SIGKILLs by role; empty without chaos."""
    rebuild_differences: list[str]
    ok: bool = False


@dataclass(frozen=True, slots=True)
class Expectation:
    """Something that must hold, and what was found."""

    what: str
    holds: bool
    found: str


def expectations(report: Report, first_phase: str) -> Iterator[Expectation]:
    """Everything that must hold of a run, whatever was killed meanwhile."""
    good = report.good
    treated = good.cohort - good.holdback
    yield Expectation("the good release completes by itself", good.state == "completed", good.state)
    yield Expectation(
        "every device but the holdback confirms it",
        (good.cohort, good.confirmed, good.failed) == (report.devices, treated, 0),
        f"{good.confirmed} of {treated} confirmed, {good.failed} failed, {good.holdback} held back",
    )
    yield from _stopped(Play.BAD, report.bad, first_phase)
    yield from _stopped(Play.SILENT, report.silent, first_phase)
    events = report.events
    yield Expectation(
        "every acknowledged report is stored, and nothing else is",
        events.acknowledged > 0 and (events.missing, events.extra) == (0, 0),
        f"{events.acknowledged} acknowledged, {events.missing} missing, {events.extra} extra,"
        f" {events.unacknowledged} stored without an answer that arrived, {events.dead_letters} dead letters",
    )
    invariants = report.invariants
    yield Expectation("counters equal a count of the rows", invariants.counters_match, _yes(invariants.counters_match))
    one = invariants.one_active_assignment
    yield Expectation("no device has two assignments at once", one, _yes(one))
    yield Expectation(
        "a rebuild from the two logs gives the same rows",
        invariants.rebuild_equal,
        "; ".join(report.rebuild_differences[:3]) or _yes(invariants.rebuild_equal),
    )
    fleet = report.fleet
    yield Expectation(
        "devices read their own writes",
        (fleet.stale_links, fleet.lost_links, fleet.unreadable, fleet.defects) == (0, 0, 0, 0),
        f"{fleet.stale_links} stale links, {fleet.lost_links} lost links, {fleet.unreadable} unreadable answers,"
        f" {fleet.defects} defects in {fleet.polls} polls",
    )
    forged = report.forged_image_refused
    yield Expectation("an image signed by a stranger is refused", forged, _yes(forged))
    memory = report.peak_pss_mb
    yield Expectation("all processes stay below 4 GB", memory < MOST_MEMORY_MB, f"{memory:.0f} MB at the most")


def _stopped(play: Play, run: StoppedRun, first_phase: str) -> Iterator[Expectation]:
    yield Expectation(
        f"the {play} release halts by itself in phase '{first_phase}'",
        (run.state, run.halted_by, run.phase) == ("halted", "gate", first_phase),
        f"{run.state} by {run.halted_by or 'nobody'} in {run.phase or 'no phase'}",
    )
    yield Expectation(
        f"the halt of the {play} release names the hardware revision",
        (run.culprit or "").endswith(f"={BAD_REVISION}"),
        stratum_label(run.culprit) if run.culprit else "nothing",
    )
    yield Expectation(
        f"nothing of the {play} release starts after the halt",
        (run.offers_after_halt, run.starts_after_halt, run.revealed_after_halt) == (0, 0, 0),
        f"{run.offers_after_halt} offers, {run.starts_after_halt} starts, {run.revealed_after_halt} images revealed",
    )
    yield Expectation(f"the API tells the same of the {play} release", run.api_agrees, _yes(run.api_agrees))
    yield Expectation(
        f"most devices are spared the {play} release",
        0 < run.exposed < run.spared and 0 < run.failures < run.exposed,
        f"{run.exposed} exposed, {run.failures} of them failed, {run.spared} spared",
    )


def stratum_label(key: str) -> str:
    """A stratum for people: ``hardware_model=sensor-a,attribute.hw_revision=C`` is ``sensor-a, hw_revision C``."""
    parts = [part.rpartition("=") for part in key.split(",")]
    names = [(name.removeprefix("attribute."), value) for name, _, value in parts]
    return ", ".join(value if name == "hardware_model" else f"{name} {value}" for name, value in names)


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
