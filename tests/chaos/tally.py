"""What all fault scenarios of a session found together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any


class Tally:
    """Deaths by place and findings by kind, summed over scenarios; what was found of planted defects counts apart."""

    def __init__(self) -> None:
        self.scenarios = 0
        self.kills: Counter[str] = Counter()
        self.findings: Counter[str] = Counter()
        self.facts = 0
        self.planted: Counter[str] = Counter()
        """Planted defect to what the oracle found of it."""

    def add(self, outcome: dict[str, Any]) -> None:
        """What ``Harness.judge`` reports."""
        if outcome["defect"]:
            self.planted[outcome["defect"]] += sum(outcome["findings"].values())
            return
        self.scenarios += 1
        self.kills.update(outcome["kills"])
        self.findings.update(outcome["findings"])
        self.facts += outcome["facts"]

    def lines(self, seed: int) -> Iterator[str]:
        """For people; the last line says it all."""
        for place, times in sorted(self.kills.items()):
            if times:
                yield f"{times:4d} kills  {place}"
        for defect, found in sorted(self.planted.items()):
            yield f"planted {defect}: {found} findings"
        found = self.findings
        other = found.total() - found["lost"] - found["doubled"] - found["misordered"] - found["after_halt"]
        yield (
            f"seed {seed}: {self.scenarios} scenarios, {self.facts} facts, {self.kills.total()} kills; {found['lost']} lost,"
            f" {found['doubled']} doubled, {found['misordered']} misordered, {found['after_halt']} offers after a halt, {other} other"
        )
