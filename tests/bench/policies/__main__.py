"""Runs every cell and writes the table: ``python -m tests.bench.policies [--runs N] [--seed S] [--json FILE] [--write]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

from tests.bench.policies.policy import FLEET, policies
from tests.bench.policies.report import document
from tests.bench.policies.simulate import Release, campaign

RUNS: Final = 1_000
SEED: Final = 20_261_121
CAPS: Final = (FLEET, 500, 100)
"""In flight at most; the first is no cap."""
RELEASES: Final = (
    *(Release(p, minutes) for minutes in (5.0, 60.0) for p in (0.002, 0.01, 0.04, 0.06, 0.10, 0.30)),
    Release(0.30, 0.0),
    Release(1.0, 0.0),
)
DOCUMENT: Final = Path(__file__).resolve().parents[3] / "deploy" / "docs" / "halting.md"


@dataclass(frozen=True, slots=True)
class Cell:
    """What the runs of one policy, cap and release came to. Medians are over the runs they name; None where there are none."""

    policy: str
    cap: int
    p: float
    fail_minutes: float
    runs: int
    halted: int
    held: int
    completed: int
    started_at_halt: float | None
    started_at_hold: float | None
    started_when_stopped: float | None
    hours_to_complete: float | None
    hours_to_stop: float | None


def _cell(job: tuple[int, int, Release, int, int]) -> Cell:
    number, cap, release, runs, seed = job
    policy = policies()[number]
    # A seed of its own for every run, so that any one can be looked at again; the same devices for every policy and cap.
    outcomes = [
        campaign(policy, release, cap, Random(f"{seed} {release.p} {release.fail_minutes} {run}"))
        for run in range(runs)
    ]

    def middle(values: Iterator[float]) -> float | None:
        found = list(values)
        return median(found) if found else None

    halted = [outcome for outcome in outcomes if outcome.end == "halted"]
    held = [outcome for outcome in outcomes if outcome.end == "held"]
    done = [outcome for outcome in outcomes if outcome.end == "completed"]
    return Cell(
        policy=policy.name,
        cap=cap,
        p=release.p,
        fail_minutes=release.fail_minutes,
        runs=runs,
        halted=len(halted),
        held=len(held),
        completed=len(done),
        started_at_halt=middle(float(outcome.started) for outcome in halted),
        started_at_hold=middle(float(outcome.started) for outcome in held),
        started_when_stopped=middle(float(outcome.started) for outcome in [*halted, *held]),
        hours_to_complete=middle(outcome.minutes / 60 for outcome in done),
        hours_to_stop=middle(outcome.minutes / 60 for outcome in halted),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name} too")
    given = parser.parse_args()
    jobs = [
        (number, cap, release, given.runs, given.seed)
        for number in range(len(policies()))
        for cap in CAPS
        for release in RELEASES
    ]
    begun = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        cells = list(pool.map(_cell, jobs))
    sys.stderr.write(
        f"seed {given.seed}, {given.runs} runs of each of {len(cells)} cells, {time.monotonic() - begun:.0f} s\n"
    )
    text = document(cells, given.runs, given.seed)
    sys.stdout.write(text)
    if given.json:
        found = {"seed": given.seed, "runs": given.runs, "cells": [asdict(cell) for cell in cells]}
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.write:
        DOCUMENT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
