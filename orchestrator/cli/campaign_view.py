"""A campaign for people: where it stands, and after a halt why, who is suspected, and what was spared."""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import STYLES, facts, table
from orchestrator.client.models import (
    Brake,
    CampaignDetail,
    Halt,
    Health,
    PaceChange,
    Phase,
    Revision,
    StratumHalt,
)

IN_FLIGHT: Final = ("offered", "accepted", "downloading", "installed", "trial")
FAILED: Final = ("failed", "reverted")
HOUR_MS: Final = 3_600_000
SHOWN_STRATA: Final = 5
"""Strata of a halt that are listed; the first is the likely culprit."""

_NEXT: Final = {
    "draft": "ota campaign submit {id}",
    "submitted": "ota campaign approve {id}   (by somebody other than the author)",
    "approved": "ota campaign launch {id}",
    "running": "ota campaign watch {id}",
    "paused": "ota campaign resume {id} --reason …",
    "halted": "ota campaign abort {id} --reason …, or: ota campaign approve {id} by somebody else, then resume;"
    " ota campaign remediate {id} for what it updated",
}


def next_step(campaign: CampaignDetail) -> str | None:
    """The command that usually follows, if there is one."""
    if revision := campaign["revision"]:
        return f"ota campaign approve {campaign['campaign_id']} --digest {revision['digest']}   (by somebody else: a revision waits)"
    text = _NEXT.get(campaign["state"])
    return text and text.format(id=campaign["campaign_id"])


def overview(campaign: CampaignDetail) -> RenderableType:
    """Everything, for ``show``."""
    return Group(*_overview(campaign))


def _overview(campaign: CampaignDetail) -> Iterator[RenderableType]:
    enrolled = campaign["enrolment"]
    approvals = f"{len(campaign['approvals'])} of {campaign['approvals_required']}"
    if campaign["approvals"]:
        approvals += f": {', '.join(campaign['approvals'])}"
    yield facts(
        [
            ("campaign", campaign["campaign_id"]),
            ("name", campaign["name"]),
            ("state", campaign["state"]),
            ("release", f"{campaign['release_name']} {campaign['release_version']} ({campaign['release_id']})"),
            ("halted in", ", ".join(campaign["release_halted_in"]) or None),
            ("author", campaign["author"]),
            ("approvals", approvals),
            ("digest", campaign["digest"]),
            ("brake", _brake(campaign["brake"])),
            ("created", campaign["created_at"]),
            ("changed", campaign["updated_at"]),
            (
                "cohort",
                f"{enrolled['members']} devices, {enrolled['holdback']} of them held back" if enrolled else None,
            ),
            ("false halts", _error(campaign)),
            ("joined", enrolled["joined"] or None if enrolled else None),
            ("may not join", _refused(enrolled["refused"]) if enrolled else None),
            ("exposed", campaign["exposed"] if enrolled else None),
            ("spared", campaign["spared"]),
            ("withheld", ", ".join(f"{n} {why}" for why, n in campaign["withheld"].items()) or None),
            ("breaker", breaker(campaign)),
            ("remediates", campaign["remediates"]),
            ("remediated by", _remediated_by(campaign)),
        ]
    )
    if revision := campaign["revision"]:
        yield ""
        yield waiting_revision(revision)
    if halt := campaign["halt"]:
        yield ""
        yield halt_panel(campaign, halt)
    if strata := campaign["halted_strata"]:
        yield ""
        yield halted_strata(strata)
    yield ""
    yield phases(campaign)
    if any(phase["external"] for phase in campaign["phases"]):
        yield ""
        yield external(campaign)
    for phase in campaign["phases"]:
        for hold in phase["outlasted"]:
            yield Text(f"phase {phase['phase']} waits since {hold['since']}: {hold['detail']}", "yellow")
    if campaign["gate"]:
        yield ""
        yield gates(campaign)
    if campaign["components"]:
        yield ""
        yield components(campaign)
    if campaign["health"]:
        yield ""
        yield health(campaign["health"])


def _remediated_by(campaign: CampaignDetail) -> str | None:
    drafts = campaign["remediated_by"]
    return ", ".join(f"{d['campaign_id']} ({d['kind']}, {d['devices']} devices, {d['state']})" for d in drafts) or None


def _error(campaign: CampaignDetail) -> str:
    now, then = campaign["false_halt_at_most"], campaign["false_halt_after_resume"]
    return f"probability at most {now:.3g} so far, {then:.3g} with a resume after a halt"


def breaker(campaign: CampaignDetail) -> str | None:
    """What the breaker does and why; None of one that never opened."""
    found = campaign["breaker"]
    if found is None or not found["openings"]:
        return None
    if found["stage"] == "closed":
        return f"closed since {found['changed_at']} ({found['cause']}), opened {found['openings']} times"
    what = "nothing heard from devices"
    if found["cause"] == "failures":
        classes = ", ".join(f"{n} {name}" for name, n in sorted(found["classes"].items()))
        what = f"{found['failures']} of {found['outcomes']} did not arrive ({classes})"
    if found["stage"] == "probing":
        return f"probing since {found['changed_at']}: {what}; a few offers go out"
    waits = f", no probe before {found['until']}" if found["cause"] == "failures" else ""
    return f"open since {found['changed_at']}: {what}; offers are held, the release is not blamed{waits}"


def waiting_revision(revision: Revision) -> RenderableType:
    """Another pace that waits for its approvals."""
    about = facts(
        [
            ("digest", revision["digest"]),
            ("by", revision["by"]),
            ("at", revision["at"]),
            ("reason", revision["reason"]),
            ("approved by", ", ".join(revision["approvals"]) or None),
        ]
    )
    parts = [about, "", changes(revision["changes"])]
    return Panel(Group(*parts), title="Waits for approval: a revision", title_align="left", expand=False)


def changes(changes: list[PaceChange]) -> Table:
    return table(("changes", "from", "to"), ((c["pointer"], _value(c["before"]), _value(c["after"])) for c in changes))


def _value(value: Any) -> str | None:
    """A value of a plan on one line, without the members that say nothing."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(part)}" for name, part in value.items() if part is not None)
    return None if value is None else str(value)


def _brake(brake: Brake | None) -> str | None:
    if brake is None:
        return None
    limits = [] if brake["per_minute"] is None else [f"{brake['per_minute']} a minute"]
    limits += [] if brake["max_in_flight"] is None else [f"{brake['max_in_flight']} in flight"]
    return f"{', '.join(limits)} at most, by {brake['by']}: {brake['reason']}"


def _refused(refused: dict[str, int]) -> str | None:
    return ", ".join(f"{n} devices: {reason.replace('_', ' ')}" for reason, n in sorted(refused.items())) or None


def halt_panel(campaign: CampaignDetail, halt: Halt) -> RenderableType:
    """Why it halted, who is suspected, what it cost."""
    current = campaign["state"] == "halted"
    phase = "before its first phase" if halt["phase"] is None else f"in phase {_phase_name(campaign, halt['phase'])}"
    parts: list[RenderableType] = [Text(halt["reason"], "bold")]
    rule = halt["rule"] and f"{halt['rule']}, scope {halt['scope']}"
    bound = (
        None if halt["bound"] is None else f"{halt['bound']} failures halt among {halt['n']} started devices (f*(n))"
    )
    evidence = None
    if halt["log_e"] is not None and halt["alpha"]:
        evidence = f"log e = {halt['log_e']:.2f}, halts from {-log(halt['alpha']):.2f} = -log alpha"
    parts.append(
        facts(
            [
                ("by", halt["by"]),
                ("at", halt["at"]),
                ("rule", rule),
                (
                    "found",
                    None if halt["n"] is None else f"f = {halt['f']} failures among n = {halt['n']} started devices",
                ),
                ("bound", bound),
                ("health", _reported(halt)),
                ("acceptable rate", None if halt["p0"] is None else f"p0 = {halt['p0']:g}"),
                ("error", None if halt["alpha"] is None else f"alpha = {halt['alpha']:g}"),
                ("evidence", evidence),
                ("crossed by", _fact(halt)),
                ("exposed", f"{campaign['exposed']} devices had started"),
                ("spared", None if campaign["spared"] is None else f"{campaign['spared']} devices"),
                ("position", f"{halt['position']} of the ledger"),
                ("beyond it", f"{halt['offers_after']} offers, {halt['starts_after']} starts"),
                ("resume approved by", ", ".join(campaign["resume_approvals"]) or None if current else None),
            ]
        )
    )
    if strata := halt["strata"][:SHOWN_STRATA]:
        suspects = table(
            ("stratum, the likely culprit first", "started", "failed", "log e"),
            ((s["stratum"], s["started"], s["failures"], f"{s['log_e']:.2f}") for s in strata),
            right=("started", "failed", "log e"),
        )
        parts += ["", suspects]
    title = f"Halted {phase}" if current else f"Was halted {phase}"
    return Panel(Group(*parts), title=title, title_align="left", border_style="red" if current else "dim", expand=False)


def halted_strata(strata: list[StratumHalt]) -> Table:
    """Strata that the campaign goes on without."""
    return table(
        ("stratum, halted alone", "failed", "started", "halts from", "p0", "rule", "at"),
        ((s["stratum"], s["f"], s["n"], s["bound"], s["p0"], s["rule"], s["at"]) for s in strata),
        right=("failed", "started", "halts from", "p0"),
    )


def phases(campaign: CampaignDetail) -> Table:
    """One line per phase."""
    return table(
        ("phase", "", "state", "devices", "waiting", "in flight", "confirmed", "failed", "other", "soak until"),
        (_phase_row(phase) for phase in campaign["phases"]),
        right=("phase", "devices", "waiting", "in flight", "confirmed", "failed", "other"),
    )


def _phase_row(phase: Phase) -> tuple[object, ...]:
    counts = phase["counts"]
    offered, devices = sum(counts.values()), phase["devices"]
    in_flight = sum(counts.get(state, 0) for state in IN_FLIGHT)
    failed = sum(counts.get(state, 0) for state in FAILED)
    confirmed = counts.get("confirmed", 0)
    return (
        phase["phase"],
        phase["name"],
        phase["state"],
        devices,
        None if devices is None else max(0, devices - offered),
        in_flight,
        confirmed,
        Text(str(failed), "red" if failed else ""),
        offered - in_flight - failed - confirmed,
        phase["soak_until"] if phase["state"] == "soaking" else None,
    )


def external(campaign: CampaignDetail) -> Table:
    """External gates and what they said in the running gate epoch."""
    return table(
        ("phase", "external gate", "verdict", "reason", "evidence", "by", "at"),
        (
            (phase["phase"], g["name"], g["verdict"], g["reason"], g["evidence"], g["actor"], g["at"])
            for phase in campaign["phases"]
            for g in phase["external"]
        ),
        right=["phase"],
    )


def gates(campaign: CampaignDetail) -> Table:
    """The last evaluation of each halt rule in the running gate epoch."""
    return table(
        ("halt rule", "scope", "started", "failed", "halts from", "verdict"),
        (
            (gate["rule"], gate["scope"], gate["n"], gate["f"], gate["bound"], gate["verdict"])
            for gate in campaign["gate"]
            if gate["gate_epoch"] == campaign["gate_epoch"]
        ),
        right=("started", "failed", "halts from"),
    )


def components(campaign: CampaignDetail) -> Table:
    """What became of each component, in devices."""
    columns = ("component", "installed", "confirmed", "failed", "rolled_back")
    rows = ((name, *(counts.get(each, 0) for each in columns[1:])) for name, counts in campaign["components"].items())
    return table(columns, rows, right=columns[1:])


def health(rules: list[Health]) -> Table:
    """How each rule on health stands in the running gate epoch."""
    return table(
        ("health rule", "scope", "signal", "events", "accepted", "device hours", "held back", "log e", "halts from"),
        (
            (
                rule["rule"],
                rule["scope"],
                rule["signal"],
                rule["events"],
                f"{rule['expected']:.1f}",
                f"{rule['exposure_ms'] / HOUR_MS:.1f}",
                None if rule["held_events"] is None else f"{rule['held_events']} in {_hours(rule['held_exposure_ms'])}",
                None if rule["log_e"] is None else f"{rule['log_e']:.2f}",
                f"{rule['limit']:.2f}",
            )
            for rule in rules
        ),
        right=("events", "accepted", "device hours", "log e", "halts from"),
    )


def _reported(halt: Halt) -> str | None:
    """What devices reported, of a halt for their health."""
    if halt["signal"] is None:
        return None
    text = f"{halt['events']} times '{halt['signal']}' in {_hours(halt['exposure_ms'])}"
    if halt["held_events"] is not None:
        text += f", held back {halt['held_events']} in {_hours(halt['held_exposure_ms'])}"
    return text if halt["expected"] is None else f"{text}; {halt['expected']:.1f} would be acceptable"


def _hours(exposure_ms: int | None) -> str:
    return f"{(exposure_ms or 0) / HOUR_MS:.1f} device hours"


def live(campaign: CampaignDetail) -> RenderableType:
    """For ``watch``: fits a screen and stays in its place."""
    head = Text.assemble(
        (campaign["name"], "bold"),
        f"  {campaign['campaign_id']}  {campaign['release_name']} {campaign['release_version']}  ",
        (campaign["state"], STYLES.get(campaign["state"], "")),
    )
    parts: list[RenderableType] = [head, phases(campaign)]
    if _held(campaign):
        parts.append(Text(f"breaker {breaker(campaign)}", "yellow"))
    if campaign["state"] == "halted" and campaign["halt"]:
        parts.append(halt_panel(campaign, campaign["halt"]))
    return Group(*parts)


def line(campaign: CampaignDetail) -> str:
    """For ``watch`` without a terminal: one line."""
    counts = ", ".join(f"{n} {state}" for state, n in sorted(campaign["counts"].items()) if n)
    phase = f"phase {_phase_name(campaign, campaign['phase'])}, " if campaign["phase"] >= 0 else ""
    held = f"; breaker {breaker(campaign)}" if _held(campaign) else ""
    return f"{campaign['campaign_id']} {campaign['state']}: {phase}{counts or 'nothing offered yet'}{held}"


def _held(campaign: CampaignDetail) -> bool:
    found = campaign["breaker"]
    return found is not None and found["stage"] != "closed"


def _phase_name(campaign: CampaignDetail, number: int) -> str:
    names = [phase["name"] for phase in campaign["phases"]]
    return f"{number} ({names[number]})" if 0 <= number < len(names) else str(number)


def _fact(halt: Halt) -> str | None:
    if not (fact := halt["fact"]):
        return None
    where = f"{fact.get('topic')}/{fact.get('partition')} offset {fact.get('offset')}"
    return where + (f", recorded {halt['failed_at']}" if halt["failed_at"] else "")
