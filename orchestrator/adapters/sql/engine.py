"""Connections. One engine per process; hot paths borrow the driver's own connection from the same pool.

``asyncpg`` is spoken directly where a transaction decides or projects, because the SQL there is fixed and its cost is measured;
SQLModel serves everything else. Its dialect's codecs hold on these connections too: JSONB is read as Python objects and written as
JSON text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

CONNECTION_ERRORS = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.CannotConnectNowError)
"""What a database that restarts looks like from here: the transaction is gone, trying again is right."""

RETRYABLE = (
    *CONNECTION_ERRORS,
    TimeoutError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientResourcesError,
)

_HOT_PLANS = {
    # Custom plans flip to hash joins over whole tables at large batches; see the performance notes.
    "plan_cache_mode": "force_generic_plan",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
}


def make_engine(
    url: str,
    *,
    pool_size: int = 5,
    hot: bool = False,
    application: str = "ota",
    search_path: str = "public",
    durable: bool = True,
) -> AsyncEngine:
    """An engine for ``postgresql://…``; ``hot`` pins plans to index lookups for projector and gateway connections.

    Not ``durable``: commits return before they are flushed, so a crash of the server loses the last of them. Only for what is made
    again from a checkpoint that commits with it.
    """
    parsed = make_url(url).set(drivername="postgresql+asyncpg")
    settings = {
        "application_name": application,
        "idle_in_transaction_session_timeout": "60000",
        "search_path": search_path,
        **({} if durable else {"synchronous_commit": "off"}),
    }
    return create_async_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=30,
        connect_args={
            "server_settings": {**settings, **(_HOT_PLANS if hot else {})},
            "command_timeout": 60,
            "timeout": 10,
        },
    )


@asynccontextmanager
async def driver(engine: AsyncEngine) -> AsyncGenerator[asyncpg.Connection]:
    """The driver's connection, outside any transaction. A connection that broke is not given back to the pool."""
    async with engine.connect() as conn:
        raw = (await conn.get_raw_connection()).driver_connection
        if raw is None or raw.is_closed():
            await conn.invalidate()
            raw = (await conn.get_raw_connection()).driver_connection
        assert raw is not None
        try:
            yield raw
        finally:
            if raw.is_closed():
                await conn.invalidate()


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncGenerator[asyncpg.Connection]:
    """One READ COMMITTED transaction on the driver's connection."""
    async with driver(engine) as conn, conn.transaction():
        yield conn
