"""A broker, a database and a fleet with offers, for tests that run the projector as a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from orchestrator.config import Settings
from schemas import device_events as d
from tests.support.world import T0, World

PATIENCE = 60.0
"""Seconds for what should take two; a loaded machine is no failure."""


@dataclass
class Site:
    world: World
    settings: Settings
    log: Path
    offers: dict[int, int]

    async def produce(self, values: list[tuple[str, bytes]]) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.settings.kafka_bootstrap, acks="all", enable_idempotence=True
        )
        await producer.start()
        try:
            sent = [
                await producer.send(self.settings.device_events_topic, value, key=key.encode()) for key, value in values
            ]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    def facts(self, kinds: list[str], devices: list[tuple[int, int]]) -> list[tuple[str, bytes]]:
        for at, kind in enumerate(kinds):
            for device, action in devices:
                self.world.fact(device, action, kind, T0 + at, failure_class="transport" if kind == d.FAILED else None)
        made = [record.value for records in self.world.log.values() for record in records]
        for records in self.world.log.values():
            records.clear()
        return [(d.decode_event(value).subject, value) for value in made if value is not None]


async def eventually(check: Callable[[], Awaitable[Any]]) -> None:
    """Wait until ``check`` returns something true."""
    async with asyncio.timeout(PATIENCE):
        while not await check():  # noqa: ASYNC110  what it waits for happens in another process
            await asyncio.sleep(0.05)
