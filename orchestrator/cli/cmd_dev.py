"""``ota dev``: the whole system on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.command import Cli, command
from orchestrator.cli.exit_codes import ExitCode

group = typer.Typer(
    help="PostgreSQL, Kafka, Temporal and the roles on this machine, for development.", no_args_is_help=True
)

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", help="Folder of data and logs.  [default: $XDG_STATE_HOME/bellwether/dev]", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="dev")


def _folder(given: Path | None) -> Path:
    from orchestrator.devstack.paths import default_state_folder

    return given or default_state_folder()


@command(group, "up")
def up(
    cli: Cli,
    state_dir: StateDir = None,
    roles: Annotated[bool, typer.Option("--roles/--no-roles", help="Start the five roles too.")] = True,
    temporal_ui: Annotated[bool, typer.Option("--temporal-ui", help="Serve Temporal's web pages too.")] = False,
) -> None:
    """Start what is not running, and return when all of it serves; it goes on in the background."""
    from orchestrator.devstack import commands

    commands.up(_folder(state_dir), roles=roles, temporal_ui=temporal_ui, console=cli.output.err)


@command(group, "status")
def status(cli: Cli, state_dir: StateDir = None) -> int:
    """Show servers and roles. Exit 0 if all of them serve, 8 if not."""
    from orchestrator.devstack import commands

    folder = _folder(state_dir)
    if not cli.output.is_json:
        serves = commands.status(folder, console=cli.output.out)
        return ExitCode.DONE if serves else ExitCode.UNAVAILABLE

    from orchestrator.devstack import supervisor
    from orchestrator.devstack.stack import DevStack

    components = DevStack(folder.absolute()).status()
    roles = supervisor.status(folder.absolute())
    serves = all(each.state in {"running", "external"} for each in components) and all(
        each.state == "ready" for each in roles
    )
    cli.output.data(
        {
            "serves": serves,
            "components": [{"name": each.name, "state": each.state, "pid": each.pid} for each in components],
            "roles": [{"name": each.name, "state": each.state, "url": each.url} for each in roles],
        }
    )
    return ExitCode.DONE if serves else ExitCode.UNAVAILABLE


@command(group, "down")
def down(cli: Cli, state_dir: StateDir = None) -> None:
    """Stop exactly the processes that `ota dev up` started for this folder. The data stays."""
    from orchestrator.devstack import commands

    commands.down(_folder(state_dir), console=cli.output.err)
