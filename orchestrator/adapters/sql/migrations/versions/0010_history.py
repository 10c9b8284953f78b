"""What devices reported to run, kept with each report.

Revision ID: 0010
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("timeline", "fact_archive"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN version TEXT, ADD COLUMN digest TEXT")
