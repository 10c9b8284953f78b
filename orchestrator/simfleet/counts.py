"""What the fleet has done so far, for people and programs that watch it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec


class Counts(msgspec.Struct, kw_only=True):
    """Counters since the start. The first six tell work, the rest must stay small or zero."""

    devices: int = 0
    contacted: int = 0
    """Devices whose attributes the gateway has taken."""
    polls: int = 0
    reports: int = 0
    downloads: int = 0
    download_bytes: int = 0
    outcomes: dict[str, int] = msgspec.field(default_factory=Counter[str])
    """Ends of updates: confirmed, reverted, failed, cancelled, silent, withdrawn."""
    running: dict[str, int] = msgspec.field(default_factory=Counter[str])
    """Devices by the version they run."""
    updating: int = 0
    retries: int = 0
    """Requests repeated after a transport error, a 429 or a 5xx."""
    resumed_downloads: int = 0
    refused: dict[str, int] = msgspec.field(default_factory=Counter[str])
    """Reports the gateway will never take, by status; a device drops them."""
    stale_links: int = 0
    """Polls that still showed what an acknowledged report had ended: a client would install twice or loop."""
    lost_links: int = 0
    """Polls in trial that did not show the deployment: a restarted client would never report its verdict."""
    unreadable: int = 0
    """Answers that were not what DDI promises."""
    defects: int = 0
    """Devices whose simulation ended with an error; see the log."""

    def write(self, path: Path) -> None:
        """Replace a file, so that a reader never sees half of it."""
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(self))
        partial.replace(path)


def read_counts(path: Path) -> Counts:
    """What a running fleet last wrote; all zero before its first time."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Counts)
    except FileNotFoundError:
        return Counts()
