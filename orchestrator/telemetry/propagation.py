"""W3C trace context through Kafka headers, event metadata and workflow inputs.

There is one injector for Kafka, :func:`inject`. Consumers link to their producers instead of continuing their traces, as the messaging
conventions say: a batch has many causes. Not here: HTTP, which the framework's instrumentation covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

MAX_LINKS: Final = 32
"""Links of one batch span. More would be cut by most backends (128 is the SDK's limit) and no person reads them."""

Headers = Sequence[tuple[str, bytes]]
"""Headers of a Kafka record, as aiokafka has them."""

_FIELDS: Final = ("traceparent", "tracestate")
_propagator: Final = TraceContextTextMapPropagator()


def inject(headers: Headers = ()) -> list[tuple[str, bytes]]:
    """Headers for a record that is about to be produced: the given ones, with the current span's context."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    kept = [header for header in headers if header[0] not in _FIELDS]
    return kept + [(key, value.encode()) for key, value in carrier.items()]


def extract(headers: Headers) -> SpanContext | None:
    """Context that a consumed record carries; None if it carries none, or one that is not valid."""
    carrier = {key: value.decode("ascii", "replace") for key, value in headers if key in _FIELDS}
    return _context_of(carrier)


def parse_traceparent(traceparent: str | None) -> SpanContext | None:
    """Context of a ``traceparent`` string as events and workflow inputs keep it; None if there is none or it is not valid."""
    return _context_of({"traceparent": traceparent}) if traceparent else None


def current_traceparent() -> str | None:
    """The current span's context as a string, to be stored with what it causes; None outside of any span."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


def current_trace_id() -> str | None:
    """The current trace's id, 32 hex digits: what problem details and logs show."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def links(contexts: Iterable[SpanContext | None], limit: int = MAX_LINKS) -> list[Link]:
    """Links of a batch's span: sampled contexts, each once, spread evenly over the batch if there are more than ``limit``.

    Contexts that were not sampled are left out, because nothing can be found at the other end.
    """
    seen = {(c.trace_id, c.span_id): c for c in contexts if c is not None and c.trace_flags.sampled}
    found = list(seen.values())
    if len(found) > limit:
        found = [found[index * len(found) // limit] for index in range(limit)]
    return [Link(context) for context in found]


def links_of(records: Iterable[Headers], limit: int = MAX_LINKS) -> list[Link]:
    """Links of a batch's span from the headers of its records."""
    return links(map(extract, records), limit)


def _context_of(carrier: dict[str, str]) -> SpanContext | None:
    context = trace.get_current_span(_propagator.extract(carrier, context=_EMPTY)).get_span_context()
    return context if context.is_valid else None


_EMPTY: Final = trace.set_span_in_context(trace.INVALID_SPAN)
