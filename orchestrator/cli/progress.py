"""Progress of long work on standard error: a line that changes on a terminal, elsewhere a line now and then.

Where the end is known, a bar shows how near it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.live import Live
from rich.text import Text

from orchestrator.cli.output import Output

LINE_INTERVAL: Final = 10.0
"""Seconds between two lines where there is no terminal."""


BAR: Final = 20
"""Characters of a full bar."""


class Counting:
    """Shows how far named counts have come. Call it with a name, a number and, if it is known, where it will end."""

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._begun = clock()
        self._said = self._begun
        self._counts: dict[str, str] = {}
        terminal = output.err.is_terminal and not output.quiet
        self._live = Live(console=output.err, transient=True, refresh_per_second=8) if terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, what: str, n: int, of: int | None = None) -> None:
        """``n`` is how many there are by now, ``of`` how many there will be."""
        self._counts[what] = f"{n:,} {what}" if of is None else _bar(what, n, of)
        now = self._clock()
        if self._live:
            self._live.update(Text(self._line(now)))
        elif now - self._said >= LINE_INTERVAL:
            self._said = now
            self._output.say(self._line(now))

    def _line(self, now: float) -> str:
        return f"{now - self._begun:6.1f} s  {', '.join(self._counts.values())}"


def _bar(what: str, n: int, of: int) -> str:
    share = n / of if of else 1.0
    full = round(share * BAR)
    return f"{what} {'━' * full}{'╌' * (BAR - full)} {int(share * 100)} % of {of:,}"
