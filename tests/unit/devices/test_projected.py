from __future__ import annotations

import asyncio

import pytest

from api.devices import projected
from api.devices.projected import ProjectionWatch


class Positions:
    """A projection that a test moves."""

    def __init__(self) -> None:
        self.at: dict[int, int] = {}
        self.asked = 0
        self.error: Exception | None = None

    async def __call__(self) -> dict[int, int]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.at


@pytest.fixture
def positions() -> Positions:
    return Positions()


@pytest.fixture
def watch(positions: Positions) -> ProjectionWatch:
    return ProjectionWatch(positions, pause=0.001)


async def test_a_record_is_passed_when_the_next_offset_is_beyond_it(positions: Positions, watch: ProjectionWatch):
    positions.at = {3: 10}
    assert await watch.passed(3, 9, timeout=5)
    assert not await watch.passed(3, 10, timeout=0.02)
    assert not await watch.passed(4, 0, timeout=0.02), "another partition"


async def test_all_who_wait_are_served_by_one_look_and_each_by_its_own_offset(
    positions: Positions, watch: ProjectionWatch
):
    waiting = [asyncio.create_task(watch.passed(1, offset, timeout=5)) for offset in range(100)]
    positions.at[1] = 50
    assert await asyncio.gather(*waiting[:50]) == [True] * 50
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting[50:])
    positions.at[1] = 100
    assert await asyncio.gather(*waiting[50:]) == [True] * 50


async def test_nobody_looks_while_nobody_waits(positions: Positions, watch: ProjectionWatch):
    assert not await watch.passed(1, 0, timeout=0.01)
    assert watch._watcher is not None
    await watch._watcher
    asked = positions.asked
    await asyncio.sleep(0.01)
    assert positions.asked == asked
    positions.at[1] = 1
    assert await watch.passed(1, 0, timeout=5), "and it begins again"


async def test_a_database_that_is_away_is_waited_for(
    positions: Positions, watch: ProjectionWatch, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(projected, "ERROR_PAUSE", 0.001)
    positions.error = ConnectionRefusedError()
    positions.at[1] = 1
    waiting = asyncio.create_task(watch.passed(1, 0, timeout=5))
    while not positions.asked:  # noqa: ASYNC110 (what is waited for happens in another task of this loop)
        await asyncio.sleep(0)
    assert not waiting.done()
    positions.error = None
    assert await waiting
