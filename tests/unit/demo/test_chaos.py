from __future__ import annotations

import asyncio
from collections import Counter

from orchestrator.demo import chaos
from orchestrator.demo.chaos import VICTIMS, Chaos


async def _killed(seed: int, kills: int, monkeypatch) -> list[str]:
    monkeypatch.setattr(chaos, "PAUSE", (0.0, 0.0))
    killed: list[str] = []
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()

    def crash(name: str) -> None:
        killed.append(name)
        if len(killed) >= kills:
            loop.call_soon_threadsafe(enough.set)

    task = asyncio.create_task(Chaos(crash, seed, lambda _: None).run())
    await enough.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return killed[:kills]


async def test_every_role_dies_once_before_one_dies_twice(monkeypatch):
    killed = await _killed(1, 9, monkeypatch)
    assert [Counter(killed[start : start + 3]) for start in (0, 3, 6)] == [Counter(VICTIMS)] * 3


async def test_the_order_follows_from_the_seed(monkeypatch):
    orders = {seed: tuple(await _killed(seed, 6, monkeypatch)) for seed in range(6)}
    assert orders[3] == tuple(await _killed(3, 6, monkeypatch))
    assert len(set(orders.values())) > 1
