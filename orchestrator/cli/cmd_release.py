"""``ota release``: images, verified, and the releases made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.command import Cli, command
from orchestrator.cli.exit_codes import ExitCode

group = typer.Typer(help="Images and releases.", no_args_is_help=True)

Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="A signed MCUboot image.", exists=True, dir_okay=False)]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="release")


@command(group, "push")
def push(
    cli: Cli,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="Signed images, one per hardware model.", exists=True, dir_okay=False),
    ],
    hardware_model: Annotated[
        list[str], typer.Option("--hardware-model", "-m", help="Of each image, in the order of the images.")
    ],
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the release.")],
    version: Annotated[str, typer.Option("--version", help="Version of the release.")],
) -> None:
    """Upload images, have them verified, and register them as a release; print its id."""
    from orchestrator.cli.progress import Counting
    from orchestrator.errors import InvalidInputError

    if len(files) != len(hardware_model) or len(set(hardware_model)) != len(hardware_model):
        raise InvalidInputError(
            f"{len(files)} images and {len(set(hardware_model))} hardware models do not match.",
            remedy="Give one --hardware-model per image, each once.",
        )
    artifacts: dict[str, str] = {}
    for file, model in zip(files, hardware_model, strict=True):
        with Counting(cli.output) as progress:
            what = f"of {file.stat().st_size:,} bytes of {file.name}"
            stored = cli.client.upload_artifact(file, model, lambda sent, what=what: progress(what, sent))
        artifacts[model] = stored["sha256"]
        cli.output.say(
            f"{file} is verified for {model}: version {stored['image'].get('version')}, sha256 {stored['sha256']}"
        )
    made = cli.client.register_release(name, version, artifacts)
    cli.output.data(made, made["release_id"])


@command(group, "list")
def list_releases(cli: Cli) -> None:
    """List releases, the newest first."""
    from orchestrator.cli.output import table

    found = list(cli.client.releases())
    rows = ((r["release_id"], r["name"], r["version"], ", ".join(r["artifacts"]), r["created_at"]) for r in found)
    cli.output.data({"items": found}, table(("release", "name", "version", "hardware models", "created"), rows))


@command(group, "show")
def show(cli: Cli, release_id: Annotated[str, typer.Argument(metavar="RELEASE", help="Its id, rel_….")]) -> None:
    """Show a release: its artifacts by hardware model, and its digest."""
    from orchestrator.cli.output import facts, table

    found = cli.client.release(release_id)
    named = [(key, found[key]) for key in ("release_id", "name", "version", "digest", "created_at")]
    artifacts = table(("hardware model", "artifact sha256"), found["artifacts"].items())
    cli.output.data(found, facts(named), "", artifacts)


@command(group, "verify")
def verify(
    cli: Cli,
    image: Image,
    key: Annotated[
        list[Path],
        typer.Option("--key", "-k", help="Trusted public key, PEM; repeat for several.", exists=True, dir_okay=False),
    ],
    allow_pure: Annotated[
        bool, typer.Option("--allow-pure", help="Accept signatures over the image itself, not its hash.")
    ] = False,
) -> int:
    """Verify an image on this machine, without any server. Exit 0 with what it is, or 1 with why not."""
    from firmware.errors import FirmwareError
    from firmware.report import verify_file
    from orchestrator.cli.output import facts

    try:
        found = verify_file(image, key, allow_pure=allow_pure)
    except FirmwareError as error:
        refused = {"ok": False, "file": str(image), "code": error.code, "detail": error.detail, "remedy": error.remedy}
        cli.output.data(refused, facts([("refused", image), ("code", error.code)]))
        if not cli.output.is_json:
            cli.output.say(error.detail)
            cli.output.say(error.remedy)
        return ExitCode.UNEXPECTED
    cli.output.data({"ok": True, **found}, facts(found.items()))
    return ExitCode.DONE
