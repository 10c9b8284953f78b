"""Alembic's entry: runs on the connection that ``migrate`` hands over, so the caller owns the transaction."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

from orchestrator.adapters.sql import tables  # noqa: F401  (declares the metadata)

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)
context.run_migrations()
