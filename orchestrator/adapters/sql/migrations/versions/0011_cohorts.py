"""Continuous membership: how far the fleet was looked at, who may not join, and a way to a campaign's members.

Revision ID: 0011
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SCHEMA = """
CREATE INDEX decision_ledger_enrol ON decision_ledger (campaign_no) WHERE kind = 'enrol';

CREATE TABLE late_look (
    campaign_no INTEGER NOT NULL,
    scan_after INTEGER,
    events BIGINT NOT NULL,
    facts JSONB NOT NULL,
    next_look_at BIGINT NOT NULL,
    refused JSONB NOT NULL,
    PRIMARY KEY (campaign_no)
) WITH (fillfactor = 30);

CREATE TABLE late_refusal (
    campaign_no INTEGER NOT NULL,
    device_no INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (campaign_no, device_no)
);
"""


def upgrade() -> None:
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
