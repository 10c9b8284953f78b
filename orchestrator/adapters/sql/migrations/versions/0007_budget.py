"""Who waits for a device: the offer queue by device, for campaigns of different priority.

Revision ID: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SCHEMA = "CREATE INDEX offer_queue_device ON offer_queue USING hash (device_no)"


def upgrade() -> None:
    op.execute(SCHEMA)
