from __future__ import annotations

import msgspec
import pytest

from orchestrator.demo.evidence import FleetEvidence
from orchestrator.simfleet.truth import Line, TruthLog

HALTED_AT = 1_700_000_000_000
MS = 1_000_000


@pytest.fixture
def evidence(tmp_path) -> FleetEvidence:
    with TruthLog(tmp_path / "truth") as truth:
        for event_id in ("a", "b", "c"):
            truth.sent("dev-1", "7", "accepted", event_id)
        for event_id in ("a", "b"):
            truth.acknowledged("dev-1", "7", "accepted", event_id)
        truth.revealed("dev-1", "1000017", (HALTED_AT - 5) * MS)
        truth.revealed("dev-2", "1000018", (HALTED_AT + 5) * MS)
        truth.revealed("dev-3", "1000019", (HALTED_AT + 6) * MS)
    return FleetEvidence.read(tmp_path / "truth")


def test_what_was_acknowledged_and_is_nowhere_is_missing(evidence):
    assert evidence.compare({"a"}, set()).missing == 1
    assert evidence.compare({"a"}, {"b"}).missing == 0


def test_what_is_stored_and_was_never_sent_is_extra(evidence):
    assert evidence.compare({"a", "b", "x"}, {"y"}).extra == 2


def test_what_is_stored_although_its_answer_was_lost_is_told_apart(evidence):
    events = evidence.compare({"a", "b", "c"}, set())
    assert (events.missing, events.extra, events.unacknowledged) == (0, 0, 1)


def test_repeated_statements_count_once(evidence, tmp_path):
    with TruthLog(tmp_path / "truth") as truth:
        truth.acknowledged("dev-1", "7", "accepted", "a")
    assert FleetEvidence.read(tmp_path / "truth").compare(set(), set()).acknowledged == 2


def test_only_requests_sent_after_the_halt_count_as_revealed_and_only_of_that_campaign(evidence):
    actions = {1000017: "cmp_a", 1000018: "cmp_a", 1000019: "cmp_b"}
    assert evidence.revealed_after("cmp_a", HALTED_AT, actions) == 1
    assert evidence.revealed_after("cmp_b", HALTED_AT, actions) == 1
    assert evidence.revealed_after("cmp_c", HALTED_AT, actions) == 0


def test_a_line_that_is_half_written_is_left_out(evidence, tmp_path):
    with (tmp_path / "truth").open("ab") as file:
        file.write(msgspec.json.encode(Line(what="sent", t=1, device="dev-9", event_id="z")))
    assert FleetEvidence.read(tmp_path / "truth").sent == evidence.sent
