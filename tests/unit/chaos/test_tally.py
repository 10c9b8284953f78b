"""What a session says at its end."""

from __future__ import annotations

from tests.chaos.tally import Tally


def outcome(**changes):
    return {
        "defect": None,
        "kills": {"kafka": 1, "idle": 0},
        "findings": {"lost": 0, "unhalted": 0},
        "facts": 5,
    } | changes


def test_kills_and_findings_are_summed_and_the_last_line_says_it_all():
    tally = Tally()
    tally.add(outcome())
    tally.add(outcome(findings={"lost": 2, "unhalted": 1}))
    *kills, last = tally.lines(7)
    assert kills == ["   2 kills  kafka"]
    assert last == (
        "seed 7: 2 scenarios, 10 facts, 2 kills; 2 lost, 0 doubled, 0 misordered, 0 offers after a halt, 1 other"
    )


def test_what_is_found_of_a_planted_defect_is_no_finding_of_the_session():
    tally = Tally()
    tally.add(outcome(defect="no-fencing", findings={"lost": 2}))
    assert (tally.scenarios, tally.kills.total(), tally.findings.total()) == (0, 0, 0)
    assert "planted no-fencing: 2 findings" in tally.lines(7)
