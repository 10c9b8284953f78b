"""The fleet's record against the system's: what was acknowledged, what was stored, what was shown after a halt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orchestrator.demo.report import Events
from orchestrator.simfleet.truth import ACKNOWLEDGED, REVEALED, SENT, read_truth

_NS_PER_MS: Final = 1_000_000


@dataclass(slots=True)
class FleetEvidence:
    """The truth file in memory."""

    sent: set[str] = field(default_factory=set[str])
    acknowledged: set[str] = field(default_factory=set[str])
    revealed: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """(action id, time of the request in ns), the first per device and action."""

    @classmethod
    def read(cls, path: Path) -> FleetEvidence:
        evidence = cls()
        for line in read_truth(path):
            if line.what == SENT:
                evidence.sent.add(line.event_id)
            elif line.what == ACKNOWLEDGED:
                evidence.acknowledged.add(line.event_id)
            elif line.what == REVEALED:
                evidence.revealed.append((int(line.action), line.t))
        return evidence

    def revealed_after(self, campaign_id: str, halted_at: int, campaign_of_action: Mapping[int, str]) -> int:
        """Deployments of a campaign first shown in answer to requests sent after ``halted_at`` (ms since the epoch).

        A record's time is rounded down, so the first whole millisecond after it is where "after" begins.
        """
        after = (halted_at + 1) * _NS_PER_MS
        return sum(sent >= after and campaign_of_action.get(action) == campaign_id for action, sent in self.revealed)

    def compare(self, timeline: set[str], dead_letters: set[str]) -> Events:
        """What the devices know against what is stored."""
        stored = timeline | dead_letters
        return Events(
            acknowledged=len(self.acknowledged),
            projected=len(timeline),
            dead_letters=len(dead_letters),
            missing=len(self.acknowledged - stored),
            extra=len(stored - self.sent),
            unacknowledged=len((stored & self.sent) - self.acknowledged),
        )
