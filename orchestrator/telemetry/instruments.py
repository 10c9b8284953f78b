"""The one table of instruments. Nothing else in the product creates one.

Names are OpenTelemetry's; on ``/metrics`` dots become underscores, counters end in ``_total`` and seconds in
``_seconds``. The allowed attributes stand beside each name and are enforced by views (:func:`views`): an attribute
that is not listed never becomes a series, so a device id cannot multiply them by the size of the fleet. Device ids,
serials, digests, URLs and free text are never listed.

Gauges and totals are observable and read a :class:`Board`, a cache that one reader fills: a scrape never waits for a
database, and a series whose campaign ended disappears with the next filling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation
from opentelemetry.sdk.metrics.view import View

SCOPE: Final = "bellwether"
"""Name of our meter and tracer; label ``otel_scope_name`` of every series."""

MAX_CAMPAIGN_SERIES: Final = 100_000
"""Series of one gauge by campaign, over the life of a process, about 1 KB each: the SDK drops what is no longer
observed from ``/metrics`` but counts it for ever. 200 campaigns of 8 phases and 12 states are 19,000. Every other
instrument folds its series above the SDK's 2,000 into ``otel.metric.overflow="true"``, which is an alert."""

MAX_CAMPAIGNS: Final = 200
"""Campaigns that fleet gauges show at once, the newest first; more running at a time is an alert, not more series."""

MESSAGING_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds; fixed by the messaging conventions (https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics)."""


class Kind(StrEnum):
    """What an instrument is."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"
    """Observable, fed through a :class:`Board`."""
    TOTAL = "total"
    """A counter whose value is read when it is shown: from truth, through a :class:`Board`, so that it survives the process, or
    from a :class:`Tally`."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the catalogue."""

    name: str
    kind: Kind
    unit: str
    attributes: frozenset[str]
    description: str
    buckets: tuple[float, ...] = ()
    max_series: int | None = None


def _row(name: str, kind: Kind, unit: str, attributes: str, description: str, **more: Any) -> Row:
    return Row(name, kind, unit, frozenset(attributes.split()), description, **more)


_MESSAGING: Final = (
    "messaging.system messaging.operation.name messaging.destination.name messaging.consumer.group.name error.type"
)
_C, _H, _G = Kind.COUNTER, Kind.HISTOGRAM, Kind.GAUGE

CATALOGUE: Final[Mapping[str, Row]] = {
    row.name: row
    for row in (
        _row(
            "ota.campaign.device.count",
            _G,
            "{device}",
            "campaign.id phase device.state",
            "Devices of a campaign by phase and assignment state, from the counter table.",
            max_series=MAX_CAMPAIGN_SERIES,
        ),
        _row(
            "ota.campaign.info",
            _G,
            "1",
            "campaign.id state release",
            "Always 1: labels of a live campaign to join on.",
            max_series=MAX_CAMPAIGN_SERIES,
        ),
        _row(
            "ota.campaign.breaker.held",
            _G,
            "1",
            "campaign.id stage cause",
            "1 for a campaign whose infrastructure breaker is not closed: an alert, and no verdict on the release.",
            max_series=MAX_CAMPAIGN_SERIES,
        ),
        _row(
            "ota.campaign.gate.harm_ratio",
            _G,
            "1",
            "campaign.id phase rule",
            "f/n over the devices started in the running gate epoch, of the rule's process that is nearest to its bound.",
            max_series=MAX_CAMPAIGN_SERIES,
        ),
        _row(
            "ota.campaign.gate.harm_ratio.limit",
            _G,
            "1",
            "campaign.id phase rule",
            "f*(n)/n of the same process: the ratio at which the rule halts.",
            max_series=MAX_CAMPAIGN_SERIES,
        ),
        _row(
            "ota.campaign.gate.evaluations",
            _C,
            "{evaluation}",
            "verdict reason",
            "Evaluations of a gate by verdict (halt, promote, hold) and reason.",
        ),
        _row(
            "ota.campaign.halts",
            Kind.TOTAL,
            "{halt}",
            "cause",
            "Halts that the event log holds, by who ordered them.",
        ),
        _row(
            "ota.device.transitions",
            _C,
            "{transition}",
            "to campaign.kind",
            "Changes of an assignment's state that were projected.",
        ),
        _row(
            "ota.device.failures", _C, "{failure}", "class", "Release failures, one per device and campaign, by class."
        ),
        _row("ota.events.ingested", Kind.TOTAL, "{event}", "type", "Device events that Kafka acknowledged."),
        _row("ota.events.rejected", _C, "{event}", "type reason", "Reports that a gateway refused."),
        _row("ota.gateway.put_off", _C, "{request}", "type reason", "Requests that were asked to come back later."),
        _row("ota.events.duplicates", _C, "{event}", "type", "Projected events that stated nothing new."),
        _row("ota.events.lag", _G, "s", "topic", "Now minus the time of the last processed event."),
        _row("ota.dlq.messages", _C, "{message}", "topic reason", "Records that went to the dead letters."),
        _row(
            "ota.projection.position.lag",
            _G,
            "{message}",
            "projection",
            "Records between a projection's position and the end of its log.",
        ),
        _row(
            "ota.projection.log.damaged",
            _G,
            "{partition}",
            "projection",
            "Partitions whose log lost facts before they were read: the projector has stopped, and waits for people.",
        ),
        _row(
            "ota.outbox.depth", _G, "{message}", "consumer", "Events of the log that a consumer has not been given yet."
        ),
        _row(
            "ota.webhook.deliveries",
            _C,
            "{attempt}",
            "type result",
            "Attempts to deliver a notification: delivered, failed (it is tried again) or dead (it is not).",
        ),
        _row("ota.outbox.oldest.age", _G, "s", "consumer", "Age of the oldest of them."),
        _row("ota.invariant.violations", _C, "{violation}", "invariant", "Promises found broken in production rows."),
        _row(
            "messaging.client.consumed.messages",
            _C,
            "{message}",
            _MESSAGING,
            "Messages that were delivered to the application.",
        ),
        _row(
            "messaging.client.sent.messages",
            _C,
            "{message}",
            _MESSAGING,
            "Messages that a producer attempted to send.",
        ),
        _row(
            "messaging.process.duration",
            _H,
            "s",
            _MESSAGING,
            "Duration of processing a batch.",
            buckets=MESSAGING_BUCKETS,
        ),
        _row(
            "messaging.client.operation.duration",
            _H,
            "s",
            _MESSAGING,
            "Duration of a send or poll.",
            buckets=MESSAGING_BUCKETS,
        ),
    )
}

ALLOWED_ATTRIBUTES: Final = frozenset().union(*(row.attributes for row in CATALOGUE.values()))
"""Every attribute that any of our series may carry."""

Point = tuple[float, Mapping[str, str]]
"""A value and its attributes."""


class Board:
    """Values of one gauge, replaced as a whole by whoever reads them."""

    __slots__ = ("_points", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._points: dict[tuple[tuple[str, str], ...], float] = {}

    def replace(self, points: Iterable[Point]) -> None:
        """Show these and no others."""
        self._points = {tuple(sorted(attributes.items())): value for value, attributes in points}

    def set(self, value: float, attributes: Mapping[str, str]) -> None:
        """Show this beside what is shown for other attributes."""
        # A new dictionary: a scrape in another thread may be walking over the old one.
        self._points = {**self._points, tuple(sorted(attributes.items())): value}

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        """Called by the SDK."""
        return [Observation(value, dict(key)) for key, value in self._points.items()]


class Tally:
    """A counter with one attribute for what happens thousands of times a second.

    Counting is one addition here; the SDK's own takes longer than reading the report that is counted.
    """

    __slots__ = ("_attribute", "_sums")

    def __init__(self, attribute: str) -> None:
        self._attribute = attribute
        self._sums: dict[str, int] = {}

    def count(self, value: str) -> None:
        """One more with this value of the attribute."""
        self._sums[value] = self._sums.get(value, 0) + 1

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        """Called by the SDK, perhaps in another thread."""
        return [Observation(total, {self._attribute: value}) for value, total in list(self._sums.items())]


class Instruments:
    """All instruments of the catalogue, made from one meter."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.device_count = self._board("ota.campaign.device.count")
        self.campaign_info = self._board("ota.campaign.info")
        self.breaker_held = self._board("ota.campaign.breaker.held")
        self.harm_ratio = self._board("ota.campaign.gate.harm_ratio")
        self.harm_ratio_limit = self._board("ota.campaign.gate.harm_ratio.limit")
        self.gate_evaluations = self._counter("ota.campaign.gate.evaluations")
        self.halts = self._board("ota.campaign.halts")
        self.transitions = self._counter("ota.device.transitions")
        self.failures = self._counter("ota.device.failures")
        self.events_ingested = self._tally("ota.events.ingested")
        self.events_rejected = self._counter("ota.events.rejected")
        self.gateway_put_off = self._counter("ota.gateway.put_off")
        self.events_duplicates = self._counter("ota.events.duplicates")
        self.events_lag = self._board("ota.events.lag")
        self.dead_letters = self._counter("ota.dlq.messages")
        self.position_lag = self._board("ota.projection.position.lag")
        self.log_damaged = self._board("ota.projection.log.damaged")
        self.outbox_depth = self._board("ota.outbox.depth")
        self.outbox_oldest_age = self._board("ota.outbox.oldest.age")
        self.webhook_deliveries = self._counter("ota.webhook.deliveries")
        self.invariant_violations = self._counter("ota.invariant.violations")
        self.consumed_messages = self._counter("messaging.client.consumed.messages")
        self.sent_messages = self._counter("messaging.client.sent.messages")
        self.process_duration = self._histogram("messaging.process.duration")
        self.operation_duration = self._histogram("messaging.client.operation.duration")

    def _counter(self, name: str) -> Counter:
        row = CATALOGUE[name]
        return self._meter.create_counter(row.name, row.unit, row.description)

    def _tally(self, name: str) -> Tally:
        row = CATALOGUE[name]
        (attribute,) = row.attributes
        tally = Tally(attribute)
        self._meter.create_observable_counter(row.name, [tally.observe], row.unit, row.description)
        return tally

    def _histogram(self, name: str) -> Histogram:
        row = CATALOGUE[name]
        return self._meter.create_histogram(
            row.name, row.unit, row.description, explicit_bucket_boundaries_advisory=row.buckets
        )

    def _board(self, name: str) -> Board:
        row = CATALOGUE[name]
        board = Board(name)
        create = (
            self._meter.create_observable_counter if row.kind is Kind.TOTAL else self._meter.create_observable_gauge
        )
        create(row.name, [board.observe], row.unit, row.description)
        return board


@cache
def instruments() -> Instruments:
    """The process's instruments. Before ``telemetry.setup`` they take values and keep none."""
    return Instruments(metrics.get_meter(SCOPE))


def views() -> Sequence[View]:
    """One view per instrument: what is not an allowed attribute is dropped before it makes a series."""
    return [
        View(
            instrument_name=row.name,
            meter_name=SCOPE,
            attribute_keys=set(row.attributes),
            aggregation_cardinality_limit=row.max_series,
        )
        for row in CATALOGUE.values()
    ]


def kafka(operation: str, destination: str, *, group: str = "", error: str = "") -> dict[str, str]:
    """Attributes of the ``messaging.*`` instruments.

    Args:
        operation: ``send``, ``poll`` or ``process``.
        destination: topic, with the deployment's prefix.
        group: consumer group, for consumers.
        error: class name of what was raised.
    """
    attributes = {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.destination.name": destination,
    }
    if group:
        attributes["messaging.consumer.group.name"] = group
    if error:
        attributes["error.type"] = error
    return attributes
