"""``ota fleet``: stop everything at once, and release it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from orchestrator.cli.cmd_campaign import Reason
from orchestrator.cli.command import Cli, command
from orchestrator.cli.output import facts

if TYPE_CHECKING:
    from orchestrator.client.models import Fleet

group = typer.Typer(help="The whole fleet: one stop over all campaigns.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="fleet")


@command(group, "show")
def show(cli: Cli) -> None:
    """Show whether the fleet is stopped, by whom and why, and what was offered since: nothing."""
    _print(cli, cli.client.fleet())


@command(group, "stop")
def stop(cli: Cli, reason: Reason) -> None:
    """Withhold every offer of every campaign, at once. It needs no broker and no Temporal; devices that started go on."""
    _print(cli, cli.client.stop_fleet(reason))


@command(group, "release")
def release(cli: Cli, reason: Reason) -> None:
    """Let campaigns offer again, each as its own state allows."""
    _print(cli, cli.client.release_fleet(reason))


def _print(cli: Cli, fleet: Fleet) -> None:
    shown = [
        ("fleet", "stopped" if fleet["stopped"] else "not stopped"),
        ("by", fleet["by"]),
        ("at", fleet["at"]),
        ("reason", fleet["reason"]),
        ("position", fleet["position"]),
        ("beyond it", f"{fleet['offers_after']} offers, {fleet['starts_after']} starts" if fleet["stopped"] else None),
    ]
    cli.output.data(fleet, facts(shown))
