"""Identity of a report, by the same function as the gateway's: what was acknowledged can be looked up in what was stored."""

from __future__ import annotations

from typing import Any

from schemas.device_events import canonical_body, statement_id


def report_id(device_id: str, action: str, body: dict[str, Any], *, cancel: bool) -> str:
    """Event id of a feedback on a deployment or, with ``cancel``, on a request to cancel."""
    del cancel
    return statement_id(device_id, action, canonical_body(body))


def attributes_id(device_id: str, body: dict[str, Any]) -> str:
    """Event id of a configData."""
    return statement_id(device_id, "configData", canonical_body(body))
