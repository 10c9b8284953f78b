"""JSON Schemas of everything on the wire, generated from the structs that are the source.

``python -m schemas.export`` writes ``schemas/json``; a test compares the files with the code, and allows additions only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from schemas import campaign_events, device_events, fleet_events, ledger, log_events, owner_events, registry_events

FOLDER = Path(__file__).parent / "json"


def documents() -> dict[str, dict[str, Any]]:
    """File name to schema."""
    found: dict[str, dict[str, Any]] = {
        "device-event.json": msgspec.json.schema(device_events.DeviceEvent),
        "device-report.json": msgspec.json.schema(device_events.Report),
        "device-attributes.json": msgspec.json.schema(device_events.Attributes),
        "device-health.json": msgspec.json.schema(device_events.Health),
        "ledger-entry.json": msgspec.json.schema(ledger.Entry),
    }
    for module in (campaign_events, registry_events, log_events, fleet_events, owner_events):
        for name, struct in module.EVENT_TYPES.items():
            found[f"{name}.json"] = msgspec.json.schema(struct)
    return found


def text(document: dict[str, Any]) -> str:
    """Stable text of a schema."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all schemas."""
    FOLDER.mkdir(exist_ok=True)
    for name, document in documents().items():
        (FOLDER / name).write_text(text(document), encoding="utf-8")


if __name__ == "__main__":
    main()
