"""Components: several artifacts for one device in a release, and what became of each.

Revision ID: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SCHEMA = """
ALTER TABLE release ADD COLUMN components JSONB NOT NULL DEFAULT '{}';

ALTER TABLE timeline ADD COLUMN components JSONB;

ALTER TABLE fact_archive ADD COLUMN components JSONB;

CREATE TABLE component_state (
    device_no INTEGER NOT NULL,
    campaign_no INTEGER NOT NULL,
    name TEXT NOT NULL,
    attempt SMALLINT NOT NULL,
    outcome TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    failure_class TEXT,
    PRIMARY KEY (device_no, campaign_no, name)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE component_count (
    campaign_no INTEGER NOT NULL,
    name TEXT NOT NULL,
    outcome TEXT NOT NULL,
    shard INTEGER NOT NULL,
    n BIGINT NOT NULL,
    PRIMARY KEY (campaign_no, name, outcome, shard)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);
"""


def upgrade() -> None:
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
