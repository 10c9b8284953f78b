"""What is judged, what was found, and what the checks have worked out so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.retelling import Action, History, Key
from tests.support.witnesses import Flash, LogRecord, Rows, Truth

KINDS = {
    "lost": "acknowledged or logged, and not (or no longer) there",
    "doubled": "there twice, or there without having happened",
    "misordered": "out of the order in which it was said or decided",
    "after_halt": "offered or started while the log says that nothing may be",
    "offered_twice": "a device offered twice in one attempt, or by two campaigns at once",
    "slot": "a device's slot or flash that is not as its assignment says",
    "differs": "a row or counter that does not follow from the two logs",
    "unhalted": "a halt rule that was crossed without a halt, or a halt without a crossing",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the oracle judges. ``flash`` and ``truth`` may be left out where no devices were simulated."""

    tables: Mapping[str, Rows]
    records: Sequence[LogRecord]
    truth: Truth = field(default_factory=Truth)
    flash: Mapping[str, Flash] = field(default_factory=dict)
    factory: str = ""
    """Version that every device left the factory with."""
    told: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(campaign id, event type) to how often somebody was told that their command is done; of the campaigns they wrote."""


@dataclass(slots=True)
class Verdict:
    """Findings by kind."""

    findings: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    facts: int = 0
    assignments: int = 0

    def note(self, kind: str, what: str) -> None:
        self.findings[kind].append(what)

    @property
    def counts(self) -> dict[str, int]:
        return {kind: len(found) for kind, found in self.findings.items()}

    @property
    def clean(self) -> bool:
        return not any(self.findings.values())

    def __str__(self) -> str:
        lines = [f"{self.facts} facts, {self.assignments} assignments: " + _counted(self.counts)]
        lines += [f"  {kind}: {what}" for kind, found in self.findings.items() for what in found[:5]]
        return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in counts.items())


class Case:
    """One judgement; the checks are the functions of the other modules, in the order of ``judge``."""

    def __init__(self, evidence: Evidence, verdict: Verdict) -> None:
        self.evidence, self.verdict, self.tables = evidence, verdict, evidence.tables
        self.note = verdict.note
        self.actions: dict[int, Action] = {}
        self.histories: dict[Key, History] = {}
        self.rows: dict[Key, dict[str, Any]] = {}
        self.started: set[int] = set()
        """Action ids."""
        self.stored_ids: dict[str, tuple[int, int]] = {}
        """Event id to (partition, offset) of its first record."""
        self.names = {row["device_id"]: row["device_no"] for row in self.tables["device_identity"]}
        self.streams: dict[str, Rows] = defaultdict(list)
        self.campaigns: dict[int, str] = {}
        for row in self.tables["event_log"]:
            self.streams[row["stream"]].append(row)
            if row["type"] == "CampaignCreated":
                self.campaigns[row["data"]["campaign_no"]] = row["stream"]

    def halted_alone(self, campaign: int) -> dict[int, Mapping[str, Any]]:
        """Number of each stratum that was halted while the others went on, and the event that says so."""
        halts = [row["data"] for row in self.streams[self.campaigns[campaign]] if row["type"] == "StratumHalted"]
        return {sorted(self.dossier(campaign)["strata"]).index(halt["stratum"]): halt for halt in halts}

    def dossier(self, campaign: int) -> dict[str, Any]:
        return next(
            row["data"]["dossier"]
            for row in self.streams[self.campaigns[campaign]]
            if row["type"] == "CampaignSubmitted"
        )

    def release(self, release_id: str) -> str:
        return next(row["version"] for row in self.tables["release"] if row["release_id"] == release_id)


def of(key: Key) -> str:
    """The assignment, for people."""
    return f"device {key[1]} in campaign {key[0]}"
