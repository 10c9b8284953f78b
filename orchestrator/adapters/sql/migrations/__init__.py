"""Schema migrations and how to run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from orchestrator.adapters.sql.engine import make_engine

_LOCK = 7000


def _config(**attributes: Any) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes.update(attributes)
    return config


def head_revision() -> str:
    """The revision that this code expects."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _current(connection: Connection) -> str:
    return MigrationContext.configure(connection).get_current_revision() or ""


async def migrate(url: str) -> str:
    """Bring the database at ``postgresql://…`` to the head revision and return it. Two at once wait for each other."""
    engine = make_engine(url, pool_size=1, application="ota-migrate")
    try:
        async with engine.begin() as conn:
            await conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            await conn.run_sync(lambda sync: command.upgrade(_config(connection=sync), "head"))
            return await conn.run_sync(_current)
    finally:
        await engine.dispose()
