"""Crashes on purpose: projector, worker and gateway are killed in turn while campaigns run; their supervisor starts them again."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Final

VICTIMS: Final = ("projector", "worker", "gateway")

PAUSE: Final = (6.0, 11.0)
"""Seconds from a role's return to the next kill. A gateway that is away for longer than the confirm deadline would silence healthy
devices: that is an outage, not a crash."""


class Chaos:
    """Kills until it is cancelled. Every role dies once before one dies twice; the order comes from ``seed``.

    ``crash`` kills a role and returns when it is back.
    """

    def __init__(self, crash: Callable[[str], None], seed: int, say: Callable[[str], None]) -> None:
        self.kills: Counter[str] = Counter()
        self._crash = crash
        self._dice = random.Random(seed)  # noqa: S311 - which role dies next is no secret
        self._say = say

    async def run(self) -> None:
        """Kill, wait until the role is back, pause, and again."""
        while True:
            for name in self._dice.sample(VICTIMS, len(VICTIMS)):
                await asyncio.sleep(self._dice.uniform(*PAUSE))
                self.kills[name] += 1
                self._say(f"SIGKILL to {name} (number {self.kills.total()})")
                await asyncio.to_thread(self._crash, name)
