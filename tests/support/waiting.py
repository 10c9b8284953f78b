"""Waiting for what another task or process will do, without guessing how long it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable

PATIENCE = 45.0
"""Seconds until a condition that is not met counts as a failure."""


async def until(met: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return once ``met`` is true; it may be a coroutine function."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = met()
            if await found if isawaitable(found) else found:
                return
            await asyncio.sleep(0.02)
