"""``ota key``: API keys, made on the server's machine itself; so there is a first one."""

from __future__ import annotations

import asyncio
import getpass
from typing import Annotated, Any
from uuid import uuid4

import typer

from orchestrator.cli.command import Cli, command
from orchestrator.cli.output import facts, table
from orchestrator.cli.times import rfc3339

group = typer.Typer(
    help="API keys. These commands use the database directly: run them on the server.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="key")


def _actor() -> str:
    return f"local:{getpass.getuser()}"


@command(group, "create")
def create(
    cli: Cli,
    name: Annotated[str, typer.Argument(help="Who will use it. Approvals tell people apart by this name.")],
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            "-s",
            help="What it may do, such as campaign:approve; repeat for several. 'admin' may do everything.",
        ),
    ],
    lifetime: Annotated[
        str | None, typer.Option("--lifetime", help="How long it works, such as 90d; a year at most and by default.")
    ] = None,
) -> None:
    """Create an API key and print it: the only time that it is shown."""
    from orchestrator.domain.durations import parse_duration

    lifetime_ms = None if lifetime is None else parse_duration(lifetime)

    async def work() -> Any:
        async with cli.services() as services:
            return await services.keys.create(
                name, scope, actor=_actor(), command_id=f"cli/{uuid4().hex}", lifetime_ms=lifetime_ms
            )

    made = asyncio.run(work())
    shown = {
        "key": made.key,
        "key_id": made.key_id,
        "name": made.name,
        "scopes": made.scopes,
        "expires_at": rfc3339(made.expires_at),
    }
    cli.output.data(shown, made.key or "")
    cli.output.say(facts([(key, value) for key, value in shown.items() if key != "key"]))
    cli.output.say("The key is shown once. Use it as OTA_API_KEY.")


@command(group, "list")
def list_keys(cli: Cli) -> None:
    """List all keys, also those that ended; never their secrets."""

    async def work() -> Any:
        async with cli.services() as services:
            return await services.keys.list()

    keys = [
        {
            "key_id": key.key_id,
            "name": key.name,
            "scopes": key.scopes,
            "created_at": rfc3339(key.created_at),
            "expires_at": rfc3339(key.expires_at),
            "revoked_at": rfc3339(key.revoked_at),
        }
        for key in asyncio.run(work())
    ]
    columns = ("key_id", "name", "scopes", "created_at", "expires_at", "revoked_at")
    cli.output.data({"items": keys}, table(columns, ([key[column] for column in columns] for key in keys)))


@command(group, "revoke")
def revoke(cli: Cli, key_id: Annotated[str, typer.Argument(help="As `ota key list` shows it.")]) -> None:
    """End a key now."""

    async def work() -> None:
        async with cli.services() as services:
            await services.keys.revoke(key_id, actor=_actor(), command_id=f"cli/{uuid4().hex}")

    asyncio.run(work())
    cli.output.data({"key_id": key_id, "revoked": True})
    cli.output.say(f"{key_id} is revoked.")
