"""First light: both logs, the queues, the projections.

Revision ID: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = """
CREATE TABLE event_log (
    position BIGINT NOT NULL,
    stream TEXT NOT NULL,
    version INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    type TEXT NOT NULL,
    v SMALLINT NOT NULL,
    data JSONB NOT NULL,
    meta JSONB NOT NULL,
    command_id TEXT NOT NULL,
    ordinal SMALLINT NOT NULL,
    recorded_at BIGINT NOT NULL,
    prev_hash BYTEA NOT NULL,
    hash BYTEA NOT NULL,
    PRIMARY KEY (position),
    UNIQUE (stream, version),
    UNIQUE (command_id, ordinal)
);

CREATE TABLE event_head (
    one SMALLINT NOT NULL,
    position BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    PRIMARY KEY (one)
) WITH (fillfactor = 30);

CREATE TABLE decision_ledger (
    position BIGINT NOT NULL,
    campaign_no INTEGER NOT NULL,
    kind TEXT NOT NULL,
    phase SMALLINT,
    stratum SMALLINT,
    gate_epoch SMALLINT,
    attempt SMALLINT,
    cause TEXT,
    device_nos INTEGER[] NOT NULL,
    action_base BIGINT,
    control_version BIGINT NOT NULL,
    command_id TEXT,
    not_before BIGINT,
    at BIGINT NOT NULL,
    prev_hash BYTEA NOT NULL,
    hash BYTEA NOT NULL,
    PRIMARY KEY (position),
    UNIQUE (command_id)
);

CREATE INDEX decision_ledger_action ON decision_ledger (action_base) WHERE action_base IS NOT NULL;

CREATE INDEX decision_ledger_campaign ON decision_ledger (campaign_no, position);

CREATE TABLE ledger_head (
    one SMALLINT NOT NULL,
    position BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    PRIMARY KEY (one)
) WITH (fillfactor = 30);

CREATE TABLE action_head (
    one SMALLINT NOT NULL,
    next_action BIGINT NOT NULL,
    PRIMARY KEY (one)
) WITH (fillfactor = 30);

CREATE TABLE device_identity (
    device_no INTEGER NOT NULL,
    device_id TEXT NOT NULL,
    hardware_model TEXT NOT NULL,
    token_hash TEXT,
    registered_at BIGINT NOT NULL,
    PRIMARY KEY (device_no),
    UNIQUE (device_id)
);

CREATE TABLE hardware_model (
    name TEXT NOT NULL,
    profile JSONB NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE trusted_key (
    key_id TEXT NOT NULL,
    hardware_model TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    pem TEXT NOT NULL,
    added_at BIGINT NOT NULL,
    PRIMARY KEY (key_id, hardware_model)
);

CREATE TABLE artifact (
    sha256 TEXT NOT NULL,
    hardware_model TEXT NOT NULL,
    sha1 TEXT NOT NULL,
    md5 TEXT NOT NULL,
    size BIGINT NOT NULL,
    filename TEXT NOT NULL,
    image JSONB NOT NULL,
    stored_at BIGINT NOT NULL,
    PRIMARY KEY (sha256, hardware_model)
);

CREATE TABLE release (
    release_id TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    artifacts JSONB NOT NULL,
    digest TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (release_id)
);

CREATE TABLE api_key (
    key_id TEXT NOT NULL,
    name TEXT NOT NULL,
    scopes TEXT[] NOT NULL,
    secret_hash TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    PRIMARY KEY (key_id)
);

CREATE TABLE idempotency (
    principal TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    status SMALLINT,
    body JSONB,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (principal, key)
);

CREATE TABLE campaign (
    campaign_no INTEGER NOT NULL,
    campaign_id TEXT NOT NULL,
    name TEXT NOT NULL,
    release_id TEXT NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL,
    author TEXT NOT NULL,
    digest TEXT,
    plan JSONB NOT NULL,
    dossier JSONB NOT NULL,
    gate_epoch SMALLINT NOT NULL,
    phase SMALLINT NOT NULL,
    phase_state TEXT NOT NULL,
    soak_until BIGINT,
    promoted_since_halt SMALLINT NOT NULL,
    enrolment JSONB,
    halt JSONB,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (campaign_no),
    UNIQUE (campaign_id)
);

CREATE TABLE control (
    campaign_no INTEGER NOT NULL,
    stratum SMALLINT NOT NULL,
    state TEXT NOT NULL,
    version BIGINT NOT NULL,
    gate_epoch SMALLINT NOT NULL,
    PRIMARY KEY (campaign_no, stratum)
) WITH (fillfactor = 30);

CREATE TABLE stratum (
    campaign_no INTEGER NOT NULL,
    stratum SMALLINT NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (campaign_no, stratum)
);

CREATE TABLE pacing (
    campaign_no INTEGER NOT NULL,
    granted BIGINT NOT NULL,
    slices BIGINT NOT NULL,
    phase SMALLINT NOT NULL,
    credit BIGINT NOT NULL,
    bucket_at BIGINT NOT NULL,
    PRIMARY KEY (campaign_no)
) WITH (fillfactor = 30);

CREATE TABLE offer_queue (
    campaign_no INTEGER NOT NULL,
    phase SMALLINT NOT NULL,
    rank INTEGER NOT NULL,
    device_no INTEGER NOT NULL,
    stratum SMALLINT NOT NULL,
    attempt SMALLINT NOT NULL,
    not_before BIGINT NOT NULL,
    PRIMARY KEY (campaign_no, phase, rank)
) WITH (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE due_queue (
    due_at BIGINT NOT NULL,
    campaign_no INTEGER NOT NULL,
    device_no INTEGER NOT NULL,
    attempt SMALLINT NOT NULL,
    what TEXT NOT NULL,
    PRIMARY KEY (due_at, campaign_no, device_no, attempt, what)
) WITH (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE device_slot (
    device_no INTEGER NOT NULL,
    campaign_no INTEGER NOT NULL,
    attempt SMALLINT NOT NULL,
    PRIMARY KEY (device_no)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE assignment (
    device_no INTEGER NOT NULL,
    campaign_no INTEGER NOT NULL,
    phase SMALLINT NOT NULL,
    stratum SMALLINT NOT NULL,
    attempt SMALLINT NOT NULL,
    action_id BIGINT NOT NULL,
    gate_epoch SMALLINT NOT NULL,
    offered_at BIGINT NOT NULL,
    state TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    progress TEXT NOT NULL,
    failure_class TEXT,
    reason TEXT,
    started_at BIGINT,
    cancel_requested_at BIGINT,
    first_started_at BIGINT,
    first_started_epoch SMALLINT,
    failed_at BIGINT,
    failed_class TEXT,
    PRIMARY KEY (device_no, campaign_no)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX assignment_campaign ON assignment (campaign_no, device_no);

CREATE TABLE counter (
    campaign_no INTEGER NOT NULL,
    phase SMALLINT NOT NULL,
    stratum SMALLINT NOT NULL,
    state TEXT NOT NULL,
    shard INTEGER NOT NULL,
    n BIGINT NOT NULL,
    PRIMARY KEY (campaign_no, phase, stratum, state, shard)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE gate_count (
    campaign_no INTEGER NOT NULL,
    gate_epoch SMALLINT NOT NULL,
    phase SMALLINT NOT NULL,
    stratum SMALLINT NOT NULL,
    shard INTEGER NOT NULL,
    started BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    PRIMARY KEY (campaign_no, gate_epoch, phase, stratum, shard)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE maturity (
    campaign_no INTEGER NOT NULL,
    phase SMALLINT NOT NULL,
    gate_epoch SMALLINT NOT NULL,
    bucket BIGINT NOT NULL,
    stratum SMALLINT NOT NULL,
    shard INTEGER NOT NULL,
    started BIGINT NOT NULL,
    good BIGINT NOT NULL,
    excluded BIGINT NOT NULL,
    PRIMARY KEY (campaign_no, phase, gate_epoch, bucket, stratum, shard)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE gate (
    campaign_no INTEGER NOT NULL,
    rule TEXT NOT NULL,
    scope TEXT NOT NULL,
    gate_epoch SMALLINT NOT NULL,
    n BIGINT NOT NULL,
    f BIGINT NOT NULL,
    bound BIGINT,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    evaluated_at BIGINT NOT NULL,
    PRIMARY KEY (campaign_no, rule, scope, gate_epoch)
) WITH (fillfactor = 30);

CREATE TABLE device (
    device_no INTEGER NOT NULL,
    device_id TEXT NOT NULL,
    hardware_model TEXT NOT NULL,
    attributes JSONB NOT NULL,
    version TEXT,
    digest TEXT,
    registered_at BIGINT NOT NULL,
    reported_at BIGINT,
    PRIMARY KEY (device_no)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE presence (
    device_no INTEGER NOT NULL,
    last_seen_at BIGINT NOT NULL,
    PRIMARY KEY (device_no)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE projection_position (
    projection TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    topic_id TEXT NOT NULL,
    cluster_id TEXT NOT NULL,
    next_offset BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    PRIMARY KEY (projection, topic, partition)
) WITH (fillfactor = 30);

CREATE TABLE timeline (
    partition INTEGER NOT NULL,
    "offset" BIGINT NOT NULL,
    device_no INTEGER NOT NULL,
    campaign_no INTEGER,
    attempt SMALLINT,
    event_id TEXT NOT NULL,
    type TEXT NOT NULL,
    recorded_at BIGINT NOT NULL,
    failure_class TEXT,
    reason TEXT,
    detail TEXT,
    PRIMARY KEY (partition, "offset")
);

CREATE INDEX timeline_device ON timeline (device_no, recorded_at);

CREATE TABLE dead_letter (
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    "offset" BIGINT NOT NULL,
    code TEXT NOT NULL,
    detail TEXT NOT NULL,
    event_id TEXT,
    key BYTEA,
    value BYTEA NOT NULL,
    recorded_at BIGINT NOT NULL,
    PRIMARY KEY (topic, partition, "offset")
);

CREATE TABLE report_overlay (
    device_no INTEGER NOT NULL,
    action_id BIGINT NOT NULL,
    state TEXT NOT NULL,
    partition INTEGER NOT NULL,
    "offset" BIGINT NOT NULL,
    PRIMARY KEY (device_no, action_id, state)
) WITH (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE relay_position (
    consumer TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (consumer)
) WITH (fillfactor = 30);

CREATE SEQUENCE campaign_no;
CREATE SEQUENCE device_no;

INSERT INTO event_head (one, position, hash) VALUES (1, 0, '');
INSERT INTO ledger_head (one, position, hash) VALUES (1, 0, '');
INSERT INTO action_head (one, next_action) VALUES (1, 1000001);
INSERT INTO relay_position (consumer, position) VALUES ('kafka', 0), ('temporal', 0);
"""


def upgrade() -> None:
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
