"""Identity of a report, by the gateway's own functions: what was acknowledged can be looked up in what was stored."""

from __future__ import annotations

from api.devices.ddi_reports import CONFIG_DATA, parse_attributes, parse_feedback
from api.devices.native import parse_health
from schemas.device_events import health_id, statement_id


def report_id(device_id: str, action: str, body: bytes, *, cancel: bool) -> str:
    """Event id of a feedback on a deployment or, with ``cancel``, on a request to cancel."""
    return parse_feedback(body).event_id(device_id, int(action), cancel=cancel)


def attributes_id(device_id: str, body: bytes) -> str:
    """Event id of a configData."""
    _, canonical = parse_attributes(body)
    return statement_id(device_id, CONFIG_DATA, canonical)


def health_report_id(device_id: str, body: bytes) -> str:
    """Event id of a report on health."""
    return health_id(device_id, parse_health(body))
