"""Imports go part by part: short under the log's lock, and completed by repeating them."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.registry import SqlRegistry
from orchestrator.app.devices import Devices, DuplicateDevicesError, NewDevice, PartlyImportedError
from orchestrator.app.ports import Meta
from schemas.registry_events import DevicesRegistered, HardwareModelCreated

ANN = Meta(actor="ann")


class Guarded(SqlRegistry):
    """Calls ``before`` with the number of each append of devices."""

    def __init__(self, engine, before):
        super().__init__(engine)
        self._before = before
        self._appends = itertools.count()

    async def record(self, stream, events, **how):
        if isinstance(events[0], DevicesRegistered):
            await self._before(next(self._appends))
        return await super().record(stream, events, **how)


@pytest.fixture
async def registry(engine):
    made = SqlRegistry(engine)
    event = HardwareModelCreated(name="m", profile={}, actor="ann")
    await made.record("hardware/m", [event], command_id="m", meta=ANN)
    return made


def devices(registry):
    return Devices(registry, max_devices=100, max_per_event=3)


def fleet(*numbers):
    return [
        NewDevice(device_id=f"dev-{number}", hardware_model="m", attributes={"n": str(number)}) for number in numbers
    ]


async def run(registry, new, command_id="c"):
    return await devices(registry).import_devices(new, issue_tokens=True, actor="ann", command_id=command_id)


async def registered(engine):
    async with transaction(engine) as conn:
        rows = await conn.fetch("SELECT device_id FROM device_identity JOIN device USING (device_no, device_id)")
        events = await conn.fetchval("SELECT count(*) FROM event_log WHERE type = 'DevicesRegistered'")
        return sorted(row["device_id"] for row in rows), events


async def test_every_part_is_an_append_of_its_own_and_the_answer_is_whole(engine, registry):
    made = await run(registry, fleet(*range(8)))
    assert [each.device_id for each in made] == [f"dev-{number}" for number in range(8)]
    assert all(each.token for each in made)
    assert await registered(engine) == ([f"dev-{number}" for number in range(8)], 3)


async def test_other_decisions_are_appended_between_two_parts(engine, registry):
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def pause(append):
        if append == 1:
            reached.set()
            await go_on.wait()

    importing = asyncio.create_task(run(Guarded(engine, pause), fleet(*range(5))))
    await reached.wait()
    event = HardwareModelCreated(name="other", profile={}, actor="ann")
    await registry.record("hardware/other", [event], command_id="other", meta=ANN)
    go_on.set()
    assert len(await importing) == 5


async def test_an_import_that_was_interrupted_is_completed_by_the_same_command(engine, registry):
    async def die(append):
        if append == 2:
            raise ConnectionError

    new = fleet(*range(8))
    with pytest.raises(ConnectionError):
        await run(Guarded(engine, die), new)
    assert await registered(engine) == ([f"dev-{number}" for number in range(6)], 2)
    made = await run(registry, new)
    assert [each.device_id for each in made] == [device.device_id for device in new]
    assert [each.token is not None for each in made] == [False] * 6 + [True] * 2
    assert await registered(engine) == ([f"dev-{number}" for number in range(8)], 3)
    again = await run(registry, new)
    assert [each.device_no for each in again] == [each.device_no for each in made]


async def test_the_same_command_twice_at_once_registers_every_device_once(engine, registry):
    new = fleet(*range(8))
    made = await asyncio.gather(run(registry, new), run(registry, new))
    assert [each.device_no for each in made[0]] == [each.device_no for each in made[1]]
    assert await registered(engine) == ([f"dev-{number}" for number in range(8)], 3)
    assert sum(each.token is not None for answer in made for each in answer) == 8


@pytest.mark.parametrize(
    ("taken", "error", "left"), [(1, DuplicateDevicesError, [1]), (7, PartlyImportedError, [0, 1, 2, 3, 4, 5, 7])]
)
async def test_a_device_that_somebody_else_registers_meanwhile_ends_the_import_at_its_part(
    engine, registry, taken, error, left
):
    async def interfere(append):
        if append == 0:
            await run(registry, fleet(taken), "theirs")

    with pytest.raises(error):
        await run(Guarded(engine, interfere), fleet(*range(8)))
    assert (await registered(engine))[0] == [f"dev-{number}" for number in left]
