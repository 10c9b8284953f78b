"""Logs: one JSON object per line on standard error, from structlog and from libraries alike.

Every line carries ``trace_id`` and ``span_id`` when it was written inside a span, and what was bound with
``structlog.contextvars.bind_contextvars`` (``campaign_id``, ``device_id``, …). Logs may carry device ids, metrics may
not. Logs are not the audit: that is the event log.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Final, TextIO

import msgspec
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor

NOISY_LOGGERS: Final = ("aiokafka", "faust", "mode", "temporalio", "opentelemetry")
"""Libraries that write the same line for every attempt while a server is away: thousands per minute."""

REPEAT_INTERVAL: Final = 10.0
"""Seconds in which one message of a noisy library is written once; the next one says how many were left out."""

MAX_REMEMBERED: Final = 1_000
"""Messages that the limiter remembers; at the limit it forgets all, which costs one more line each."""


class RepeatLimiter(logging.Filter):
    """Lets a message of the noisy loggers through once per interval. Messages are told apart before their arguments are filled in."""

    def __init__(self, interval: float = REPEAT_INTERVAL, clock: Any = time.monotonic) -> None:
        super().__init__()
        self._interval = interval
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(NOISY_LOGGERS):
            return True
        key, now = (record.name, str(record.msg)), self._clock()
        last, dropped = self._seen.get(key, (None, 0))
        if last is not None and now - last < self._interval:
            self._seen[key] = (last, dropped + 1)
            return False
        if len(self._seen) >= MAX_REMEMBERED:
            self._seen.clear()
        self._seen[key] = (now, 0)
        record.suppressed = dropped
        return True


def configure(role: str, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send all logs of this process to ``stream`` (standard error) as JSON lines. Replaces what was configured before."""
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *common,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(RepeatLimiter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*common, _add_suppressed],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _Role(role),
                structlog.processors.JSONRenderer(serializer=_to_json),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # One line per request is what traces are for.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


class _Role:
    """Adds which role wrote the line."""

    def __init__(self, role: str) -> None:
        self._role = role

    def __call__(self, _logger: Any, _name: str, event: EventDict) -> EventDict:
        event["role"] = self._role
        return event


def _add_trace(_logger: Any, _name: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _add_suppressed(_logger: Any, _name: str, event: EventDict) -> EventDict:
    record: logging.LogRecord | None = event.get("_record")
    if record is not None and (dropped := getattr(record, "suppressed", 0)):
        event["suppressed"] = dropped
    return event


def _to_json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
