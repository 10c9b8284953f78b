"""The infrastructure breaker: its state, its hold on offers, and the outcomes that it counts.

Revision ID: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = """
ALTER TABLE campaign ADD COLUMN setbacks SMALLINT NOT NULL DEFAULT 0, ADD COLUMN breaker JSONB;

ALTER TABLE control ADD COLUMN hold TEXT, ADD COLUMN held_at BIGINT;

CREATE TABLE delivery (
    campaign_no INTEGER NOT NULL,
    bucket BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    shard INTEGER NOT NULL,
    n BIGINT NOT NULL,
    PRIMARY KEY (campaign_no, bucket, outcome, shard)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);
"""


def upgrade() -> None:
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
