"""What people see while it runs: steps with their time, and one live line per campaign; on a pipe a plain line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.demo.facts import Progress

LINE_EVERY: Final = 5.0
"""Seconds between two lines of progress where there is no terminal."""

_BAR_WIDTH: Final = 24


class Screen:
    """Prints to ``console``; times count from the creation."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def step(self, text: str) -> None:
        """Say that something has been done."""
        self.console.print(f"{self.seconds:7.1f} s  {text}", highlight=False, markup=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text, style="bold"))

    @contextmanager
    def watching(self, what: str, total: int) -> Iterator[Watch]:
        """Show the progress of something that concerns ``total`` devices."""
        if not self.console.is_terminal:
            yield Watch(self, what, total, None)
            return
        with Live(console=self.console, refresh_per_second=4, transient=True) as live:
            yield Watch(self, what, total, live)


class Watch:
    """Progress of one thing."""

    def __init__(self, screen: Screen, what: str, total: int, live: Live | None) -> None:
        self._screen = screen
        self._what = what
        self._total = total
        self._live = live
        self._printed_at = screen.seconds - LINE_EVERY
        self._last = ""

    def count(self, done: int, what: str) -> None:
        """So many devices are done."""
        self._show(done, f"{done} of {self._total} {what}")

    def campaign(self, now: Progress, phases: list[str]) -> None:
        """How far a campaign is."""
        phase = "enrolling" if now.phase < 0 else f"phase {phases[now.phase]} {now.phase_state}"
        states = ", ".join(f"{count} {state}" for state, count in now.states.items())
        ended = sum(now.states.values()) - now.in_flight
        self._show(ended, f"{now.state}, {phase}: {states or 'nothing offered yet'}")

    def _show(self, done: int, text: str) -> None:
        if self._live:
            row = Table.grid(padding=(0, 1))
            bar = ProgressBar(total=self._total, completed=done, width=_BAR_WIDTH)
            row.add_row(f"{self._screen.seconds:7.1f} s ", self._what, bar, text)
            self._live.update(row)
            return
        if text != self._last and self._screen.seconds - self._printed_at >= LINE_EVERY:
            self._printed_at, self._last = self._screen.seconds, text
            self._screen.step(f"{self._what}: {text}")
