"""What owners of devices want, and whom the offer queue holds back for it.

Revision ID: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SCHEMA = """
CREATE TABLE owner_will (
    device_no INTEGER NOT NULL,
    opted_out BOOLEAN NOT NULL,
    postponed_until BIGINT,
    consents JSONB NOT NULL,
    version INTEGER NOT NULL,
    stated_at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    on_behalf_of TEXT,
    reason TEXT NOT NULL,
    PRIMARY KEY (device_no)
);

ALTER TABLE offer_queue ADD COLUMN withheld TEXT;

CREATE INDEX offer_queue_withheld ON offer_queue (campaign_no, phase, stratum) WHERE withheld IS NOT NULL;
"""


def upgrade() -> None:
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
