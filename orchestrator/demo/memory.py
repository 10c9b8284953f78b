"""Memory of the whole process tree: the sum of proportional set sizes, so that shared pages count once (Linux)."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Final, Self

import psutil

INTERVAL: Final = 2.0
"""Seconds between two samples: one of some 40 processes costs about 20 ms of CPU."""

_PSS: Final = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)


class PeakMemory:
    """Samples the tree of ``pid`` while it is entered; ``peak_mb`` is the highest sum seen so far."""

    def __init__(self, pid: int | None = None) -> None:
        self.peak_mb = 0.0
        self._root = psutil.Process(pid)
        self._done = Event()
        self._thread = Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(INTERVAL):
            self.peak_mb = max(self.peak_mb, tree_pss_mb(self._root))


def tree_pss_mb(root: psutil.Process) -> float:
    """Proportional set size of a process and all its descendants, in MiB."""
    processes = [root]
    with suppress(psutil.NoSuchProcess):
        processes += root.children(recursive=True)
    return sum(_pss_kib(process.pid) for process in processes) / 1024


def _pss_kib(pid: int) -> int:
    # A process may end between the listing and the look, and its own memory may be unreadable while it does.
    try:
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_bytes())
    except OSError:
        return 0
    return int(found[1]) if found else 0
