"""Questions to the database that are asked together: while one group is being answered, the next one fills.

So the rate comes from the size of the groups and no timer adds latency. A group is asked only after all of its questions came, so
every answer is as new as the question. Questions that are alike share an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Grouped(Generic[K, V]):
    """One group at a time.

    Args:
        answer: answers a group. A question that is not in the result is answered None, and one whose answer is an exception fails.
        most: questions of one group.
    """

    def __init__(self, answer: Callable[[Sequence[K]], Awaitable[Mapping[K, V | Exception]]], most: int) -> None:
        self._answer = answer
        self._most = most
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: K) -> V | None:
        """Raises what ``answer`` has for this question, or raises for its group; other groups are not touched by it."""
        waiter = self._waiting.get(question)
        if waiter is None:
            waiter = self._waiting[question] = asyncio.get_running_loop().create_future()
            waiter.add_done_callback(_retrieve)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        # The shield: others may wait for the same answer.
        return await asyncio.shield(waiter)

    async def _run(self) -> None:
        try:
            while self._waiting:
                group = {question: self._waiting.pop(question) for question in list(self._waiting)[: self._most]}
                try:
                    answers = await self._answer(list(group))
                except BaseException as error:
                    for waiter in group.values():
                        waiter.set_exception(error)
                    if not isinstance(error, Exception):
                        raise
                else:
                    for question, waiter in group.items():
                        found = answers.get(question)
                        if isinstance(found, Exception):
                            waiter.set_exception(found)
                        else:
                            waiter.set_result(found)
        finally:
            self._task = None


def _retrieve(waiter: asyncio.Future[Any]) -> None:
    # Whoever asked may have gone; the error is no news then.
    if not waiter.cancelled():
        waiter.exception()
