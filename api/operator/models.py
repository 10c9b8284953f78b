"""What travels over the operator API. Input refuses unknown fields; times are RFC 3339 in UTC; durations are milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _from_ms(value: Any) -> Any:
    return _EPOCH + timedelta(milliseconds=value) if isinstance(value, int) else value


def _to_text(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _with_offset(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise PydanticCustomError("time.offset", "A date and time needs its offset from UTC, such as Z or +01:00.")
    return value


def milliseconds(value: datetime) -> int:
    """Since the epoch."""
    return (value - _EPOCH) // timedelta(milliseconds=1)


def to_ms(value: datetime | None) -> int | None:
    """Milliseconds since the epoch."""
    return None if value is None else milliseconds(value)


Time = Annotated[
    datetime,
    BeforeValidator(_from_ms),
    PlainSerializer(_to_text, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""Milliseconds since the epoch inside, RFC 3339 outside."""

InputTime = Annotated[datetime, Field(strict=False), AfterValidator(_with_offset)]
"""RFC 3339 with its offset from UTC."""


def _with_history(value: datetime) -> datetime:
    if value < _EPOCH:
        raise PydanticCustomError("time.history", "There is no history of before 1970.")
    return value


Moment = Annotated[InputTime, AfterValidator(_with_history)]
"""A time that can be asked about."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(min_length=1, max_length=1_000)]
EvidenceUrl = Annotated[str, Field(max_length=2_000, pattern=r"^https?://\S+$")]


class Input(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Output(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Listed(BaseModel, Generic[T]):
    """A page. ``next`` is the cursor of the one after it; null at the end. A filtered page may be short before that."""

    items: list[T]
    next: str | None


class ProblemItem(BaseModel):
    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str
    remedy: str
    trace_id: str
    errors: list[ProblemItem]


# --------------------------------------------------------------------------- registry


class HardwareModelInput(Input):
    name: Text
    profile: dict[str, Any] = Field(
        {}, description="How its update client speaks: client, part, closed_success, multi."
    )


class HardwareModel(Output):
    name: str
    profile: dict[str, Any]
    created_at: Time


class TrustedKeyInput(Input):
    pem: Annotated[str, Field(min_length=1, max_length=65_536)]


class TrustedKey(Output):
    key_id: str
    hardware_model: str
    algorithm: str
    pem: str
    added_at: Time


class Artifact(Output):
    sha256: str
    hardware_model: str
    sha1: str
    md5: str
    size: int
    filename: str
    image: dict[str, Any]
    stored_at: Time


class ComponentInput(Input):
    name: Annotated[str, Field(max_length=64)]
    kind: Literal["app", "os"]
    sha256: Sha256
    after: list[Annotated[str, Field(max_length=64)]] = Field(
        [], max_length=16, description="Components that must be in before this one."
    )


class Component(Output):
    name: str
    kind: str
    sha256: str
    after: list[str]


class ReleaseInput(Input):
    name: Text
    version: Text
    artifacts: dict[str, Sha256] = Field({}, description="Hardware model to the sha256 of its artifact.")
    components: dict[str, list[ComponentInput]] = Field(
        {}, description="Hardware model to the components that its devices install, for models that have several."
    )


class Release(Output):
    release_id: str
    name: str
    version: str
    artifacts: dict[str, str] = Field(description="Hardware model to sha256; with components, that of the last one.")
    components: dict[str, list[Component]] = Field(description="In the order of their installation, the OS last.")
    digest: str
    created_at: Time


class NewDevice(Input):
    device_id: str
    hardware_model: Text
    attributes: dict[str, str] = {}


class ImportInput(Input):
    devices: list[NewDevice]
    issue_tokens: bool = Field(False, description="Give each device a token; it is shown in this answer only.")


class ImportedDevice(Output):
    device_no: int
    device_id: str
    token: str | None


class Imported(BaseModel):
    devices: list[ImportedDevice]


class IssuedToken(Output):
    device_id: str
    token: str | None


class Device(Output):
    device_no: int
    device_id: str
    hardware_model: str
    attributes: dict[str, str]
    version: str | None
    digest: str | None
    registered_at: Time
    reported_at: Time | None
    last_seen_at: Time | None


class Assignment(Output):
    campaign_id: str
    campaign_name: str
    release_id: str
    phase: int
    stratum: str
    attempt: int
    action_id: int
    state: str
    changed_at: Time
    offered_at: Time
    started_at: Time | None
    cancel_requested_at: Time | None
    failure_class: str | None
    reason: str | None
    next_attempt_at: Time | None = Field(description="When the next attempt may be offered, if one is decided.")
    current: bool


class ComponentStatus(Output):
    name: str
    outcome: str
    campaign_id: str
    attempt: int
    changed_at: Time
    failure_class: str | None
    version: str | None = Field(description="Of the last release that put it in.")
    digest: str | None


class ConsentInput(Input):
    release_id: Text | None = None
    campaign_id: Text | None = Field(None, description="Exactly one of the two.")
    until: InputTime | None = None


class WillInput(Input):
    opted_out: bool = False
    postponed_until: InputTime | None = Field(None, description="Within `max_postponement_days` from now.")
    consents: Annotated[list[ConsentInput], Field(max_length=100)] = []
    reason: Text
    on_behalf_of: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None,
        description="Whom this is passed on for: a customer's number, a ticket. No names: the log is kept for ever.",
    )


class Consent(Output):
    release_id: str | None
    campaign_id: str | None
    until: Time | None


class Will(Output):
    device_id: str
    version: int = Field(description="Statements so far; 0: nothing was ever said.")
    opted_out: bool
    postponed_until: Time | None
    consents: list[Consent]
    stated_at: Time | None
    actor: str | None
    on_behalf_of: str | None
    reason: str | None


class DeviceDetail(Device):
    token_issued: bool
    will: Will
    assignment: Assignment | None
    assignments: list[Assignment]
    components: list[ComponentStatus]


class TimelineEntry(Output):
    event_id: str
    type: str
    recorded_at: Time
    campaign_id: str | None
    attempt: int | None
    failure_class: str | None
    reason: str | None
    detail: str | None
    components: dict[str, str] | None
    version: str | None = Field(description="Of a report of attributes: what the device said that it runs.")
    digest: str | None
    partition: int
    offset: int


# --------------------------------------------------------------------------- webhooks


class WebhookInput(Input):
    url: Annotated[str, Field(min_length=1, max_length=2_000)]
    events: list[str] = Field(description="Such as campaign.halted, breaker.opened, hold.outlasted.")


class Webhook(Output):
    webhook_id: str
    url: str
    events: list[str]
    created_at: Time
    created_by: str


class CreatedWebhook(Webhook):
    secret: str | None = Field(description="Shown once; null when an answer is repeated.")


class Delivery(Output):
    message_id: str = Field(description="`webhook-id`: the same in every attempt.")
    kind: str
    position: int = Field(description="Of the event in the log.")
    state: str = Field(description="pending, delivered or dead.")
    attempts: int
    status: int | None = Field(description="HTTP status of the last attempt, if there was an answer.")
    error: str | None
    created_at: Time
    next_at: Time | None
    settled_at: Time | None


# --------------------------------------------------------------------------- keys


class ApiKeyInput(Input):
    name: Text
    scopes: list[str]
    expires_in_days: Annotated[int, Field(ge=1, le=366)] = 366


class ApiKey(Output):
    key_id: str
    name: str
    scopes: list[str]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class CreatedApiKey(Output):
    key: str | None = Field(description="Shown once; null when an answer is repeated.")
    key_id: str
    name: str
    scopes: list[str]
    expires_at: Time | None
