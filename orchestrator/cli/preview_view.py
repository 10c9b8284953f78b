"""A preview for people: what a plan means in devices and failures, what would hold it, and whom it misses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table

from orchestrator.cli.campaign_view import changes
from orchestrator.cli.output import facts, table
from orchestrator.client.models import (
    BudgetPreview,
    HealthPreview,
    PhasePreview,
    Preview,
    RulePreview,
)
from orchestrator.domain.durations import format_duration

_REASONS: Final = {
    "hardware_model": "the release has nothing for the model {detail}",
    "already_current": "runs the release already",
    "never_seen": "never seen",
    "not_seen_lately": "not seen lately",
    "unknown_device": "listed, but there is no such device",
    "not_selected": "listed, but not in the cohort",
}


def preview(found: Preview) -> RenderableType:
    """What a plan means for the fleet."""
    parts: list[RenderableType] = [
        facts(
            [
                ("digest", found["digest"]),
                ("frozen", found["frozen"]),
                ("cohort", f"{found['devices']} devices, {found['holdback']} of them held back"),
                ("withheld now", ", ".join(f"{n} {why}" for why, n in found["withheld"].items()) or None),
            ]
        ),
        "",
    ]
    if found["problems"]:
        problems = ((each["pointer"], each["detail"], each["code"]) for each in found["problems"])
        parts += [table(("at", "keeps it from being submitted", "code"), problems), ""]
    if found["phases"]:
        parts += [_previewed(found["phases"]), ""]
        if waits := [line for phase in found["phases"] for line in _waits(phase)]:
            parts += [*waits, ""]
    if revision := found["revision"]:
        parts += [f"Waits for approval: {revision['digest']}", changes(revision["changes"])]
        parts += [_previewed(revision["phases"]), ""]
    if found["rules"]:
        parts.append(
            table(
                ("halt rule", "scope", "halts", "p0", "alpha", "halts at failures / started"),
                (
                    (
                        rule["name"],
                        rule["scope"],
                        rule["halts"],
                        rule["p0"],
                        rule["alpha"],
                        ", ".join(f"{f}/{n}" for n, f in rule["bounds"].items()),
                    )
                    for rule in found["rules"]
                ),
                right=("p0", "alpha"),
            )
        )
        parts += [_false_alarms(rule) for rule in found["rules"] if rule["false_alarms"]]
    if found["retries"]:
        again = (
            (each["outcome"], each["max_attempts"], ", ".join(map(format_duration, each["pauses"])))
            for each in found["retries"]
        )
        parts += ["", table(("tried again after", "attempts", "pauses at most"), again, right=("attempts",))]
    parts += ["", _breaker_preview(found), _remediation_preview(found)]
    for limits in found["budget"]:
        parts += ["", _budget(limits)]
    if found["health"]:
        columns = ("health rule", "scope", "signal", "accepts", "alpha", "halts at events / device hours")
        parts += ["", table(columns, (_health_row(rule) for rule in found["health"]), right=("alpha",))]
    parts += ["", _matrix(found), *_in_the_dark(found), *_fleet_findings(found)]
    return Group(*parts)


def _waits(phase: PhasePreview) -> Iterator[str]:
    if (devices := phase["soak_devices"]) is not None:
        asked = phase["soak_devices_asked"]
        fewer = f", all that it has, of {asked} asked" if asked != devices else ""
        yield f"Phase '{phase['name']}' soaks until {devices} devices have matured{fewer}."
    if phase["external"]:
        yield f"Phase '{phase['name']}' waits for external gates: {', '.join(phase['external'])}."


def _remediation_preview(found: Preview) -> str:
    spec = found["remediation"]
    foreseen = {
        "none": "Nothing is foreseen for devices that it updated, if it is stopped.",
        "revert": "If it is stopped, devices that it updated are to go back to what they ran before, in campaigns of their own.",
    }
    text = foreseen.get(spec["kind"])
    text = text or f"If it is stopped, devices that it updated are to get {spec['release']}, in a campaign of its own."
    if spec["updated_by"] is None:
        return text
    before = f" and that ran {spec['previously']} before" if spec["previously"] else ""
    return f"It takes only devices that {spec['updated_by']} updated{before}. {text}"


def _breaker_preview(found: Preview) -> str:
    spec = found["breaker"]
    if spec is None:
        return "No breaker: an outage is not told from a bad day, and nothing holds offers while it lasts."
    return (
        f"The breaker holds offers when {spec['share']:.0%} of at least {spec['minimum']} outcomes within"
        f" {format_duration(spec['window'])} did not arrive, or nothing was heard for {format_duration(spec['stale'])}."
        f" After {format_duration(spec['cool_down'])} it probes with {spec['probes']} offers;"
        f" {spec['reopens_at']} failures among them open it again."
    )


def _previewed(phases: list[PhasePreview]) -> Table:
    def row(phase: PhasePreview) -> tuple[object, ...]:
        first, most = phase["in_flight_start"], phase["in_flight"]
        in_flight = str(most) if first == most else f"{first} to {most}"
        spread = None if phase["jitter"] is None else format_duration(phase["jitter"])
        return phase["name"], phase["size"], phase["reached"], in_flight, spread, phase["failures_at_most"]

    columns = ("phase", "devices", "reached", "in flight", "starts within", "failures at most")
    return table(columns, (row(phase) for phase in phases), right=columns[1:])


def _budget(limits: BudgetPreview) -> Table:
    """How many devices of each value may be in flight at once; the largest and the smallest where there are many."""
    rows: list[tuple[str, int | None, int | None]] = [
        (each["value"], each["devices"], each["at_once"]) for each in limits["largest"]
    ]
    left_out = limits["values"] - len(limits["largest"]) - len(limits["smallest"])
    if left_out:
        rows.append((f"… and {left_out} more", None, None))
    rows += [(each["value"], each["devices"], each["at_once"]) for each in limits["smallest"]]
    rows.append(("any that appears later", None, limits["other"]))
    return table(
        (f"{limits['label']} ({limits['values']} values)", "devices", "at once, over all campaigns"),
        rows,
        right=("devices", "at once, over all campaigns"),
    )


def _health_row(rule: HealthPreview) -> tuple[object, ...]:
    compares = rule["per_hour"] is None
    bounds = ", ".join(f"{events}/{at}" for at, events in rule["bounds"].items())
    return (
        rule["name"],
        rule["scope"],
        rule["signal"],
        "what the holdback shows" if compares else f"{rule['per_hour']:g} per hour",
        rule["alpha"],
        f"{bounds} (failures, all treated / their share of exposure)" if compares else bounds,
    )


def _matrix(found: Preview) -> Table:
    """Devices by stratum and phase."""
    names = [phase["name"] for phase in found["phases"]]
    rows = (
        (key, size, *(phase["strata"].get(key, 0) for phase in found["phases"]))
        for key, size in sorted(found["strata"].items())
    )
    return table(("stratum", "devices", *names), rows, right=["devices", *names])


def _in_the_dark(found: Preview) -> Iterator[RenderableType]:
    if found["untried"]:
        rows = ((each["stratum"], each["devices"], each["first_phase"]) for each in found["untried"])
        yield ""
        yield table(("not in the first phase", "devices", "first in"), rows, right=["devices"])
    if found["unjudged"]:
        rows = ((each["stratum"], each["devices"], each["rule"]) for each in found["unjudged"])
        yield ""
        yield table(("too small to halt alone", "devices", "halt rule"), rows, right=["devices"])


def _fleet_findings(found: Preview) -> Iterator[RenderableType]:
    if found["conflicts"]:
        columns = ("also in", "campaign", "state", "in flight", "waiting", "for example")
        rows = (
            (
                each["name"],
                each["campaign_id"],
                each["state"],
                each["in_flight"],
                each["waiting"],
                _samples(each["samples"]),
            )
            for each in found["conflicts"]
        )
        yield ""
        yield table(columns, rows, right=("in flight", "waiting"))
    if found["not_applicable"]:
        rows = (
            (
                _REASONS.get(each["reason"], each["reason"]).format(detail=each["detail"]),
                each["devices"],
                "enrolled" if each["enrolled"] else "left out",
                _samples(each["samples"]),
            )
            for each in found["not_applicable"]
        )
        yield ""
        yield table(("does not apply", "devices", "", "for example"), rows, right=["devices"])


def _samples(ids: list[str]) -> str:
    return ", ".join(ids)


def _false_alarms(rule: RulePreview) -> str:
    odds = ", ".join(f"{chance:.2g} at {float(rate):.1%}" for rate, chance in rule["false_alarms"].items())
    return f"The threshold '{rule['name']}' promises nothing. Probability that it halts a release of that failure rate: {odds}."
