"""What the batch transport puts in the place of Faust's account of single messages."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from orchestrator.stream.transport import BatchConsumer

HERE = TP("t", 0)


class App:
    """As much of an app as a hand-over looks at."""

    def __init__(self) -> None:
        self.inlet = asyncio.Queue[int](1)
        self.flow_control = self
        self.active = True

    def is_active(self) -> bool:
        return self.active


@pytest.fixture
def consumer(monkeypatch) -> Any:
    made: Any = BatchConsumer.__new__(BatchConsumer)
    made.app = App()
    made._acked = defaultdict(list)
    made._acked_index = defaultdict(set)
    made.slow = 0

    async def slowly(self: Any, *coros: Any, timeout: Any = None) -> Any:
        del timeout
        self.slow += 1
        for coro in coros:
            coro.close()

    monkeypatch.setattr(driver.Consumer, "wait_first", slowly)
    return made


def test_what_is_committed_follows_the_last_acknowledged_batch_whatever_lay_between(consumer):
    assert consumer._new_offset(HERE) is None
    for last in (99, 4_000, 4_001):
        consumer._acked[HERE].append(last)
        consumer._acked_index[HERE].add(last)
    assert consumer._new_offset(HERE) == 4_002
    assert consumer._new_offset(HERE) is None
    assert not consumer._acked_index[HERE]


async def test_with_room_a_delivery_is_handed_in_without_a_task(consumer):
    handed: list[asyncio.Task[Any] | None] = []

    async def hand_in() -> None:
        handed.append(asyncio.current_task())

    await consumer.wait_first(hand_in(), asyncio.Event().wait())
    assert (handed, consumer.slow) == ([asyncio.current_task()], 0)


@pytest.mark.parametrize("why", ["full", "suspended", "no stream"])
async def test_without_room_a_rebalance_can_still_wake_who_waits(consumer, why):
    if why == "full":
        consumer.app.inlet.put_nowait(1)
    elif why == "suspended":
        consumer.app.active = False
    else:
        consumer.app.inlet = None
    await consumer.wait_first(asyncio.sleep(0), asyncio.Event().wait())
    assert consumer.slow == 1
