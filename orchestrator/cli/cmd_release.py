"""``ota release``: images, verified, and the releases made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.command import Cli, command
from orchestrator.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

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
    from orchestrator.errors import InvalidInputError

    if len(files) != len(hardware_model) or len(set(hardware_model)) != len(hardware_model):
        raise InvalidInputError(
            f"{len(files)} images and {len(set(hardware_model))} hardware models do not match.",
            remedy="Give one --hardware-model per image, each once.",
        )
    artifacts = {model: _upload(cli, file, model) for file, model in zip(files, hardware_model, strict=True)}
    made = cli.client.register_release(name, version, artifacts)
    cli.output.data(made, made["release_id"])


@command(group, "create")
def create(
    cli: Cli,
    hardware_model: Annotated[
        list[str], typer.Option("--hardware-model", "-m", help="Whose devices have several components.")
    ],
    component: Annotated[
        list[str],
        typer.Option(
            "--component",
            "-c",
            metavar="[MODEL/]NAME[:KIND]=SHA256|FILE",
            help="A component, kind app or os; app if not said. A file is uploaded and verified first.",
        ),
    ],
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the release.")],
    version: Annotated[str, typer.Option("--version", help="Version of the release.")],
    after: Annotated[
        list[str] | None,
        typer.Option(
            "--after",
            metavar="[MODEL/]NAME=OTHER,…",
            help="Install a component after others; an os is last anyway.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Register a release with several components for one device; print its id."""
    from orchestrator.cli.component_words import read_components

    def upload(file: Path, model: str) -> str:
        return _upload(cli, file, model)

    components = read_components(hardware_model, component, after or [], upload)
    made = cli.client.register_release(name, version, {}, components)
    cli.output.data(made, made["release_id"])


def _upload(cli: Cli, file: Path, model: str) -> str:
    """Send an image and say that it was verified; its sha256."""
    from orchestrator.cli.progress import Counting

    with Counting(cli.output) as progress:
        what = f"of {file.stat().st_size:,} bytes of {file.name}"
        stored = cli.client.upload_artifact(file, model, lambda sent: progress(what, sent))
    cli.output.say(
        f"{file} is verified for {model}: version {stored['image'].get('version')}, sha256 {stored['sha256']}"
    )
    return stored["sha256"]


@command(group, "list")
def list_releases(cli: Cli) -> None:
    """List releases, the newest first."""
    from orchestrator.cli.output import table

    found = list(cli.client.releases())
    rows = ((r["release_id"], r["name"], r["version"], ", ".join(r["artifacts"]), r["created_at"]) for r in found)
    cli.output.data({"items": found}, table(("release", "name", "version", "hardware models", "created"), rows))


@command(group, "show")
def show(cli: Cli, release_id: Annotated[str, typer.Argument(metavar="RELEASE", help="Its id, rel_….")]) -> None:
    """Show a release: its artifacts or components by hardware model, and its digest."""
    from orchestrator.cli.output import facts, table

    found = cli.client.release(release_id)
    named = [(key, found[key]) for key in ("release_id", "name", "version", "digest", "created_at")]
    components = found["components"]
    single = ((model, sha256) for model, sha256 in found["artifacts"].items() if model not in components)
    shown: list[RenderableType] = [facts(named)]
    if len(components) < len(found["artifacts"]):
        shown += ["", table(("hardware model", "artifact sha256"), single)]
    if components:
        rows = (
            (model, each["name"], each["kind"], ", ".join(each["after"]) or None, each["sha256"])
            for model, parts in components.items()
            for each in parts
        )
        shown += ["", table(("hardware model", "component, in order", "kind", "after", "artifact sha256"), rows)]
    cli.output.data(found, *shown)


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
