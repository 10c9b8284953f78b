"""The tables, declared once. ``DESIGN`` of the data: two logs are the truth, everything else can be made again from them.

Rules that hold here: times are bigint milliseconds; enums are text, their order lives in code; no index on a mutable column of a hot
table (it would end HOT updates); no foreign keys on hot tables; hot tables leave room on their pages (fillfactor) and are vacuumed
by count, not by share. The migrations create what this module declares; a test compares the two.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import declared_attr
from sqlmodel import Field, SQLModel

_HOT: dict[str, Any] = {
    "postgresql_with": {
        "fillfactor": 70,
        "autovacuum_vacuum_scale_factor": 0.05,
        "autovacuum_vacuum_cost_delay": 0,
    }
}
_COUNTER: dict[str, Any] = {
    "postgresql_with": {
        "fillfactor": 50,
        "autovacuum_vacuum_threshold": 500,
        "autovacuum_vacuum_scale_factor": 0,
    }
}
_QUEUE: dict[str, Any] = {
    "postgresql_with": {
        "autovacuum_vacuum_threshold": 5000,
        "autovacuum_vacuum_scale_factor": 0,
        "autovacuum_vacuum_cost_delay": 0,
    }
}
_HEAD: dict[str, Any] = {"postgresql_with": {"fillfactor": 30}}


def _text(**kw: Any) -> Any:
    return Field(sa_column=Column(Text, **{"nullable": False, **kw}))


def _big(**kw: Any) -> Any:
    return Field(sa_column=Column(BigInteger, **{"nullable": False, "autoincrement": False, **kw}))


def _int(**kw: Any) -> Any:
    return Field(sa_column=Column(Integer, **{"nullable": False, "autoincrement": False, **kw}))


def _small(**kw: Any) -> Any:
    return Field(sa_column=Column(SmallInteger, **{"nullable": False, "autoincrement": False, **kw}))


def _flag(**kw: Any) -> Any:
    return Field(sa_column=Column(Boolean, **{"nullable": False, **kw}))


def _bytes(**kw: Any) -> Any:
    return Field(sa_column=Column(LargeBinary, **{"nullable": False, **kw}))


def _json(**kw: Any) -> Any:
    return Field(sa_column=Column(JSONB, **{"nullable": False, **kw}))


class _Table(SQLModel):
    """Tables are named like their classes, in snake case."""

    @declared_attr.directive
    @classmethod
    def __tablename__(cls) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()


# --------------------------------------------------------------------------- truth


class EventLog(_Table, table=True):
    """What people and the orchestrator decided; append-only, hash-chained."""

    __table_args__: ClassVar[Any] = (UniqueConstraint("stream", "version"), UniqueConstraint("command_id", "ordinal"))
    position: int = _big(primary_key=True)
    stream: str = _text()
    version: int = _int()
    event_id: str = _text()
    type: str = _text()
    v: int = _small()
    data: dict[str, Any] = _json()
    meta: dict[str, Any] = _json()
    command_id: str = _text()
    ordinal: int = _small()
    recorded_at: int = _big()
    prev_hash: bytes = _bytes()
    hash: bytes = _bytes()


class EventHead(_Table, table=True):
    """One row: the log's last position and hash."""

    __table_args__: ClassVar[Any] = _HEAD
    one: int = _small(primary_key=True)
    position: int = _big()
    hash: bytes = _bytes()


class DecisionLedger(_Table, table=True):
    """Decisions about single devices, many devices to a row; append-only, hash-chained (``schemas.ledger``)."""

    __table_args__: ClassVar[Any] = (
        UniqueConstraint("command_id"),
        Index("decision_ledger_campaign", "campaign_no", "position"),
        Index("decision_ledger_action", "action_base", postgresql_where="action_base IS NOT NULL"),
        Index("decision_ledger_holdback", "campaign_no", postgresql_where="kind = 'enrol' AND phase = -1"),
        Index("decision_ledger_enrol", "campaign_no", postgresql_where="kind = 'enrol'"),
    )
    position: int = _big(primary_key=True)
    campaign_no: int = _int()
    kind: str = _text()
    phase: int | None = _small(nullable=True)
    stratum: int | None = _small(nullable=True)
    gate_epoch: int | None = _small(nullable=True)
    attempt: int | None = _small(nullable=True)
    cause: str | None = _text(nullable=True)
    device_nos: list[int] = Field(sa_column=Column(ARRAY(Integer), nullable=False))
    action_base: int | None = _big(nullable=True)
    control_version: int = _big()
    command_id: str | None = _text(nullable=True)
    not_before: int | None = _big(nullable=True)
    at: int = _big()
    prev_hash: bytes = _bytes()
    hash: bytes = _bytes()
    seen: str | None = _text(nullable=True)


class LedgerHead(_Table, table=True):
    """One row: the ledger's last position and hash."""

    __table_args__: ClassVar[Any] = _HEAD
    one: int = _small(primary_key=True)
    position: int = _big()
    hash: bytes = _bytes()


class ActionHead(_Table, table=True):
    """One row: the next free action id. Moved in a transaction of its own, so that nobody waits for it; gaps do no harm."""

    __table_args__: ClassVar[Any] = _HEAD
    one: int = _small(primary_key=True)
    next_action: int = _big()


class FactArchive(_Table, table=True):
    """Facts of a partition that were projected before a part of its log was lost: the log holds them no more, these are the truth.

    ``twin`` stands with the last attributes that a device reported: what the device table held after them.
    """

    __table_args__: ClassVar[Any] = (Index("fact_archive_device", "device_no", "recorded_at"),)
    partition: int = _int(primary_key=True)
    loss: int = _int(primary_key=True)
    """Number of the loss: the version of its event in the stream of the partition."""
    offset: int = _big(primary_key=True)
    device_no: int = _int()
    campaign_no: int | None = _int(nullable=True)
    attempt: int | None = _small(nullable=True)
    gate_epoch: int | None = _small(nullable=True)
    """Of the attempt's offer."""
    event_id: str = _text()
    type: str = _text()
    recorded_at: int = _big()
    failure_class: str | None = _text(nullable=True)
    reason: str | None = _text(nullable=True)
    detail: str | None = _text(nullable=True)
    twin: dict[str, Any] | None = _json(nullable=True)
    components: dict[str, Any] | None = _json(nullable=True)
    version: str | None = _text(nullable=True)
    digest: str | None = _text(nullable=True)


class DeadLetterArchive(_Table, table=True):
    """Dead letters of a log that is gone, beside ``fact_archive``."""

    topic: str = _text(primary_key=True)
    partition: int = _int(primary_key=True)
    loss: int = _int(primary_key=True)
    offset: int = _big(primary_key=True)
    code: str = _text()
    detail: str = _text()
    event_id: str | None = _text(nullable=True)
    key: bytes | None = _bytes(nullable=True)
    value: bytes = _bytes()
    recorded_at: int = _big()


class DeviceIdentity(_Table, table=True):
    """Who a device is. Its changes are events too."""

    device_no: int = _int(primary_key=True)
    device_id: str = _text(unique=True)
    hardware_model: str = _text()
    token_hash: str | None = _text(nullable=True)
    registered_at: int = _big()


# --------------------------------------------------------------------------- registry (projections of the event log)


class HardwareModel(_Table, table=True):
    name: str = _text(primary_key=True)
    profile: dict[str, Any] = _json()
    created_at: int = _big()


class TrustedKey(_Table, table=True):
    key_id: str = _text(primary_key=True)
    hardware_model: str = _text(primary_key=True)
    algorithm: str = _text()
    pem: str = _text()
    added_at: int = _big()


class Artifact(_Table, table=True):
    sha256: str = _text(primary_key=True)
    hardware_model: str = _text(primary_key=True)
    sha1: str = _text()
    md5: str = _text()
    size: int = _big()
    filename: str = _text()
    image: dict[str, Any] = _json()
    stored_at: int = _big()


class Release(_Table, table=True):
    release_id: str = _text(primary_key=True)
    name: str = _text()
    version: str = _text()
    artifacts: dict[str, Any] = _json()
    """Hardware model to artifact sha256."""
    digest: str = _text()
    created_at: int = _big()
    components: dict[str, Any] = _json(server_default=text("'{}'"))
    """Hardware model to its components, in the order of their installation."""


class ApiKey(_Table, table=True):
    key_id: str = _text(primary_key=True)
    name: str = _text()
    scopes: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    secret_hash: str = _text()
    created_at: int = _big()
    expires_at: int | None = _big(nullable=True)
    revoked_at: int | None = _big(nullable=True)


class Webhook(_Table, table=True):
    """Endpoints that are told of events; changed with their events, like API keys, and never replayed."""

    webhook_id: str = _text(primary_key=True)
    url: str = _text()
    events: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    created_at: int = _big()
    created_by: str = _text()
    since: int = _big()
    """Position of its event: what was before is not told."""
    removed_at: int | None = _big(nullable=True)


class WebhookSecret(_Table, table=True):
    """What a webhook signs with, in clear, because it must sign; beside the log and never in it. A backup of the database holds it."""

    webhook_id: str = _text(primary_key=True)
    secret: str = _text()


class WebhookDelivery(_Table, table=True):
    """One notification to one endpoint: a queue, and for a while what became of it. Made by the relay, not by a projection."""

    __table_args__: ClassVar[Any] = (
        Index("webhook_delivery_due", "next_at", postgresql_where=text("state = 'pending'")),
    )
    webhook_id: str = _text(primary_key=True)
    position: int = _big(primary_key=True)
    message_id: str = _text()
    kind: str = _text()
    body: str = _text()
    state: str = _text()
    attempts: int = _small()
    next_at: int | None = _big(nullable=True)
    status: int | None = _small(nullable=True)
    error: str | None = _text(nullable=True)
    created_at: int = _big()
    settled_at: int | None = _big(nullable=True)


class Idempotency(_Table, table=True):
    """Answers of POSTs by principal and key, stored in the transaction of their effect where there is one."""

    principal: str = _text(primary_key=True)
    key: str = _text(primary_key=True)
    fingerprint: str = _text()
    status: int | None = _small(nullable=True)
    body: dict[str, Any] | None = _json(nullable=True)
    created_at: int = _big()


# --------------------------------------------------------------------------- campaigns


class Campaign(_Table, table=True):
    """The campaign's current state, folded from its stream in the transaction of each append."""

    campaign_no: int = _int(primary_key=True)
    campaign_id: str = _text(unique=True)
    name: str = _text()
    release_id: str = _text()
    state: str = _text()
    version: int = _int()
    author: str = _text()
    digest: str | None = _text(nullable=True)
    plan: dict[str, Any] = _json()
    dossier: dict[str, Any] = _json()
    gate_epoch: int = _small()
    phase: int = _small()
    phase_state: str = _text()
    soak_until: int | None = _big(nullable=True)
    promoted_since_halt: int = _small()
    setbacks: int = _small(server_default="0")
    breaker: dict[str, Any] | None = _json(nullable=True)
    """Empty until it opens for the first time."""
    enrolment: dict[str, Any] | None = _json(nullable=True)
    halt: dict[str, Any] | None = _json(nullable=True)
    created_at: int = _big()
    updated_at: int = _big()
    brake: dict[str, Any] | None = _json(nullable=True)


class Control(_Table, table=True):
    """May this campaign offer? Read under the shared control lock, changed under the exclusive one. Stratum -1 is the campaign."""

    __table_args__: ClassVar[Any] = _HEAD
    campaign_no: int = _int(primary_key=True)
    stratum: int = _small(primary_key=True)
    state: str = _text()
    version: int = _big()
    gate_epoch: int = _small()
    hold: str | None = _text(nullable=True)
    """The breaker's, while it is not closed: open or probing."""
    held_at: int | None = _big(nullable=True)
    """Since when; while it probes, offers of later may be started."""


class Stratum(_Table, table=True):
    campaign_no: int = _int(primary_key=True)
    stratum: int = _small(primary_key=True)
    key: str = _text()


class Pacing(_Table, table=True):
    """Held exclusively by the slice transaction: room is granted in one place."""

    __table_args__: ClassVar[Any] = _HEAD
    campaign_no: int = _int(primary_key=True)
    granted: int = _big()
    slices: int = _big()
    phase: int = _small()
    """The phase whose token bucket ``credit`` and ``bucket_at`` are."""
    credit: int = _big()
    bucket_at: int = _big()


class LateLook(_Table, table=True):
    """How far a campaign with continuous membership has looked at the fleet; losable: a look may begin anew."""

    __table_args__: ClassVar[Any] = _HEAD
    campaign_no: int = _int(primary_key=True)
    scan_after: int | None = _int(nullable=True)
    """The first pass goes on after this device; null when it is done."""
    events: int = _big()
    facts: dict[str, Any] = _json()
    """Partition to the offset of the next fact."""
    next_look_at: int = _big()
    refused: dict[str, Any] = _json()
    """Reason to the number of rows of ``late_refusal``."""


class LateRefusal(_Table, table=True):
    """Devices that match and may not join, each once; losable with ``late_look``."""

    campaign_no: int = _int(primary_key=True)
    device_no: int = _int(primary_key=True)
    reason: str = _text()


class OfferQueue(_Table, table=True):
    # By hash: half the price of a tree at an enrolment, and nobody asks for a range of devices.
    __table_args__: ClassVar[Any] = (
        Index("offer_queue_device", "device_no", postgresql_using="hash"),
        Index("offer_queue_withheld", "campaign_no", "phase", "stratum", postgresql_where="withheld IS NOT NULL"),
        _QUEUE,
    )
    campaign_no: int = _int(primary_key=True)
    phase: int = _small(primary_key=True)
    rank: int = _int(primary_key=True)
    device_no: int = _int()
    stratum: int = _small()
    attempt: int = _small()
    not_before: int = _big()
    withheld: str | None = _text(nullable=True)
    """Why the device was passed over when it was last looked at (``domain.owner``): a look, not a fact."""


class DueQueue(_Table, table=True):
    __table_args__: ClassVar[Any] = _QUEUE
    due_at: int = _big(primary_key=True)
    campaign_no: int = _int(primary_key=True)
    device_no: int = _int(primary_key=True)
    attempt: int = _small(primary_key=True)
    what: str = _text(primary_key=True)


class DeviceSlot(_Table, table=True):
    """At most one assignment that may touch a device's slots: the primary key is the law."""

    __table_args__: ClassVar[Any] = _HOT
    device_no: int = _int(primary_key=True)
    campaign_no: int = _int()
    attempt: int = _small()


class Assignment(_Table, table=True):
    """One row per (device, campaign), inserted at the first offer; ``orchestrator.domain.assignment`` says what each column means."""

    __table_args__: ClassVar[Any] = (Index("assignment_campaign", "campaign_no", "device_no"), _HOT)
    device_no: int = _int(primary_key=True)
    campaign_no: int = _int(primary_key=True)
    phase: int = _small()
    stratum: int = _small()
    attempt: int = _small()
    action_id: int = _big()
    gate_epoch: int = _small()
    offered_at: int = _big()
    state: str = _text()
    changed_at: int = _big()
    progress: str = _text()
    failure_class: str | None = _text(nullable=True)
    reason: str | None = _text(nullable=True)
    started_at: int | None = _big(nullable=True)
    cancel_requested_at: int | None = _big(nullable=True)
    first_started_at: int | None = _big(nullable=True)
    first_started_epoch: int | None = _small(nullable=True)
    failed_at: int | None = _big(nullable=True)
    failed_class: str | None = _text(nullable=True)


class ComponentState(_Table, table=True):
    """What became of each component that devices have spoken of; ``orchestrator.domain.components`` says what each column means."""

    __table_args__: ClassVar[Any] = _HOT
    device_no: int = _int(primary_key=True)
    campaign_no: int = _int(primary_key=True)
    name: str = _text(primary_key=True)
    attempt: int = _small()
    outcome: str = _text()
    changed_at: int = _big()
    failure_class: str | None = _text(nullable=True)


class ComponentCount(_Table, table=True):
    """Rows of ``component_state`` by outcome, for display; summed over shards when read."""

    __table_args__: ClassVar[Any] = _COUNTER
    campaign_no: int = _int(primary_key=True)
    name: str = _text(primary_key=True)
    outcome: str = _text(primary_key=True)
    shard: int = _int(primary_key=True)
    n: int = _big()


class Counter(_Table, table=True):
    """Rows by state, for display; summed over shards when read."""

    __table_args__: ClassVar[Any] = _COUNTER
    campaign_no: int = _int(primary_key=True)
    phase: int = _small(primary_key=True)
    stratum: int = _small(primary_key=True)
    state: str = _text(primary_key=True)
    shard: int = _int(primary_key=True)
    n: int = _big()


class GateCount(_Table, table=True):
    """What the halt rules read: devices started and failed, per epoch that started them."""

    __table_args__: ClassVar[Any] = _COUNTER
    campaign_no: int = _int(primary_key=True)
    gate_epoch: int = _small(primary_key=True)
    phase: int = _small(primary_key=True)
    stratum: int = _small(primary_key=True)
    shard: int = _int(primary_key=True)
    started: int = _big()
    failed: int = _big()


class Maturity(_Table, table=True):
    """What the promote test reads: outcomes filed under the time of the first start (``assignment.maturity``)."""

    __table_args__: ClassVar[Any] = _COUNTER
    campaign_no: int = _int(primary_key=True)
    phase: int = _small(primary_key=True)
    gate_epoch: int = _small(primary_key=True)
    bucket: int = _big(primary_key=True)
    stratum: int = _small(primary_key=True)
    shard: int = _int(primary_key=True)
    started: int = _big()
    good: int = _big()
    excluded: int = _big()


class Delivery(_Table, table=True):
    """What the breaker reads: whether images arrived, filed under the time of the outcome (``domain.delivery``)."""

    __table_args__: ClassVar[Any] = _COUNTER
    campaign_no: int = _int(primary_key=True)
    bucket: int = _big(primary_key=True)
    outcome: str = _text(primary_key=True)
    shard: int = _int(primary_key=True)
    n: int = _big()


class Gate(_Table, table=True):
    """The last evaluation of each rule in each scope."""

    __table_args__: ClassVar[Any] = _HEAD
    campaign_no: int = _int(primary_key=True)
    rule: str = _text(primary_key=True)
    scope: str = _text(primary_key=True)
    gate_epoch: int = _small(primary_key=True)
    n: int = _big()
    f: int = _big()
    bound: int | None = _big(nullable=True)
    verdict: str = _text()
    reason: str = _text()
    evaluated_at: int = _big()


# --------------------------------------------------------------------------- devices and facts


class Device(_Table, table=True):
    """The twin: what the device says of itself."""

    __table_args__: ClassVar[Any] = _HOT
    device_no: int = _int(primary_key=True)
    device_id: str = _text()
    hardware_model: str = _text()
    attributes: dict[str, Any] = _json()
    version: str | None = _text(nullable=True)
    digest: str | None = _text(nullable=True)
    registered_at: int = _big()
    reported_at: int | None = _big(nullable=True)


class OwnerWill(_Table, table=True):
    """What the owner of a device wants: the last statement of the stream ``owner/<device_no>``. Of most devices there is none."""

    device_no: int = _int(primary_key=True)
    opted_out: bool = _flag()
    postponed_until: int | None = _big(nullable=True)
    consents: list[dict[str, Any]] = _json()
    version: int = _int()
    stated_at: int = _big()
    actor: str = _text()
    on_behalf_of: str | None = _text(nullable=True)
    reason: str = _text()


class Presence(_Table, table=True):
    """Last poll; coalesced and losable, never part of a decision that must not be wrong."""

    __table_args__: ClassVar[Any] = _HOT
    device_no: int = _int(primary_key=True)
    last_seen_at: int = _big()


class ProjectionPosition(_Table, table=True):
    """The read position of a projection: moved only together with its effects."""

    __table_args__: ClassVar[Any] = _HEAD
    projection: str = _text(primary_key=True)
    topic: str = _text(primary_key=True)
    partition: int = _int(primary_key=True)
    topic_id: str = _text()
    cluster_id: str = _text()
    next_offset: int = _big()
    epoch: int = _big()


class Timeline(_Table, table=True):
    """Every fact that was applied, by record; repeated statements share ``event_id``."""

    __table_args__: ClassVar[Any] = (Index("timeline_device", "device_no", "recorded_at"),)
    partition: int = _int(primary_key=True)
    offset: int = _big(primary_key=True)
    device_no: int = _int()
    campaign_no: int | None = _int(nullable=True)
    attempt: int | None = _small(nullable=True)
    event_id: str = _text()
    type: str = _text()
    recorded_at: int = _big()
    failure_class: str | None = _text(nullable=True)
    reason: str | None = _text(nullable=True)
    detail: str | None = _text(nullable=True)
    components: dict[str, Any] | None = _json(nullable=True)
    version: str | None = _text(nullable=True)
    """Of a report of attributes, as ``digest``: what the device said that it runs."""
    digest: str | None = _text(nullable=True)


class HealthReport(_Table, table=True):
    """What devices report of themselves, period by period; inserted once, so both indexes are on columns that do not change."""

    __table_args__: ClassVar[Any] = (
        Index("health_report_recorded", "recorded_at"),
        Index("health_report_events", "device_no", "signal", "recorded_at", "period", postgresql_where="events > 0"),
    )
    device_no: int = _int(primary_key=True)
    signal: str = _text(primary_key=True)
    period: int = _big(primary_key=True)
    recorded_at: int = _big()
    events: int = _int()
    exposure_ms: int = _big()


class HealthReading(_Table, table=True):
    """How far a rule on health has counted, and what (``health_rule.Reading``): scratch, so that every report is read once.

    Made anew from the reports if it is gone, so nothing compares it and no rebuild fills it.
    """

    __table_args__: ClassVar[Any] = _HEAD
    campaign_no: int = _int(primary_key=True)
    gate_epoch: int = _small(primary_key=True)
    rule: str = _text(primary_key=True)
    counted: dict[str, Any] = _json()


class DeadLetter(_Table, table=True):
    """Records that could not be applied, kept whole, written in the transaction that passed them."""

    topic: str = _text(primary_key=True)
    partition: int = _int(primary_key=True)
    offset: int = _big(primary_key=True)
    code: str = _text()
    detail: str = _text()
    event_id: str | None = _text(nullable=True)
    key: bytes | None = _bytes(nullable=True)
    value: bytes = _bytes()
    recorded_at: int = _big()


class ReportOverlay(_Table, table=True):
    """Reports answered before their projection: every offer read joins it, the projector removes it."""

    __table_args__: ClassVar[Any] = _QUEUE
    device_no: int = _int(primary_key=True)
    action_id: int = _big(primary_key=True)
    state: str = _text(primary_key=True)
    partition: int = _int()
    offset: int = _big()


class RelayPosition(_Table, table=True):
    """How far a consumer of the event log has come: ``kafka``, ``temporal``, ``webhooks``."""

    __table_args__: ClassVar[Any] = _HEAD
    consumer: str = _text(primary_key=True)
    position: int = _big()
