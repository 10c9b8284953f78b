"""The wire does not break: schemas are exported, every sample ever shipped still decodes, changes are additions."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from schemas import (
    campaign_events,
    device_events,
    export,
    fleet_events,
    ledger,
    log_events,
    owner_events,
    registry_events,
)

GOLDEN = Path(export.__file__).parent / "golden"
SAMPLES = sorted(path.name for path in GOLDEN.glob("*.json"))
EVENTS = campaign_events.EVENT_TYPES | registry_events.EVENT_TYPES | log_events.EVENT_TYPES | fleet_events.EVENT_TYPES
EVENTS |= owner_events.EVENT_TYPES


def test_the_exported_schemas_are_those_of_the_code():
    for name, document in export.documents().items():
        assert (export.FOLDER / name).read_text(encoding="utf-8") == export.text(document), name
    assert {path.name for path in export.FOLDER.glob("*.json")} == set(export.documents())


@pytest.mark.parametrize("name", SAMPLES)
def test_every_shipped_sample_decodes_and_keeps_what_it_says(name):
    raw = (GOLDEN / name).read_bytes()
    kind, _, _ = name.removesuffix(".v1.json").partition("+")  # what follows is an addition to the type's first sample
    if kind.startswith("device."):
        event = device_events.decode_event(raw)
        bodies = {
            device_events.ATTRIBUTES: device_events.decode_attributes,
            device_events.HEALTH: device_events.decode_health,
        }
        bodies.get(kind, device_events.decode_report)(event.data)
        again = device_events.encode(event)
    elif kind.startswith("ledger."):
        again = msgspec.json.encode(msgspec.json.decode(raw, type=ledger.Entry))
    else:
        again = msgspec.json.encode(msgspec.json.decode(raw, type=EVENTS[kind]))
    said, kept = json.loads(raw), json.loads(again)
    assert {key: kept[key] for key in said if said[key] is not None and key in kept} == {
        key: value for key, value in said.items() if value is not None and key in kept
    }
    assert not {key for key, value in said.items() if value and key not in kept}


def test_there_is_a_sample_of_every_type():
    wanted = {f"{name}.v1.json" for name in EVENTS}
    wanted |= {f"{kind}.v1.json" for kind in device_events.TYPES}
    wanted |= {f"ledger.{kind}.v1.json" for kind in ledger.Kind}
    assert wanted <= set(SAMPLES)


def test_a_statement_keeps_its_identity_however_its_json_is_spaced():
    first = device_events.canonical_body(json.loads('{"b": 1, "a": {"d": 2, "c": 3}}'))
    second = device_events.canonical_body(json.loads('{"a":{"c":3,"d":2},"b":1}'))
    assert device_events.statement_id("dev-1", "7", first) == device_events.statement_id("dev-1", "7", second)
    assert device_events.statement_id("dev-1", "7", first) != device_events.statement_id("dev-2", "7", first)
    assert device_events.statement_id("dev-1", "7", first) != device_events.statement_id("dev-1", "8", first)


@pytest.mark.parametrize("kind", [kind for kind in ledger.Kind if kind is not ledger.Kind.UNKNOWN])
def test_a_ledger_row_of_a_kind_that_is_older_than_seen_is_hashed_without_it(kind):
    entry = msgspec.json.decode((GOLDEN / f"ledger.{kind}.v1.json").read_bytes(), type=ledger.Entry)
    assert b"seen" not in msgspec.json.encode(entry)
