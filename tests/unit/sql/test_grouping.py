from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from orchestrator.adapters.sql.grouping import Grouped


class Database:
    """Answers each group when a test lets it: every number with its double, odd ones not at all."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.came = asyncio.Event()
        self.go = asyncio.Semaphore(0)
        self.errors: dict[int, Exception] = {}
        self.broken: BaseException | None = None

    async def __call__(self, group: Sequence[int]) -> Mapping[int, int | Exception]:
        self.asked.append(list(group))
        self.came.set()
        await self.go.acquire()
        if self.broken is not None:
            error, self.broken = self.broken, None
            raise error
        return {number: number * 2 for number in group if number % 2 == 0} | self.errors


@pytest.fixture
async def database() -> Database:
    return Database()


async def test_what_is_asked_meanwhile_is_one_group(database: Database):
    grouped = Grouped(database, 10)
    first = asyncio.create_task(grouped.ask(2))
    await database.came.wait()
    later = [asyncio.create_task(grouped.ask(number)) for number in (4, 5, 6)]
    await asyncio.sleep(0)
    database.go.release()
    assert await first == 4
    database.go.release()
    assert await asyncio.gather(*later) == [8, None, 12]
    assert database.asked == [[2], [4, 5, 6]]


async def test_a_question_that_is_under_way_is_asked_again(database: Database):
    grouped = Grouped(database, 10)
    early = asyncio.create_task(grouped.ask(2))
    await database.came.wait()
    late = [asyncio.create_task(grouped.ask(2)) for _ in range(2)]
    await asyncio.sleep(0)
    database.go.release()
    database.go.release()
    assert await asyncio.gather(early, *late) == [4, 4, 4]
    assert database.asked == [[2], [2]], "what was read before the question came is no answer to it"


async def test_no_group_is_larger_than_allowed(database: Database):
    grouped = Grouped(database, 2)
    asked = [asyncio.create_task(grouped.ask(number)) for number in (2, 4, 6)]
    for _ in range(2):
        database.go.release()
    assert await asyncio.gather(*asked) == [4, 8, 12]
    assert database.asked == [[2, 4], [6]]


async def test_a_failed_group_fails_for_everybody_in_it_and_for_nobody_else(database: Database):
    grouped = Grouped(database, 2)
    database.broken = OSError("away")
    asked = [asyncio.create_task(grouped.ask(number)) for number in (2, 4, 6)]
    for _ in range(2):
        database.go.release()
    one, other, third = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(one, OSError)
    assert isinstance(other, OSError)
    assert third == 12


async def test_one_answer_of_a_group_may_be_an_error(database: Database):
    grouped = Grouped(database, 10)
    database.errors = {2: OSError("away")}
    database.go.release()
    one, other = await asyncio.gather(grouped.ask(2), grouped.ask(4), return_exceptions=True)
    assert isinstance(one, OSError)
    assert other == 8


async def test_who_stops_waiting_takes_the_answer_from_nobody(database: Database):
    grouped = Grouped(database, 10)
    gone, stays = asyncio.create_task(grouped.ask(2)), asyncio.create_task(grouped.ask(2))
    await database.came.wait()
    gone.cancel()
    database.go.release()
    assert await stays == 4
    assert database.asked == [[2]]


async def test_after_a_failure_and_a_pause_it_goes_on(database: Database):
    grouped = Grouped(database, 10)
    database.broken = OSError("away")
    database.go.release()
    with pytest.raises(OSError, match="away"):
        await grouped.ask(2)
    database.go.release()
    assert await grouped.ask(4) == 8
