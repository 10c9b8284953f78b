"""``ota projection``: make every projection again from the two logs."""

from __future__ import annotations

import getpass
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from orchestrator.cli.command import Cli, command
from orchestrator.cli.exit_codes import ExitCode
from orchestrator.cli.output import table
from orchestrator.cli.progress import Counting

if TYPE_CHECKING:
    from orchestrator.adapters.sql.comparison import Difference

T = TypeVar("T")

group = typer.Typer(help="Fleet state, counters and views, made from the two logs.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="projection")


RestartOption = Annotated[bool, typer.Option("--restart", help="Throw an unfinished rebuild away and begin anew.")]


@command(group, "verify")
def verify(cli: Cli, restart: RestartOption = False) -> int:
    """Rebuild beside the live tables and compare. Exit 0 if they are equal, 1 if not. Nobody waits for it."""
    from orchestrator.adapters.sql.rebuild import verify as compare

    with Counting(cli.output) as progress:
        found = _run(compare(cli.settings, progress, restart=restart))
    cli.output.data(
        {"equal": not found, "differences": [_plain(each) for each in found]},
        "\n".join(f"{each}." for each in found) or "equal",
    )
    return ExitCode.UNEXPECTED if found else ExitCode.DONE


@command(group, "rebuild")
def rebuild(
    cli: Cli,
    restart: RestartOption = False,
    accept: Annotated[
        str | None,
        typer.Option(
            "--accept-differences",
            metavar="REASON",
            help="Switch although the live rows differ: they are the damaged ones. Kept in the event log.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Rebuild, compare, and put the rebuilt tables in the place of the live ones while everything goes on.

    Where the rows differ, nothing is switched (exit 6). A rebuild that was stopped goes on where it was when it is run again.
    """
    from orchestrator.adapters.sql.rebuild import Acceptance
    from orchestrator.adapters.sql.rebuild import rebuild as make_again

    if not yes:
        typer.confirm("Replace all projections by freshly made ones?", abort=True, err=True)
    begun = time.monotonic()
    acceptance = None if accept is None else Acceptance(accept, f"local:{getpass.getuser()}")
    with Counting(cli.output) as progress:
        done = _run(make_again(cli.settings, progress, restart=restart, accept=acceptance))
    cli.output.data(
        {
            "rows": done.rows,
            "accepted_differences": [_plain(each) for each in done.accepted],
            "writers_waited_ms": done.waited_ms,
            "attempts": done.attempts,
            "resumed": done.resumed,
        },
        table(("table", "rows"), sorted(done.rows.items()), right=["rows"]),
    )
    seconds = time.monotonic() - begun
    cli.output.say(f"{sum(done.rows.values())} rows in {seconds:.1f} s; writers waited {done.waited_ms} ms.")


def _run(work: Coroutine[Any, Any, T]) -> T:
    import uvloop

    from orchestrator.collector import spare_collector

    spare_collector()
    return uvloop.run(work)


def _plain(found: Difference) -> dict[str, Any]:
    """Rows hold bytes, which JSON does not."""
    return {
        "table": found.table,
        "key": _hexed(found.key),
        "column": found.column,
        "live": _hexed(found.live),
        "rebuilt": _hexed(found.rebuilt),
    }


def _hexed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _hexed(each) for name, each in value.items()}
    return value.hex() if isinstance(value, bytes) else value
