"""``ota projection``: make every projection again from the two logs."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer

from orchestrator.cli.command import Cli, command
from orchestrator.cli.exit_codes import ExitCode
from orchestrator.cli.output import table
from orchestrator.cli.progress import Counting

group = typer.Typer(help="Fleet state, counters and views, made from the two logs.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="projection")


@command(group, "verify")
def verify(cli: Cli) -> int:
    """Rebuild beside the live tables and compare. Exit 0 if they are equal, 1 if not. Writers wait for the last seconds."""
    from orchestrator.adapters.sql.rebuild import verify as compare

    with Counting(cli.output) as progress:
        differences = asyncio.run(compare(cli.settings, progress))
    found = [{"table": each.table, "side": each.side, "row": each.row} for each in differences]
    cli.output.data(
        {"equal": not found, "differences": _plain(found)},
        table(("table", "only in", "row"), ([each["table"], each["side"], each["row"]] for each in found))
        if found
        else "equal",
    )
    return ExitCode.UNEXPECTED if found else ExitCode.DONE


@command(group, "rebuild")
def rebuild(cli: Cli, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Rebuild and put the fresh tables in the place of the live ones, in one transaction. Stop the roles before it."""
    from orchestrator.adapters.sql.rebuild import rebuild as make_again

    if not yes:
        typer.confirm("Replace all projections by freshly made ones?", abort=True, err=True)
    begun = time.monotonic()
    with Counting(cli.output) as progress:
        rows = asyncio.run(make_again(cli.settings, progress))
    cli.output.data({"rows": rows}, table(("table", "rows"), sorted(rows.items()), right=["rows"]))
    cli.output.say(f"{sum(rows.values())} rows in {time.monotonic() - begun:.1f} s.")


def _plain(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows hold bytes, which JSON does not."""
    return [
        {**each, "row": {k: v.hex() if isinstance(v, bytes) else v for k, v in each["row"].items()}} for each in found
    ]
