from __future__ import annotations

import io
import json
import logging
import warnings

import pytest
import structlog
from opentelemetry import trace

from orchestrator.telemetry import logs


@pytest.fixture
def lines():
    """Configured logs; ``lines()`` are what was written since."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    with warnings.catch_warnings():
        logs.configure("api", stream=stream)
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_line_is_one_json_object_with_the_trace_it_belongs_to(telemetry, lines):
    with (
        telemetry.tracer.start_as_current_span("command") as span,
        structlog.contextvars.bound_contextvars(campaign_id="cmp_a"),
    ):
        structlog.get_logger("here").info("campaign.launched", phase=0)
    (line,) = lines()
    context = span.get_span_context()
    assert line["trace_id"] == trace.format_trace_id(context.trace_id)
    assert line["span_id"] == trace.format_span_id(context.span_id)
    expected = {
        "event": "campaign.launched",
        "phase": 0,
        "campaign_id": "cmp_a",
        "role": "api",
        "level": "info",
        "logger": "here",
    }
    assert expected.items() <= line.items()


def test_lines_of_libraries_look_the_same(lines):
    logging.getLogger("library").warning("lost %s of %d", "one", 2)
    (line,) = lines()
    assert (line["event"], line["level"], line["logger"], line["role"]) == (
        "lost one of 2",
        "warning",
        "library",
        "api",
    )
    assert "trace_id" not in line


def test_an_exception_stays_on_its_line(lines):
    try:
        int("broken\nin two")
    except ValueError:
        structlog.get_logger("here").exception("step.failed")
    (line,) = lines()
    assert "ValueError: invalid literal" in line["exception"]


def test_what_json_does_not_know_is_written_by_its_name(lines):
    structlog.get_logger("here").info("odd", thing=object(), path={1, 2})
    (line,) = lines()
    assert "object object" in line["thing"]


def test_a_library_that_repeats_itself_is_heard_once_per_interval():
    now = [0.0]
    limiter = logs.RepeatLimiter(10.0, clock=lambda: now[0])

    def heard(name: str, message: str, *args: object) -> logging.LogRecord | None:
        record = logging.LogRecord(name, logging.ERROR, __file__, 1, message, args, None)
        return record if limiter.filter(record) else None

    assert heard("aiokafka.conn", "no broker at %s", "a")
    assert not heard("aiokafka.conn", "no broker at %s", "b")
    assert not heard("aiokafka.conn", "no broker at %s", "a")
    assert heard("aiokafka.conn", "something else")
    assert all(heard("orchestrator.relay", "ours") for _ in range(3))
    now[0] = 10.0
    assert heard("aiokafka.conn", "no broker at %s", "c").suppressed == 2


def test_the_limiter_does_not_grow_without_end():
    limiter = logs.RepeatLimiter()
    for number in range(3 * logs.MAX_REMEMBERED):
        limiter.filter(logging.LogRecord("aiokafka", logging.ERROR, __file__, 1, f"unique {number}", (), None))
    assert len(limiter._seen) <= logs.MAX_REMEMBERED


def test_how_often_a_message_was_left_out_is_on_the_next_line(lines):
    handler = next(h for h in logging.getLogger().handlers if any(isinstance(f, logs.RepeatLimiter) for f in h.filters))
    now = [0.0]
    handler.filters[:] = [logs.RepeatLimiter(10.0, clock=lambda: now[0])]
    for _ in range(5):
        logging.getLogger("aiokafka").error("no broker")
    now[0] = 11.0
    logging.getLogger("aiokafka").error("no broker")
    assert [line.get("suppressed") for line in lines()] == [None, 4]
