"""Accepted losses of the log of facts: where devices were last seen, and what is left of the facts that had been read.

Revision ID: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = """
ALTER TABLE decision_ledger ADD COLUMN seen TEXT;

CREATE TABLE fact_archive (
    partition INTEGER NOT NULL,
    loss INTEGER NOT NULL,
    "offset" BIGINT NOT NULL,
    device_no INTEGER NOT NULL,
    campaign_no INTEGER,
    attempt SMALLINT,
    gate_epoch SMALLINT,
    event_id TEXT NOT NULL,
    type TEXT NOT NULL,
    recorded_at BIGINT NOT NULL,
    failure_class TEXT,
    reason TEXT,
    detail TEXT,
    twin JSONB,
    PRIMARY KEY (partition, loss, "offset")
);

CREATE INDEX fact_archive_device ON fact_archive (device_no, recorded_at);

CREATE TABLE dead_letter_archive (
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    loss INTEGER NOT NULL,
    "offset" BIGINT NOT NULL,
    code TEXT NOT NULL,
    detail TEXT NOT NULL,
    event_id TEXT,
    key BYTEA,
    value BYTEA NOT NULL,
    recorded_at BIGINT NOT NULL,
    PRIMARY KEY (topic, partition, loss, "offset")
);
"""


def upgrade() -> None:
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
