"""Halts: where and only where the frozen tables of integers were crossed, on the fold's own counts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping
from typing import Any

from tests.support.oracle.case import Case
from tests.support.witnesses import Rows


def gates(case: Case) -> None:
    """The frozen tables of integers, on the fold's own counts: a halt where and only where they are crossed."""
    for campaign, stream in case.campaigns.items():
        events = case.streams[stream]
        halts = [row["data"] for row in events if row["type"] == "CampaignHalted" and row["data"]["by"] == "gate"]
        if len({halt["gate_epoch"] for halt in halts}) < len(halts):
            case.note("doubled", f"{stream}: two halts of one gate epoch")
        for halt in halts:
            rule = next(rule for rule in case.dossier(campaign)["rules"] if rule["name"] == halt["rule"])
            n, f = _scope(case, campaign, halt["gate_epoch"]).get((rule["scope"], halt["scope"]), (0, 0))
            if halt["bound"] != _bound(rule, halt["n"]) or not halt["bound"] <= halt["f"] <= f or halt["n"] > n:
                case.note(
                    "unhalted",
                    f"{stream}: halted at {halt['f']} of {halt['n']}, now {f} of {n}, bound {halt['bound']}",
                )
        _strata_halted(case, campaign, [row["data"] for row in events if row["type"] == "StratumHalted"])
        _missed(case, campaign, events)


def _strata_halted(case: Case, campaign: int, halts: Rows) -> None:
    if len({halt["stratum"] for halt in halts}) < len(halts):
        case.note("doubled", f"campaign {campaign}: a stratum was halted twice")
    for halt in halts:
        rule = next(rule for rule in case.dossier(campaign)["rules"] if rule["name"] == halt["rule"])
        n, f = _scope(case, campaign, halt["gate_epoch"]).get(("stratum", f"stratum/{halt['stratum']}"), (0, 0))
        bounds = {_bound({**rule, "horizons": table}, halt["n"]) for table in (rule["horizons"], *rule["levels"])}
        if halt["bound"] not in bounds or not halt["bound"] <= halt["f"] <= f or halt["n"] > n:
            what = f"{halt['stratum']} halted alone at {halt['f']} of {halt['n']}, now {f} of {n}"
            case.note("unhalted", f"campaign {campaign}: {what}, bound {halt['bound']}")


def _missed(case: Case, campaign: int, events: Rows) -> None:
    epoch, open_until = 0, None
    for row in events:
        match row["type"]:
            case "CampaignLaunched" | "CampaignResumed":
                epoch, open_until = row["data"]["gate_epoch"], float("inf")
            case "CampaignHalted" | "CampaignAborted":
                open_until = None
            case "CampaignCompleted":
                open_until = row["data"]["at"]
    if open_until is None:
        return
    alone = case.halted_alone(campaign)
    everything = _scope(case, campaign, epoch, open_until)
    rest = _scope(case, campaign, epoch, open_until, without=alone)
    for rule in case.dossier(campaign)["rules"]:
        if rule.get("halts") == "stratum":
            counts = {name: cell for (scope, name), cell in everything.items() if scope == "stratum"}
            crossed = _crossed_alone(rule, counts) - {f"stratum/{halt['stratum']}" for halt in alone.values()}
        else:
            counts = {name: cell for (scope, name), cell in rest.items() if scope == rule["scope"]}
            crossed = {name for name, cell in counts.items() if _crosses(rule, *cell)}
        for name in sorted(crossed):
            n, f = counts[name]
            case.note("unhalted", f"campaign {campaign}: {f} of {n} in {name} crossed {rule['name']}, no halt")


def _scope(
    case: Case, campaign: int, epoch: int, until: float = float("inf"), *, without: Collection[int] = ()
) -> dict[tuple[str, str], tuple[int, int]]:
    strata = sorted(case.dossier(campaign)["strata"])
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for (number, _), row in case.rows.items():
        if number != campaign or row["first_started_epoch"] != epoch or row["stratum"] in without:
            continue
        failed = row["failed_at"] is not None and row["failed_at"] < until
        for scope in (
            ("campaign", "campaign"),
            ("phase", f"phase/{row['phase']}"),
            ("stratum", f"stratum/{strata[row['stratum']]}"),
        ):
            n, f = sums.get(scope, (0, 0))
            sums[scope] = n + 1, f + failed
    return sums


def _bound(rule: Mapping[str, Any], n: int) -> int | None:
    """Fewest failures that halt among ``n``: the first entry of the table that reaches ``n``."""
    needed = bisect_left(rule["horizons"], n)
    if n <= 0 or needed >= len(rule["horizons"]) or needed > n:
        return None
    return max(needed, rule["min_failures"])


def _crosses(rule: Mapping[str, Any], n: int, f: int) -> bool:
    bound = _bound(rule, n)
    return bound is not None and f >= bound


def _crossed_alone(rule: Mapping[str, Any], counts: Mapping[str, tuple[int, int]]) -> set[str]:
    """Strata that halt, of a rule that halts single ones: the most of which as many reach the table for that many."""
    for k, table in reversed(list(enumerate((rule["horizons"], *rule["levels"]), 1))):
        crossed = {name for name, cell in counts.items() if _crosses({**rule, "horizons": table}, *cell)}
        if len(crossed) >= k:
            return crossed
    return set()
