"""Health after the update: what devices report period by period, what rules have counted of it, and who is held back.

Revision ID: 0008
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SCHEMA = """
CREATE TABLE health_report (
    device_no INTEGER NOT NULL,
    signal TEXT NOT NULL,
    period BIGINT NOT NULL,
    recorded_at BIGINT NOT NULL,
    events INTEGER NOT NULL,
    exposure_ms BIGINT NOT NULL,
    PRIMARY KEY (device_no, signal, period)
);

CREATE INDEX health_report_recorded ON health_report (recorded_at);

CREATE INDEX health_report_events ON health_report (device_no, signal, recorded_at, period) WHERE events > 0;

CREATE TABLE health_reading (
    campaign_no INTEGER NOT NULL,
    gate_epoch SMALLINT NOT NULL,
    rule TEXT NOT NULL,
    counted JSONB NOT NULL,
    PRIMARY KEY (campaign_no, gate_epoch, rule)
) WITH (fillfactor = 30);

CREATE INDEX decision_ledger_holdback ON decision_ledger (campaign_no) WHERE kind = 'enrol' AND phase = -1;
"""


def upgrade() -> None:
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
