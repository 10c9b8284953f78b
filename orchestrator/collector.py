"""Python's garbage collector in roles that make many short-lived objects.

A request or a batch is hundreds of objects without cycles, freed by their reference counts. Looking for cycles among them, and each
time among everything the process has loaded, took half of a gateway's CPU with pauses of a quarter of a second.
"""

from __future__ import annotations

import gc
from typing import Final

THRESHOLDS: Final = (50_000, 20, 20)
"""Objects more than were freed, after which the youngest are looked at; and how many looks at one generation make one at the next.
Cycles are still found, after tens of MB at most."""


def spare_collector() -> None:
    """Call once, when everything is loaded: what is there now stays for good, so it is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
