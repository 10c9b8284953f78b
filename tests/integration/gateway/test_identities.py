from __future__ import annotations

import asyncio
from hashlib import sha256

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import identities
from orchestrator.adapters.sql.engine import driver, make_engine
from orchestrator.adapters.sql.identities import KNOWN_TTL, MISMATCH_AGE, UNKNOWN_TTL, SqlIdentities
from orchestrator.adapters.sql.presence import PresenceWriter
from orchestrator.domain.assignment import State
from orchestrator.domain.profile import Client, Profile
from orchestrator.errors import UnavailableError


class Clock:
    """Seconds that pass when the test says so."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(engine: AsyncEngine, clock: Clock) -> SqlIdentities:
    return SqlIdentities(engine, clock=clock)


async def execute(engine: AsyncEngine, statement: str, *values: object) -> None:
    async with driver(engine) as conn:
        await conn.execute(statement, *values)


async def register(
    engine: AsyncEngine, device_no: int, device_id: str, token: str | None = "t", model: str = "m"
) -> None:
    digest = None if token is None else sha256(token.encode()).hexdigest()
    await execute(
        engine,
        "INSERT INTO device_identity (device_no, device_id, hardware_model, token_hash, registered_at)"
        " VALUES ($1, $2, $3, $4, 1)",
        device_no,
        device_id,
        model,
        digest,
    )


async def report_attributes(engine: AsyncEngine, device_no: int, at: int) -> None:
    await execute(
        engine,
        "INSERT INTO device (device_no, device_id, hardware_model, attributes, registered_at, reported_at)"
        " VALUES ($1, 'd', 'm', '{}', 1, $2) ON CONFLICT (device_no) DO UPDATE SET reported_at = $2",
        device_no,
        at,
    )


async def test_a_device_with_its_token_is_known_and_all_else_is_nobody(engine: AsyncEngine, registry: SqlIdentities):
    await register(engine, 7, "dev-1", "tök€n")
    await register(engine, 8, "tokenless", None)
    found = await registry.authenticate("dev-1", "tök€n")
    assert found is not None
    assert (found.device_no, found.device_id, found.hardware_model) == (7, "dev-1", "m")
    for device_id, token in [("dev-1", "x"), ("dev-1", ""), ("nobody", "tök€n"), ("tokenless", ""), ("a\0b", "t")]:
        assert await registry.authenticate(device_id, token) is None
        assert await registry.authenticate(device_id, token) is None, "from memory too"


async def test_devices_that_come_together_are_one_query(
    engine: AsyncEngine, registry: SqlIdentities, monkeypatch: pytest.MonkeyPatch
):
    queries: list[int] = []
    query = SqlIdentities._query

    async def counted(self: SqlIdentities, device_ids: list[str]):
        queries.append(len(device_ids))
        return await query(self, device_ids)

    monkeypatch.setattr(SqlIdentities, "_query", counted)
    for number in range(1, 41):
        await register(engine, number, f"dev-{number}")
    found = await asyncio.gather(*(registry.authenticate(f"dev-{n % 40 + 1}", "t") for n in range(200)))
    assert [identity.device_no for identity in found if identity] == [n % 40 + 1 for n in range(200)]
    assert queries == [40]
    await registry.authenticate("dev-1", "t")
    assert queries == [40], "what is known is not asked again"


async def test_a_withdrawn_token_stops_to_work_and_a_new_one_works_at_once(
    engine: AsyncEngine, registry: SqlIdentities, clock: Clock
):
    await register(engine, 7, "dev-1", "old")
    assert await registry.authenticate("dev-1", "old")
    await execute(engine, "UPDATE device_identity SET token_hash = $1", sha256(b"new").hexdigest())
    assert await registry.authenticate("dev-1", "new") is None
    clock.now += MISMATCH_AGE * 1.1
    assert await registry.authenticate("dev-1", "new")
    await execute(engine, "UPDATE device_identity SET token_hash = NULL")
    clock.now += KNOWN_TTL * 1.1
    assert await registry.authenticate("dev-1", "new") is None


async def test_a_device_that_is_registered_later_is_known_soon(
    engine: AsyncEngine, registry: SqlIdentities, clock: Clock
):
    assert await registry.authenticate("dev-1", "t") is None
    await register(engine, 7, "dev-1")
    assert await registry.authenticate("dev-1", "t") is None
    clock.now += UNKNOWN_TTL * 1.1
    assert await registry.authenticate("dev-1", "t")


async def test_the_profile_is_that_of_the_hardware_model(engine: AsyncEngine, registry: SqlIdentities):
    for name, profile in [("good", '{"client": "zephyr"}'), ("odd", '{"client": "abacus"}')]:
        await execute(
            engine, "INSERT INTO hardware_model (name, profile, created_at) VALUES ($1, $2, 1)", name, profile
        )
    for number, model in enumerate(["good", "odd", "absent"], start=1):
        await register(engine, number, model, model=model)
    profiles = {}
    for model in ("good", "odd", "absent"):
        identity = await registry.authenticate(model, "t")
        assert identity is not None
        profiles[model] = identity.profile
    assert profiles["good"].client is Client.ZEPHYR
    assert profiles["odd"] == profiles["absent"] == Profile()


async def test_attributes_are_wanted_until_they_were_reported_and_again_after_a_confirmed_update(
    engine: AsyncEngine, registry: SqlIdentities
):
    await register(engine, 7, "dev-1")

    async def wanted() -> bool:
        identity = await registry.authenticate("dev-1", "t", attributes=True)
        assert identity is not None
        return identity.attributes_wanted

    assert await wanted()
    await report_attributes(engine, 7, at=100)
    assert not await wanted(), "another gateway took them; this one looks again while they are wanted"
    for campaign, state, at in [(1, State.FAILED, 300), (2, State.CONFIRMED, 50), (3, State.CONFIRMED, 200)]:
        await execute(
            engine,
            "INSERT INTO assignment (device_no, campaign_no, phase, stratum, attempt, action_id, gate_epoch, offered_at,"
            " state, changed_at, progress) VALUES (7, $1, 0, 0, 1, 1, 1, 1, $2, $3, 'trial')",
            campaign,
            state.value,
            at,
        )
        registry.forget("dev-1")
        assert await wanted() is (campaign == 3)
    registry.attributes_reported("dev-1")
    assert not await wanted(), "what this gateway took itself is remembered"


async def test_memory_is_bounded(engine: AsyncEngine, registry: SqlIdentities, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(identities, "CACHE_SIZE", 3)
    await register(engine, 7, "dev-1")
    for number in range(10):
        await registry.authenticate("dev-1", "t")
        await registry.authenticate(f"nobody-{number}", "t")
    assert len(registry._entries) == 3
    assert "dev-1" in registry._entries, "who comes often stays"


async def test_a_database_that_is_away_is_an_error_and_not_a_refusal(unused_tcp_port: int):
    engine = make_engine(f"postgresql://ota@127.0.0.1:{unused_tcp_port}/ota")
    registry = SqlIdentities(engine)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="cannot be read"):
            await registry.authenticate("dev-1", "t")
    await engine.dispose()


# ---- presence


async def last_seen(engine: AsyncEngine) -> dict[int, int]:
    async with driver(engine) as conn:
        rows: list[asyncpg.Record] = await conn.fetch("SELECT device_no, last_seen_at FROM presence")
    return {row["device_no"]: row["last_seen_at"] for row in rows}


async def test_last_seen_times_are_written_once_per_device_and_never_go_back(engine: AsyncEngine):
    writer = PresenceWriter(engine, flush_ms=3_600_000)
    writer.start()
    for at in (10, 20, 30):
        writer.seen(1, at)
    writer.seen(2, 5)
    await writer.stop()
    assert await last_seen(engine) == {1: 30, 2: 5}
    late = PresenceWriter(engine, flush_ms=3_600_000)
    late.seen(1, 7)
    late.seen(2, 6)
    await late.stop()
    assert await last_seen(engine) == {1: 30, 2: 6}


async def test_they_are_written_while_it_runs(engine: AsyncEngine):
    writer = PresenceWriter(engine, flush_ms=1)
    writer.start()
    writer.seen(1, 10)
    while await last_seen(engine) != {1: 10}:  # noqa: ASYNC110 (the writer tells nobody)
        await asyncio.sleep(0.01)
    await writer.stop()


async def test_two_gateways_note_the_same_devices_without_locking_each_other_out(engine: AsyncEngine):
    writers = [PresenceWriter(engine, flush_ms=3_600_000) for _ in range(4)]
    for shift, writer in enumerate(writers):
        for number in range(2_000):
            writer.seen((number * 7919 + shift) % 2_000, 10 + shift)
    await asyncio.gather(*(writer.stop() for writer in writers))
    assert await last_seen(engine) == dict.fromkeys(range(2_000), 13)


async def test_what_could_not_be_written_is_kept(unused_tcp_port: int):
    engine = make_engine(f"postgresql://ota@127.0.0.1:{unused_tcp_port}/ota")
    writer = PresenceWriter(engine, flush_ms=3_600_000)
    writer.seen(1, 10)
    await writer.stop()
    assert writer._seen == {1: 10}
    await engine.dispose()
