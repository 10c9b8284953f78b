"""The oracle stands alone: what it judges must not be what it is made of."""

from __future__ import annotations

import ast
from itertools import permutations
from pathlib import Path

import pytest

from tests.support import oracle, retelling, witnesses
from tests.support.oracle import case, facts, gates, logs, rows
from tests.support.retelling import Action, History, RefusedError, Said, read_fact
from tests.support.witnesses import LogRecord, Truth

OURS = {"orchestrator", "workflows", "api", "schemas", "firmware"}


@pytest.mark.parametrize("module", [oracle, case, facts, gates, logs, rows, retelling, witnesses])
def test_it_imports_nothing_of_the_product(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert OURS.isdisjoint(name.split(".")[0] for name in named)


def test_the_outcome_is_the_highest_rank_at_its_earliest_time_in_any_order():
    said = [
        Said(1, "confirmed", 30),
        Said(1, "reverted", 50, "boot"),
        Said(1, "reverted", 40, "health"),
        Said(1, "trial", 20),
    ]
    rows = []
    for order in permutations(said):
        history = History(0, 0, {1: (7, 1, 10)}, list(order))
        rows.append(history.row(1, 1))
    assert all(row == rows[0] for row in rows)
    assert (rows[0]["state"], rows[0]["changed_at"], rows[0]["progress"]) == ("reverted", 40, "trial")
    assert (rows[0]["failed_at"], rows[0]["failed_class"], rows[0]["started_at"]) == (40, "health", 20)


def test_the_latest_attempt_shows_and_the_first_start_and_failure_stay():
    history = History(0, 0, {1: (7, 1, 10), 2: (9, 2, 60)}, [Said(1, "failed", 20, None), Said(1, "expired", 50)])
    row = history.row(1, 1)
    assert (row["attempt"], row["action_id"], row["state"], row["started_at"]) == (2, 9, "offered", None)
    assert (row["first_started_at"], row["first_started_epoch"], row["failed_at"]) == (20, 1, 20)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "event.empty"),
        (b"{", "event.malformed"),
        (b"[]", "event.malformed"),
        (b"x" * (retelling.LARGEST_RECORD + 1), "event.too_large"),
    ],
)
def test_what_is_no_event_is_refused_under_its_code(value, code):
    with pytest.raises(RefusedError, match=code):
        read_fact(LogRecord(0, 0, value), {})


def test_an_action_speaks_only_for_the_device_it_was_given_to():
    value = (
        b'{"id":"e","source":"s","type":"device.update.trial_started","subject":"d","device_no":3,"recorded_at":5,'
        b'"data":{"action_id":9}}'
    )
    actions = {9: Action(campaign=1, device=3, attempt=2, epoch=1)}
    assert read_fact(LogRecord(0, 0, value), actions).said == Said(2, "trial", 5)
    with pytest.raises(RefusedError, match=r"event\.foreign_action"):
        read_fact(LogRecord(0, 0, value.replace(b'"device_no":3', b'"device_no":4')), actions)


def test_a_truth_file_is_read_up_to_a_line_that_is_still_being_written(tmp_path):
    file = tmp_path / "truth"
    file.write_text('{"what":"acknowledged","t":1,"device":"d","state":"attributes","event_id":"e"}\n{"what":"ackn')
    assert Truth.read(file).acknowledged == [("d", "", "attributes", "e")]
