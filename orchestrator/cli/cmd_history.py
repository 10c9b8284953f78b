"""What was, and what would have been: ``ota campaign backtest``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import cmd_campaign
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
