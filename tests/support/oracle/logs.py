"""The two logs in themselves: unbroken, in an order that makes sense, and with nothing after an event that forbids it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.support.oracle.case import Case, of
from tests.support.retelling import Action, History, Key, Said

CLOSING = frozenset({"CampaignHalted", "CampaignPaused", "CampaignAborted", "CampaignCompleted"})


def chains(case: Case) -> None:
    """Both logs: positions without holes, each row bound to the one before it, versions without holes."""
    for table in ("event_log", "decision_ledger"):
        before = b""
        for number, row in enumerate(case.tables[table], 1):
            if row["position"] != number or bytes(row["prev_hash"]) != before:
                case.note("misordered", f"{table}: the row at {row['position']} does not follow the one before it")
            before = bytes(row["hash"])
    for stream, rows in case.streams.items():
        if [row["version"] for row in rows] != list(range(1, len(rows) + 1)):
            case.note("misordered", f"{stream}: versions {[row['version'] for row in rows]}")


def ledger(case: Case) -> None:
    """Each device's decisions in an order that makes sense, each once; what they say is kept for the fold."""
    ended: set[tuple[Key, int]] = set()
    for row in case.tables["decision_ledger"]:
        for index, device in enumerate(row["device_nos"]):
            _decision(case, row, index, (row["campaign_no"], device), ended)
    members: Counter[int] = Counter(campaign for campaign, _ in case.histories)
    for campaign, stream in case.campaigns.items():
        for row in case.streams[stream]:
            if row["type"] == "CohortEnrolled" and row["data"]["members"] != members[campaign]:
                case.note("lost", f"{stream}: {row['data']['members']} members, the ledger has {members[campaign]}")


def _decision(case: Case, row: Mapping[str, Any], index: int, key: Key, ended: set[tuple[Key, int]]) -> None:
    kind, attempt, where = row["kind"], row["attempt"], f"{row['kind']} at {row['position']}, {of(key)}"
    if kind == "enrol":
        if key in case.histories:
            case.note("doubled", f"{where}: enrolled already")
        case.histories[key] = History(row["phase"], row["stratum"])
        return
    history = case.histories.get(key)
    if history is None or history.phase < 0:
        case.note("misordered", f"{where}: not a member")
        return
    latest = max(history.offers, default=0)
    match kind:
        case "offer":
            action = row["action_base"] + index
            if attempt in history.offers or action in case.actions:
                case.note("offered_twice", f"{where}: attempt {attempt}, action {action}")
            elif attempt != latest + 1 or (attempt > 1 and attempt not in history.retries):
                case.note("misordered", f"{where}: attempt {attempt} after {latest}")
            history.offers[attempt] = (action, row["gate_epoch"], row["at"])
            case.actions[action] = Action(*key, attempt, row["gate_epoch"])
            return
        case "retry":
            if attempt in history.retries:
                case.note("doubled", f"{where}: queued already")
            history.retries.add(attempt)
            return
        case "unqueue":
            first = attempt == 1 and row["cause"] is not None
            if (attempt not in history.retries and not first) or attempt in history.offers:
                case.note("misordered", f"{where}: not queued")
            history.retries.discard(attempt)
            history.closed = history.closed or first
            return
    if attempt != latest or (key, attempt) in ended:
        case.note("misordered", f"{where}: attempt {attempt} of {latest} is not open")
        return
    match kind:
        case "start":
            action = history.offers[attempt][0]
            if action in case.started:
                case.note("doubled", f"{where}: started already")
            case.started.add(action)
            history.said.append(Said(attempt, "accepted", row["at"]))
        case "expire":
            ended.add((key, attempt))
            blame = "silence" if row["cause"] == "silent_trial" else None
            history.said.append(Said(attempt, "expired", row["at"], blame, row["cause"]))
        case "withdraw":
            ended.add((key, attempt))
            state = "superseded" if row["cause"] == "superseded" else "cancelled"
            history.said.append(Said(attempt, state, row["at"], "operator", row["cause"]))
            if state == "superseded":
                history.cancels.append((attempt, row["at"]))
        case "cancel":
            history.cancels.append((attempt, row["at"]))
        case _:
            case.note("differs", f"{where}: no such kind")


def controls(case: Case) -> None:
    """No offer or start between an event that closes a campaign and the one that opens it again."""
    for campaign, stream in case.campaigns.items():
        closed: int | None = None
        shut: list[tuple[int, float, str]] = []
        why = ""
        for row in case.streams[stream]:
            if row["type"] in CLOSING and closed is None:
                closed, why = row["data"]["ledger_position"], row["type"]
            elif row["type"] == "CampaignResumed" and closed is not None:
                shut.append((closed, row["data"]["ledger_position"], why))
                closed = None
        if closed is not None:
            shut.append((closed, float("inf"), why))
        alone = case.halted_alone(campaign)
        for row in case.tables["decision_ledger"]:
            if row["campaign_no"] != campaign or row["kind"] not in {"offer", "start"}:
                continue
            for after, until, event in shut:
                if after < row["position"] <= until:
                    devices = len(row["device_nos"])
                    case.note(
                        "after_halt",
                        f"{stream}: {row['kind']} of {devices} at {row['position']}, {event} at {after}",
                    )
            for device in row["device_nos"] if alone else ():
                halted = alone.get(case.histories[campaign, device].stratum)
                if halted is not None and row["position"] > halted["ledger_position"]:
                    what = f"{row['kind']} of {device} at {row['position']}, its stratum halted at"
                    case.note("after_halt", f"{stream}: {what} {halted['ledger_position']}")


def commands(case: Case) -> None:
    """What people were told is done is in the log, once; what they were not told is not there."""
    types = {kind for _, kind in case.evidence.told}
    written = {campaign for campaign, _ in case.evidence.told}
    names: dict[str, str] = {}
    for stream in case.campaigns.values():
        campaign = stream.removeprefix("campaign/")
        name = case.streams[stream][0]["data"]["name"]
        if name in names and {campaign, names[name]} & written:
            case.note("doubled", f"{stream}: written a second time, first as {names[name]}")
        names[name] = campaign
        if campaign not in written:
            continue
        found = Counter(row["type"] for row in case.streams[stream])
        for kind in sorted(types):
            told = case.evidence.told.get((campaign, kind), 0)
            if found[kind] != told:
                what = "lost" if found[kind] < told else "doubled"
                case.note(what, f"{stream}: {found[kind]} times {kind}, its author was told of {told}")
    for campaign in written - set(names.values()):
        case.note("lost", f"campaign {campaign} was written, the log does not have it")
