from __future__ import annotations

import re

import pytest
from opentelemetry import trace

from orchestrator.telemetry import propagation

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"
NOT_SAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"


def test_a_record_carries_the_context_of_the_span_that_produced_it(telemetry):
    with telemetry.tracer.start_as_current_span("command") as span:
        headers = propagation.inject([("content-type", b"x"), ("traceparent", b"stale")])
        traceparent = propagation.current_traceparent()
        trace_id = propagation.current_trace_id()
    assert dict(headers)["content-type"] == b"x"
    assert [value for key, value in headers if key == "traceparent"] == [traceparent.encode()]
    found = propagation.extract(headers)
    assert found is not None
    assert (found.trace_id, found.span_id) == (span.get_span_context().trace_id, span.get_span_context().span_id)
    assert trace_id == traceparent.split("-")[1] == trace.format_trace_id(found.trace_id)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", traceparent)


def test_outside_of_any_span_there_is_nothing_to_carry():
    assert propagation.inject() == []
    assert propagation.current_traceparent() is None
    assert propagation.current_trace_id() is None


@pytest.mark.parametrize(
    "value", [b"", b"nonsense", b"\xff\xfe", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", b"00-abc-def-01"]
)
def test_a_header_that_is_not_valid_is_no_context(value):
    assert propagation.extract([("traceparent", value)]) is None
    assert propagation.links_of([[("traceparent", value)], []]) == []


def test_a_record_without_context_does_not_inherit_that_of_the_batch(telemetry):
    with telemetry.tracer.start_as_current_span("batch"):
        assert propagation.extract([]) is None
        assert propagation.parse_traceparent(None) is None


def test_a_batch_links_to_each_sampled_cause_once():
    contexts = [propagation.parse_traceparent(text) for text in (SAMPLED, SAMPLED, NOT_SAMPLED, None)]
    (link,) = propagation.links(contexts)
    assert trace.format_trace_id(link.context.trace_id) == TRACE


def test_a_batch_has_at_most_32_links_spread_over_all_of_it():
    contexts = [propagation.parse_traceparent(f"00-{number:032x}-b7ad6b7169203331-01") for number in range(1, 1001)]
    found = [link.context.trace_id for link in propagation.links(contexts)]
    assert len(found) == propagation.MAX_LINKS == 32
    assert found == sorted(set(found))
    assert found[-1] > 950


def test_the_trace_of_a_command_is_found_in_the_links_of_the_batch_span(telemetry):
    with telemetry.tracer.start_as_current_span("command") as command:
        stored = propagation.current_traceparent()
    links = propagation.links([propagation.parse_traceparent(stored)])
    with telemetry.tracer.start_as_current_span("process", links=links) as batch:
        assert [link.context.trace_id for link in batch.links] == [command.get_span_context().trace_id]
        assert batch.get_span_context().trace_id != command.get_span_context().trace_id
