"""A lane applies everything that is delivered, once, in order, in transactions of bounded size."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.adapters.sql.facts import Delivery
from orchestrator.stream.lanes import ROOM, Lane

BATCH = 10


@dataclass(frozen=True)
class LogRecord:
    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def deliveries(*sizes: int) -> list[Delivery]:
    """Of one partition, chained, of these many records each."""
    made: list[Delivery] = []
    at = 0
    for size in sizes:
        made.append(Delivery(0, [LogRecord(at + i) for i in range(size)], previous=at))
        at += size
    return made


class Database:
    """Where a lane's transactions arrive; each waits until it is let go."""

    def __init__(self, *, free: bool = True) -> None:
        self.begun: list[Sequence[Delivery]] = []
        self.done = 0
        self.free = asyncio.Event()
        self._changed = asyncio.Event()
        if free:
            self.free.set()

    async def apply(self, taken: Sequence[Delivery]) -> None:
        self.begun.append(taken)
        self._changed.set()
        await self.free.wait()
        self.done += 1
        self._changed.set()

    async def until(self, records: int) -> None:
        """Wait until transactions with this many records in all have begun."""
        while sum(self.sizes) < records:
            self._changed.clear()
            await self._changed.wait()

    @property
    def sizes(self) -> list[int]:
        return [sum(len(item.records) for item in taken) for taken in self.begun]


@given(st.lists(st.integers(1, 3 * BATCH), min_size=1, max_size=20))
async def test_every_record_is_applied_once_in_order_and_chained(sizes):
    database = Database()
    lane = Lane(database.apply, batch=BATCH, linger=0)
    for delivery in deliveries(*sizes):
        await lane.put(delivery)
    await database.until(sum(sizes))
    await lane.stop()
    applied = [item for taken in database.begun for item in taken]
    assert [record.offset for item in applied for record in item.records] == list(range(sum(sizes)))
    assert applied[0].previous == 0
    assert all(after.previous == before.next_offset for before, after in pairwise(applied))
    assert max(database.sizes) <= BATCH


async def test_what_comes_while_a_transaction_is_under_way_is_applied_in_the_next_one():
    database = Database(free=False)
    lane = Lane(database.apply, batch=BATCH, linger=0)
    first, *others = deliveries(1, 2, 3, 4)
    await lane.put(first)
    await database.until(1)
    for delivery in others:
        await lane.put(delivery)
    database.free.set()
    await database.until(10)
    assert database.sizes == [1, 9]
    await lane.stop()


async def test_a_full_lane_does_not_linger_and_one_that_lingers_fills_up():
    database = Database()
    lane = Lane(database.apply, batch=BATCH, linger=3_600)
    for delivery in deliveries(BATCH - 1, 2):
        await lane.put(delivery)
    await database.until(BATCH)
    assert database.sizes == [BATCH]
    await lane.stop()


async def test_a_lane_does_not_wait_for_another():
    stuck, free = Database(free=False), Database()
    lanes = [Lane(database.apply, batch=BATCH, linger=0) for database in (stuck, free)]
    for lane in lanes:
        await lane.put(deliveries(1)[0])
    await stuck.until(1)
    await free.until(1)
    await lanes[1].stop()
    assert (stuck.done, free.done) == (0, 1)
    stuck.free.set()
    await lanes[0].stop()


async def test_whoever_delivers_waits_while_the_lane_is_full():
    database = Database(free=False)
    lane = Lane(database.apply, batch=BATCH, linger=0)
    *fitting, beyond = deliveries(*[BATCH] * (ROOM + 2))
    await lane.put(fitting[0])
    await database.until(BATCH)
    for delivery in fitting[1:]:
        await lane.put(delivery)
    delivering = asyncio.create_task(lane.put(beyond))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not delivering.done()
    database.free.set()
    await delivering
    await database.until(BATCH * (ROOM + 2))
    await lane.stop()


async def test_a_lane_that_stops_lets_its_transaction_end_and_begins_no_other():
    database = Database(free=False)
    lane = Lane(database.apply, batch=BATCH, linger=0)
    for delivery in deliveries(BATCH, BATCH):
        await lane.put(delivery)
    await database.until(BATCH)
    stopping = asyncio.create_task(lane.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    database.free.set()
    await stopping
    assert (database.sizes, database.done) == ([BATCH], 1)


@pytest.mark.parametrize("again", [1, BATCH])
async def test_what_waited_when_a_lane_stopped_is_applied_before_what_comes_later(again):
    database = Database(free=False)
    lane = Lane(database.apply, batch=BATCH, linger=0)
    first, second, third = deliveries(BATCH, BATCH, again)
    await lane.put(first)
    await database.until(BATCH)
    await lane.put(second)
    stopping = asyncio.create_task(lane.stop())
    await asyncio.sleep(0)
    database.free.set()
    await stopping
    await lane.put(third)
    await database.until(2 * BATCH + again)
    await lane.stop()
    assert [taken[0].previous for taken in database.begun] == [0, BATCH, 2 * BATCH]


async def test_no_transaction_begins_while_somebody_claims():
    database = Database()
    lane = Lane(database.apply, batch=BATCH, linger=0)
    async with lane.lock:
        await lane.put(deliveries(1)[0])
        for _ in range(10):
            await asyncio.sleep(0)
        assert database.begun == []
    await database.until(1)
    await lane.stop()
