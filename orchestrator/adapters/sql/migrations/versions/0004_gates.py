"""Webhooks: endpoints, their secrets, and what is to be delivered to them.

Revision ID: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCHEMA = """
CREATE TABLE webhook (
    webhook_id TEXT NOT NULL,
    url TEXT NOT NULL,
    events TEXT[] NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    since BIGINT NOT NULL,
    removed_at BIGINT,
    PRIMARY KEY (webhook_id)
);

CREATE TABLE webhook_secret (
    webhook_id TEXT NOT NULL,
    secret TEXT NOT NULL,
    PRIMARY KEY (webhook_id)
);

CREATE TABLE webhook_delivery (
    webhook_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    message_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts SMALLINT NOT NULL,
    next_at BIGINT,
    status SMALLINT,
    error TEXT,
    created_at BIGINT NOT NULL,
    settled_at BIGINT,
    PRIMARY KEY (webhook_id, position)
);

CREATE INDEX webhook_delivery_due ON webhook_delivery (next_at) WHERE state = 'pending';
"""


def upgrade() -> None:
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
