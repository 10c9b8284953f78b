"""What was, and what would have been: ``ota campaign backtest``, ``ota fleet as-of``, ``ota device show --as-of``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import cmd_campaign, cmd_fleet
from orchestrator.cli.cmd_campaign import CampaignId, read_mapping
from orchestrator.cli.command import Cli, command

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.client.models import Backtest


def register(_app: typer.Typer) -> None:
    """Its commands belong to groups that are there."""


@command(cmd_campaign.group, "backtest")
def backtest(
    cli: Cli,
    campaign_id: CampaignId,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            help="Halt rules, YAML or JSON: `halt` as in a plan. Without it, the plan's own rules.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say what other halt rules would have done with what happened: when they halt, and how many devices had started by then."""
    found = cli.client.backtest(campaign_id, None if policy is None else read_mapping(policy))
    cli.output.data(found, _shown(found))
    if found["left_out"]:
        cli.output.say(f"Not replayed: {', '.join(found['left_out'])}.")
    cli.output.say(found["assumption"])


def _shown(found: Backtest) -> Table:
    from orchestrator.cli.output import table

    would, actual = found["halt"], found["actual"]
    rows: list[tuple[object, ...]] = [
        *(
            ("policy", f"{each['stratum']} alone", h["at"], h["rule"], h["n"], h["f"], h["exposed"], h["failures"])
            for each in found["strata"]
            for h in [each["halt"]]
        ),
        (
            ("policy", "never halts", None, None, None, None, actual["exposed"], actual["failures"])
            if would is None
            else (
                *("policy", would["scope"], would["at"], would["rule"]),
                *(would["n"], would["f"], would["exposed"], would["failures"]),
            )
        ),
        *(
            (
                *("really", f"{h['stratum']} alone" if h["stratum"] else h["scope"] or "campaign", h["at"]),
                *(h["rule"] or h["by"], h["n"], h["f"], h["exposed"], h["failures"]),
            )
            for h in actual["halts"]
        ),
        ("really", actual["state"], actual["ended_at"], None, None, None, actual["exposed"], actual["failures"]),
    ]
    columns = ("", "halt", "at", "rule", "n", "f", "exposed", "failures")
    return table(columns, rows, right=("n", "f", "exposed", "failures"))


@command(cmd_fleet.group, "as-of")
def as_of(
    cli: Cli, at: Annotated[str, typer.Argument(metavar="TIME", help="RFC 3339, such as 2026-11-21T02:30:00Z.")]
) -> None:
    """Say what ran where at a time, and how campaigns stood then; from the logs alone, so it is the same whenever it is asked."""
    from orchestrator.cli.output import facts, table

    found = cli.client.fleet_as_of(at)
    ran = table(
        ("hardware model", "release", "version", "digest", "says", "devices"),
        (
            (r["hardware_model"], r["release_id"], r["version"], r["digest"], r["source"], r["devices"])
            for r in found["ran"]
        ),
        right=("devices",),
    )
    campaigns = table(
        ("campaign", "name", "release", "state", "since", "in flight", "in trial", "confirmed"),
        (
            (
                *(c["campaign_id"], c["name"], c["release_id"], c["state"], c["since"]),
                *(c["in_flight"], c["in_trial"], c["devices"].get("confirmed", 0)),
            )
            for c in found["campaigns"]
        ),
        right=("in flight", "in trial", "confirmed"),
    )
    summary = facts([("at", found["at"]), ("devices", found["devices"]), ("not listed", found["other"] or None)])
    cli.output.data(found, summary, "", ran, "", campaigns)
    if found["campaigns_left_out"]:
        cli.output.say(f"{found['campaigns_left_out']} older campaigns are not listed.")


def show_device(cli: Cli, device_id: str, at: str) -> None:
    """Print what a device was and ran at a time."""
    from orchestrator.cli.output import facts, table

    device = cli.client.device_as_of(device_id, at)
    ran = device["ran"]
    assigned = table(
        ("campaign", "release", "phase", "stratum", "attempt", "state", "reason", "changed"),
        (
            (
                *(a["campaign_id"], a["release_id"], a["phase"], a["stratum"], a["attempt"], a["state"]),
                *(a["reason"] or a["failure_class"], a["changed_at"]),
            )
            for a in device["assignments"]
        ),
        right=("phase", "attempt"),
    )
    shown = [
        ("device", device["device_id"]),
        ("hardware model", device["hardware_model"]),
        ("as of", device["at"]),
        ("ran", ran["release_id"]),
        ("version", ran["version"]),
        ("digest", ran["digest"]),
        ("says", ran["source"]),
        ("confirmed in", device["confirmed_campaign_id"]),
        ("confirmed", device["confirmed_at"]),
        ("reported version", device["version"]),
        ("reported digest", device["digest"]),
        ("registered", device["registered_at"]),
    ]
    cli.output.data(device, facts(shown), "", assigned)
