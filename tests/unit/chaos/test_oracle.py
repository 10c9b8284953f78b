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


# --------------------------------------------------------------------------- what people were told, and strata that are halted alone


def tables(*events, ledger=()):
    """Of one campaign: its events as (type, data), and rows of the ledger."""
    created = ("CampaignCreated", {"campaign_no": 1, "name": "n", "release_id": "rel_1"})
    log = [
        {
            "position": i,
            "stream": "campaign/cmp_1",
            "version": i,
            "type": kind,
            "data": data,
            "prev_hash": b"",
            "hash": b"",
        }
        for i, (kind, data) in enumerate([created, *events], 1)
    ]
    return {name: [] for name in witnesses.TABLES} | {"event_log": log, "decision_ledger": list(ledger)}


def found(checks, evidence):
    case_ = case.Case(evidence, case.Verdict())
    for check in checks:
        check(case_)
    return {kind: n for kind, n in case_.verdict.counts.items() if n}


LAUNCHED = ("CampaignLaunched", {"gate_epoch": 1, "ledger_position": 0})


@pytest.mark.parametrize(
    ("events", "told", "expected"),
    [
        ([LAUNCHED], {"CampaignCreated": 1, "CampaignLaunched": 1}, {}),
        ([LAUNCHED, LAUNCHED], {"CampaignCreated": 1, "CampaignLaunched": 1}, {"doubled": 1}),
        ([], {"CampaignCreated": 1, "CampaignLaunched": 1}, {"lost": 1}),
    ],
)
def test_a_command_is_in_the_log_as_often_as_its_author_was_told(events, told, expected):
    evidence = case.Evidence(tables(*events), [], told={("cmp_1", kind): n for kind, n in told.items()})
    assert found([logs.commands], evidence) == expected


def test_a_campaign_that_was_written_and_is_not_there_is_lost():
    evidence = case.Evidence(tables(), [], told={("cmp_2", "CampaignCreated"): 1})
    assert found([logs.commands], evidence) == {"lost": 1}


def ledger_row(position, kind, devices, **changes):
    row = {"position": position, "kind": kind, "campaign_no": 1, "device_nos": devices, "at": position, "attempt": 1}
    return row | {"phase": 0, "stratum": 0, "gate_epoch": 1, "action_base": 10 * position, "cause": None} | changes


RULE = {
    "name": "strata",
    "scope": "stratum",
    "halts": "stratum",
    "min_failures": 1,
    "horizons": [0, 9],
    "levels": [[0, 9]],
}
SUBMITTED = ("CampaignSubmitted", {"dossier": {"strata": {"a": 2, "b": 2}, "rules": [RULE], "plan": {}}})
HALTED_B = (
    "StratumHalted",
    {"stratum": "b", "ledger_position": 3, "gate_epoch": 1, "rule": "strata", "n": 1, "f": 1, "bound": 1},
)


@pytest.mark.parametrize(("stratum", "expected"), [(0, {}), (1, {"after_halt": 1})])
def test_nothing_of_a_stratum_that_was_halted_alone_may_be_offered_any_more(stratum, expected):
    rows_ = [ledger_row(1, "enrol", [1, 2]), ledger_row(2, "enrol", [3], stratum=1), ledger_row(3, "offer", [1])]
    rows_.append(ledger_row(4, "offer", [3 if stratum else 2]))
    evidence = case.Evidence(tables(SUBMITTED, LAUNCHED, HALTED_B, ledger=rows_), [])
    assert found([logs.ledger, logs.controls], evidence) == expected


@pytest.mark.parametrize(
    ("events", "expected"), [([HALTED_B], {}), ([], {"unhalted": 1}), ([HALTED_B] * 2, {"doubled": 1})]
)
def test_a_stratum_that_crosses_is_halted_once(events, expected):
    offers = [ledger_row(1, "enrol", [1]), ledger_row(2, "enrol", [3], stratum=1), ledger_row(3, "offer", [1, 3])]
    case_ = case.Case(case.Evidence(tables(SUBMITTED, LAUNCHED, *events, ledger=offers), []), case.Verdict())
    logs.ledger(case_)
    for device, history in case_.histories.items():
        state = "reverted" if device == (1, 3) else "confirmed"
        history.said.append(Said(1, state, 5, "boot" if state == "reverted" else None))
    rows.assignments(case_)
    case_.verdict = case.Verdict()
    case_.note = case_.verdict.note
    gates.gates(case_)
    assert {kind: n for kind, n in case_.verdict.counts.items() if n} == expected
