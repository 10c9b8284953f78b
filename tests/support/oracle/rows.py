"""The projections, row by row: assignments, slots, queues, counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.support.oracle.case import Case, of
from tests.support.retelling import ACTIVE, holds_slot


def assignments(case: Case) -> None:
    """Every assignment as the fold of both logs, and every slot as its assignment."""
    case.rows = {key: history.row(*key) for key, history in case.histories.items() if history.offers}
    case.verdict.assignments = len(case.rows)
    found = {(row["campaign_no"], row["device_no"]): row for row in case.tables["assignment"]}
    for key in case.rows.keys() | found.keys():
        expected, row = case.rows.get(key), found.get(key)
        if expected != row:
            what = "lost" if row is None else "doubled" if expected is None else "differs"
            case.note(what, f"assignment of {of(key)}: {_difference(expected, row)}")
    holding = Counter(device for (_, device), row in case.rows.items() if holds_slot(row))
    for device, times in holding.items():
        if times > 1:
            case.note("offered_twice", f"device {device} is held by {times} campaigns")
    expected_slots = {(c, d, row["attempt"]) for (c, d), row in case.rows.items() if holds_slot(row)}
    slots = {(row["campaign_no"], row["device_no"], row["attempt"]) for row in case.tables["device_slot"]}
    for slot in expected_slots ^ slots:
        case.note("slot", f"(campaign, device, attempt) {slot} is {'free' if slot in expected_slots else 'held'}")


def queues(case: Case) -> None:
    """Who waits for an offer waits in the queue, once; who is in flight has a deadline."""
    expected = Counter(
        (campaign, device, max(history.retries | {1}))
        for (campaign, device), history in case.histories.items()
        if history.phase >= 0 and not history.closed and max(history.retries | {1}) not in history.offers
    )
    queued = Counter((row["campaign_no"], row["device_no"], row["attempt"]) for row in case.tables["offer_queue"])
    for waiting in (expected - queued).elements():
        case.note("lost", f"(campaign, device, attempt) {waiting} is not in the offer queue")
    for waiting in (queued - expected).elements():
        case.note("doubled", f"(campaign, device, attempt) {waiting} is in the offer queue")
    # What is filed is a reason to look; the look files what the row then says.
    filed = {(row["campaign_no"], row["device_no"], row["attempt"]) for row in case.tables["due_queue"]}
    for key, row in case.rows.items():
        if row["state"] in ACTIVE and (*key, row["attempt"]) not in filed:
            case.note("lost", f"no deadline is filed for attempt {row['attempt']} of {of(key)}")


def counters(case: Case) -> None:
    """Counters equal a count of what the rows must be."""
    states: Counter[tuple[Any, ...]] = Counter()
    gate: Counter[tuple[Any, ...]] = Counter()
    mature: Counter[tuple[Any, ...]] = Counter()
    for (campaign, _), row in case.rows.items():
        states[campaign, row["phase"], row["stratum"], row["state"]] += 1
        epoch = row["first_started_epoch"]
        if epoch is None:
            continue
        cell = (campaign, epoch, row["phase"], row["stratum"])
        gate[*cell, "started"] += 1
        gate[*cell, "failed"] += row["failed_at"] is not None
        width = max(250, case.dossier(campaign)["plan"]["confirm_deadline"] // 64)
        bucket = (*cell, row["first_started_at"] // width)
        mature[*bucket, "started"] += 1
        mature[*bucket, "good"] += row["state"] == "confirmed" and row["failed_at"] is None
        mature[*bucket, "excluded"] += row["state"] in {"cancelled", "superseded", "not_applicable"}
    cell = ("campaign_no", "gate_epoch", "phase", "stratum")
    _compare(case, "counter", states, (("campaign_no", "phase", "stratum", "state"), ("n",)))
    _compare(case, "gate_count", gate, (cell, ("started", "failed")))
    _compare(case, "maturity", mature, ((*cell, "bucket"), ("started", "good", "excluded")))


def _compare(
    case: Case, table: str, expected: Counter[tuple[Any, ...]], shape: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    found: Counter[tuple[Any, ...]] = Counter()
    key, values = shape
    for row in case.tables[table]:
        for value in values:
            found[*(row[name] for name in key), *((value,) if len(values) > 1 else ())] += row[value]
    for cell in expected.keys() | found.keys():
        if expected[cell] != found[cell]:
            case.note("differs", f"{table} {cell}: {found[cell]} counted, {expected[cell]} expected")


def _difference(expected: Mapping[str, Any] | None, found: Mapping[str, Any] | None) -> str:
    if expected is None or found is None:
        return "only in the table" if expected is None else "only in the logs"
    return ", ".join(
        f"{name} is {found[name]}, must be {value}" for name, value in expected.items() if found[name] != value
    )
