"""Facts that devices state, as they travel on ``ota.device-events.v1``.

One JSON object per record, CloudEvents 1.0 attribute names (https://cloudevents.io, ``id, source, type, subject, time, data``)
plus ``v``, the version of ``data`` for that type. The record's key is the device id; the only header is ``traceparent``.

Invariants: ``id`` identifies the *statement*, not its delivery, so a repeated report carries the same id; ``recorded_at`` is the
gateway's clock and the only time that projections use; ``time`` is what the device claims and serves analytics only.
Changes are additive: no new required field, no changed type, no removed state.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any, Final

import msgspec

VERSION: Final = 1

ACCEPTED: Final = "device.update.accepted"
DOWNLOADING: Final = "device.update.download_started"
INSTALLED: Final = "device.update.installed"
TRIAL: Final = "device.update.trial_started"
CONFIRMED: Final = "device.update.confirmed"
REVERTED: Final = "device.update.reverted"
FAILED: Final = "device.update.failed"
REJECTED: Final = "device.update.rejected"
CANCELLED: Final = "device.update.cancelled"
NOT_APPLICABLE: Final = "device.update.not_applicable"
PROGRESS: Final = "device.update.progressed"
ATTRIBUTES: Final = "device.attributes.reported"
HEALTH: Final = "device.health.reported"

UPDATE_STATES: Final[dict[str, str]] = {
    ACCEPTED: "accepted",
    DOWNLOADING: "downloading",
    INSTALLED: "installed",
    TRIAL: "trial",
    CONFIRMED: "confirmed",
    REVERTED: "reverted",
    FAILED: "failed",
    REJECTED: "rejected",
    CANCELLED: "cancelled",
    NOT_APPLICABLE: "not_applicable",
}
"""Event type to the assignment state it states. ``PROGRESS`` states none: it is kept in the timeline only."""

TYPES: Final = frozenset({*UPDATE_STATES, PROGRESS, ATTRIBUTES, HEALTH})

SIGNAL: Final = r"^[a-z][a-z0-9_.-]{0,31}$"
"""What a signal's name looks like: ``crash``, ``reset``, ``sensor.dropout``."""

MAX_PERIOD: Final = 2**53 - 1
"""Largest number of a period: what every JSON library reads as an integer."""

MAX_EVENTS: Final = 10_000
"""Events of one period. A device that crashes more often says nothing more by it, and one report must not speak for a fleet."""

MAX_EXPOSURE_MS: Final = 7 * 24 * 3_600_000
"""Length of one period, ms. Devices report by the hour or day; a longer one is a clock that jumped, and would water evidence down."""


class Report(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, rename={"failure_class": "class"}
):
    """``data`` of the ``device.update.*`` events."""

    action_id: int
    """The offer this is about: int32, unique for ever, ``action_base + index`` of a ledger row."""
    failure_class: str | None = None
    """For failed and reverted: transport, integrity, compatibility, install, boot, health, silence or operator."""
    reason: str | None = None
    """Short machine-readable reason, at most 64 characters."""
    detail: str | None = None
    """Text for people, at most 1,024 characters; the gateway truncates."""
    components: dict[str, str] | None = None
    """Component of the release to its outcome, where the device says it: installed, confirmed, failed or rolled_back."""


class Attributes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``data`` of ``device.attributes.reported``."""

    mode: str = "merge"
    """merge (null deletes a key), replace or remove: hawkBit's configData modes."""
    attributes: dict[str, str | None] = {}
    version: str | None = None
    """Firmware version the device says it runs."""
    digest: str | None = None
    """sha256 (hex) of the file it runs, where the device knows it."""


class Health(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """``data`` of ``device.health.reported``: a period's own numbers, never running totals, so repetition and order do no harm.

    The statement is ``(device, signal, period)``: a repeated one is recognised however often and late it comes, and of two that differ
    the one recorded first stands.
    """

    signal: Annotated[str, msgspec.Meta(pattern=SIGNAL)]
    period: Annotated[int, msgspec.Meta(ge=0, le=MAX_PERIOD)]
    """Number that the device gives to no other period of this signal: counted up in its flash, or when the period began."""
    events: Annotated[int, msgspec.Meta(ge=0, le=MAX_EVENTS)]
    """How often the signal came. Zero is a report too: it is what shows that the device watches for it."""
    exposure_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_EXPOSURE_MS)]
    """How long the period was, in time that the device ran."""


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    source: str
    type: str
    subject: str
    """Device id."""
    device_no: int
    """The gateway's resolution of ``subject``; checked against the assignment by the projector."""
    recorded_at: int
    """Milliseconds since the epoch, gateway clock."""
    v: int = VERSION
    time: int | None = None
    """Milliseconds since the epoch, device clock."""


class DeviceEvent(_Envelope, frozen=True, kw_only=True, omit_defaults=True):
    """The envelope. ``data`` stays raw until the type is known."""

    data: msgspec.Raw
    specversion: str = "1.0"


class UpdateEvent(_Envelope, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A ``device.update.*`` event whole, for readers of a whole log: one pass over its bytes.

    Whatever the type says, ``data`` is read as a report; who needs to know why something else is none reads a ``DeviceEvent``.
    """

    data: Report
    specversion: str = "1.0"


encode = msgspec.json.Encoder().encode
decode_event = msgspec.json.Decoder(DeviceEvent).decode
decode_update = msgspec.json.Decoder(UpdateEvent).decode
decode_report = msgspec.json.Decoder(Report).decode
decode_attributes = msgspec.json.Decoder(Attributes).decode
decode_health = msgspec.json.Decoder(Health).decode


def statement_id(device_id: str, action: str, canonical: bytes) -> str:
    """Identity of a report whose client sends no sequence number: 32 hex digits of ``sha256(device NUL action NUL body)``."""
    return sha256(b"\0".join((device_id.encode(), action.encode(), canonical))).hexdigest()[:32]


def health_id(device_id: str, report: Health) -> str:
    """Identity of a period's report: what it counts does not matter to which it is."""
    return statement_id(device_id, HEALTH, f"{report.signal}/{report.period}".encode())


def canonical_body(body: Any) -> bytes:
    """JSON with sorted keys and no spaces, so that the same statement has the same bytes however it was spaced."""
    return msgspec.json.encode(body, order="sorted")
