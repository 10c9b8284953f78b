"""From records to what a projecting transaction needs: decoded, checked, resolved; or a dead letter with its reason.

Nothing here raises for bad input, so no record can block a partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import asyncpg
import msgspec

from orchestrator.adapters.sql import component_rows, health
from orchestrator.adapters.sql.actions import ActionRange, ActionRanges
from orchestrator.domain.assignment import Observation, State
from orchestrator.domain.components import ComponentState
from schemas import device_events as d

MAX_RECORD = 1 << 20
"""Bytes. Larger than any client's report; the gateway refuses far smaller ones."""
_MAX_INT = 2**31 - 1
_MAX_TIME = 2**53


class Record(Protocol):
    """What the consumer delivers (aiokafka's ConsumerRecord)."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A fact about an assignment, with where it stands in the log."""

    observation: Observation
    partition: int
    offset: int


@dataclass(slots=True)
class FactBatch:
    """A transaction's worth of records."""

    seen: dict[tuple[int, int], list[Seen]] = field(default_factory=dict)
    """By (device_no, campaign_no), in the order of the log."""
    attributes: dict[int, list[tuple[int, d.Attributes]]] = field(default_factory=dict)
    """Device number to (recorded_at, report), in the order of the log."""
    components: dict[component_rows.Key, ComponentState] = field(default_factory=dict)
    """What the records say of components, joined."""
    health: health.Reports = field(default_factory=dict)
    timeline: list[tuple[Any, ...]] = field(default_factory=list)
    dead: list[tuple[Any, ...]] = field(default_factory=list)


class _RefusedError(Exception):
    def __init__(self, code: str, detail: str, event_id: str | None = None) -> None:
        self.code, self.detail, self.event_id = code, detail, event_id


_STATES = {event_type: State(state) for event_type, state in d.UPDATE_STATES.items()}
_UPDATES = d.TYPES - {d.ATTRIBUTES, d.HEALTH}
_NO_REPORT = (None, None, None, None)


def _clean(text: str | None, limit: int) -> str | None:
    # PostgreSQL's text holds no NUL.
    if text is None or (len(text) <= limit and "\0" not in text):
        return text
    return text.replace("\0", "")[:limit]


def _update(record: Record) -> d.UpdateEvent | None:
    """A sound update, in one pass over its bytes; None for anything else, which :func:`_event` looks into."""
    value = record.value
    if value is None or len(value) > MAX_RECORD:
        return None
    try:
        event = d.decode_update(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    sound = (
        event.type in _UPDATES
        and event.v == d.VERSION
        and 0 < event.device_no <= _MAX_INT
        and 0 < event.recorded_at < _MAX_TIME
        and 0 < event.data.action_id <= _MAX_INT
    )
    return event if sound else None


def _event(record: Record) -> d.DeviceEvent:
    if record.value is None:
        raise _RefusedError("event.empty", "The record has no value.")
    if len(record.value) > MAX_RECORD:
        raise _RefusedError("event.too_large", f"The record has {len(record.value)} bytes.")
    try:
        event = d.decode_event(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _RefusedError("event.malformed", str(error)) from error
    event_id = _clean(event.id, 64)
    if event.type not in d.TYPES:
        raise _RefusedError("event.unknown_type", f"There is no event type {event.type!r}.", event_id)
    if event.v != d.VERSION:
        raise _RefusedError("event.unknown_version", f"{event.type} has no version {event.v}.", event_id)
    if not 0 < event.device_no <= _MAX_INT or not 0 < event.recorded_at < _MAX_TIME:
        raise _RefusedError("event.out_of_range", "device_no or recorded_at is out of range.", event_id)
    return event


def _report(event: d.DeviceEvent) -> d.Report:
    try:
        report = d.decode_report(event.data)
    except msgspec.DecodeError as error:
        raise _RefusedError("event.malformed", str(error), event.id) from error
    if not 0 < report.action_id <= _MAX_INT:
        raise _RefusedError("event.out_of_range", "action_id is out of range.", event.id)
    return report


def _take_attributes(batch: FactBatch, partition: int, offset: int, event: d.DeviceEvent) -> None:
    event_id = _clean(event.id, 64)
    try:
        reported = d.decode_attributes(event.data)
    except msgspec.DecodeError as error:
        raise _RefusedError("event.malformed", str(error), event_id) from error
    batch.attributes.setdefault(event.device_no, []).append((event.recorded_at, reported))
    runs = reported.version or None, reported.digest or None
    batch.timeline.append(
        (partition, offset, event.device_no, None, None, event_id, event.type, event.recorded_at, *_NO_REPORT, *runs)
    )


def _take_health(batch: FactBatch, partition: int, offset: int, event: d.DeviceEvent) -> None:
    event_id = _clean(event.id, 64)
    try:
        report = d.decode_health(event.data)
    except msgspec.DecodeError as error:
        raise _RefusedError("event.malformed", str(error), event_id) from error
    key, numbers = health.keyed(event.device_no, event.recorded_at, report)
    batch.health[key] = min(numbers, batch.health.get(key, numbers))
    # The numbers stand in the timeline too: it is what is kept of a log that is lost.
    detail = d.encode(report).decode()
    batch.timeline.append(
        (
            partition,
            offset,
            event.device_no,
            None,
            None,
            event_id,
            event.type,
            event.recorded_at,
            None,
            None,
            detail,
            None,
            None,
            None,
        )
    )


def _take_report(
    batch: FactBatch,
    partition: int,
    offset: int,
    event: d.UpdateEvent | d.DeviceEvent,
    report: d.Report,
    given: ActionRange | None,
) -> None:
    device_no = event.device_no
    if given is None:
        raise _RefusedError("event.unknown_action", f"Action {report.action_id} was never given.", event.id)
    if given.device(report.action_id) != device_no:
        raise _RefusedError("event.foreign_action", f"Action {report.action_id} was given to another device.", event.id)
    failure_class, reason, detail = report.failure_class, report.reason, report.detail
    if failure_class is not None or reason is not None or detail is not None:
        failure_class, reason, detail = _clean(failure_class, 32), _clean(reason, 64), _clean(detail, 1024)
    at = event.recorded_at
    state = _STATES.get(event.type)
    if state is not None:
        observation = Observation(
            attempt=given.attempt,
            state=state,
            at=at,
            failure_class=failure_class,
            reason=reason,
            gate_epoch=given.gate_epoch,
        )
        key = (device_no, given.campaign_no)
        seen = Seen(observation, partition, offset)
        if key in batch.seen:
            batch.seen[key].append(seen)
        else:
            batch.seen[key] = [seen]
    components: str | None = None
    if report.components:
        said = component_rows.sound(report.components)
        components = msgspec.json.encode(said).decode() if said else None
        component_rows.collect(
            batch.components,
            component_rows.states(device_no, given.campaign_no, given.attempt, at, failure_class, said),
        )
    batch.timeline.append(
        (
            partition,
            offset,
            device_no,
            given.campaign_no,
            given.attempt,
            _clean(event.id, 64),
            event.type,
            at,
            failure_class,
            reason,
            detail,
            components,
            None,
            None,
        )
    )


async def read_batch(
    conn: asyncpg.Connection,
    actions: ActionRanges,
    topic: str,
    records: dict[int, Sequence[Record]],
    now: int,
) -> FactBatch:
    """Decode and resolve ``records`` by partition."""
    batch = FactBatch()
    for partition, items in sorted(records.items()):
        for record in items:
            try:
                event = _update(record)
                if event is not None:
                    report = event.data
                else:
                    event = _event(record)
                    if event.type == d.ATTRIBUTES:
                        _take_attributes(batch, partition, record.offset, event)
                        continue
                    if event.type == d.HEALTH:
                        _take_health(batch, partition, record.offset, event)
                        continue
                    report = _report(event)
                # Awaited only for a range that was not seen before: a coroutine per record costs more than its JSON.
                given = actions.known(report.action_id) or await actions.find(conn, report.action_id)
                _take_report(batch, partition, record.offset, event, report, given)
            except _RefusedError as refused:
                batch.dead.append(
                    dead_letter(topic, partition, record, refused.code, refused.detail, refused.event_id, now)
                )
    return batch


def dead_letter(
    topic: str, partition: int, record: Record, code: str, detail: str, event_id: str | None, now: int
) -> tuple[Any, ...]:
    """A row of ``dead_letter``. Its time is the broker's where the record has one, so that a rebuild gives the same row."""
    at = getattr(record, "timestamp", None)
    return (
        topic,
        partition,
        record.offset,
        code,
        detail.replace("\0", "")[:1024],
        event_id,
        record.key,
        record.value or b"",
        now if at is None or at < 0 else at,
    )
