"""``ota hardware-model`` and ``ota trust``: kinds of devices, and whose signatures their images need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.command import Cli, command

models = typer.Typer(help="Kinds and revisions of hardware that images must match.", no_args_is_help=True)
trust = typer.Typer(help="Public keys that images must be signed with.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the groups."""
    app.add_typer(models, name="hardware-model")
    app.add_typer(trust, name="trust")


@models.callback()
def _models() -> None:
    """Kinds and revisions of hardware that images must match."""


@trust.callback()
def _trust() -> None:
    """Public keys that images must be signed with."""


@command(models, "create")
def create(
    cli: Cli,
    name: Annotated[str, typer.Argument(help="What devices and releases call it.")],
    client: Annotated[
        str | None,
        typer.Option("--client", help="How its devices speak: generic, swupdate, rauc or zephyr.", show_default=False),
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", help="Module type of the one chunk of a deployment.", show_default=False)
    ] = None,
    multi: Annotated[
        bool | None,
        typer.Option(
            "--multi/--single",
            help="Whether its client takes several components at once; generic and swupdate usually do.",
            show_default=False,
        ),
    ] = None,
    closed_success: Annotated[
        str | None,
        typer.Option(
            "--closed-success", help="What closed/success proves: confirmed or installed.", show_default=False
        ),
    ] = None,
) -> None:
    """Create a hardware model."""
    given = {"client": client, "part": part, "closed_success": closed_success, "multi": multi}
    made = cli.client.create_hardware_model(name, {key: value for key, value in given.items() if value is not None})
    cli.output.data(made, made["name"])
    cli.output.say(f"next: ota trust add PUBLIC.pem --hardware-model {name}")


@command(models, "list")
def list_models(cli: Cli) -> None:
    """List hardware models."""
    from orchestrator.cli.output import table

    found = list(cli.client.hardware_models())
    cli.output.data(
        {"items": found},
        table(("hardware model", "profile", "created"), ((h["name"], h["profile"], h["created_at"]) for h in found)),
    )


@command(trust, "add")
def add(
    cli: Cli,
    key: Annotated[Path, typer.Argument(metavar="PUBLIC.pem", help="The public key.", exists=True, dir_okay=False)],
    hardware_model: Annotated[str, typer.Option("--hardware-model", "-m", help="Whose images it may sign.")],
) -> None:
    """Trust a public key for the images of a hardware model. Signing keys never come here."""
    from orchestrator.errors import InvalidInputError

    try:
        pem = key.read_text(encoding="ascii")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{key} is not PEM.", remedy="Give the public key in PEM.") from error
    if "PRIVATE KEY" in pem:
        raise InvalidInputError(
            f"{key} holds a private key; it was not sent.",
            remedy="Give the public key (`imgtool getpub -k KEY -e pem`), and keep this file where only the signer reads it.",
        )
    made = cli.client.add_trusted_key(hardware_model, pem)
    cli.output.data(made, made["key_id"])
