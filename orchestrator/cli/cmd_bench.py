"""``ota bench``: measure the system on servers of its own. For a checkout: the measurements are no part of an installation."""

from __future__ import annotations

import asyncio
import importlib
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from orchestrator.cli.command import NoColorOption, OutputOption, QuietOption
from orchestrator.cli.exit_codes import exit_code_of
from orchestrator.cli.output import Format, Output, facts
from orchestrator.errors import ConflictError, InvalidInputError, OtaError

ROOT = Path(__file__).parents[2]


class Bench(StrEnum):
    """What can be measured."""

    INGEST = "ingest"
    LATENCY = "latency"
    HALT = "halt"
    LAUNCH = "launch"
    GATEWAY = "gateway"
    STORM = "storm"
    REBUILD = "rebuild"


class Size(StrEnum):
    """Small takes minutes, large shows how cost grows."""

    SMALL = "small"
    LARGE = "large"


class NoCheckoutError(ConflictError):
    """The measurements are not there."""

    code = "bench.no_checkout"
    remedy = "Run it from a checkout of the repository, with the development dependencies installed."


class UnknownSettingError(InvalidInputError):
    """A measurement has no such number to set."""

    code = "bench.unknown_setting"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    name: Annotated[Bench, typer.Argument(help="What to measure.", show_default=False)],
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Receives the result, JSON.", dir_okay=False)
    ] = None,
    size: Annotated[Size, typer.Option("--size", help="How much.")] = Size.SMALL,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NUMBER=VALUE", help="Change a number of the size, such as devices=1000000."),
    ] = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    no_color: NoColorOption = False,
) -> None:
    """Measure with servers of its own, and print every number with the settings it was seen under."""
    out = Output(output or Format.TEXT, quiet=quiet, color=not no_color)
    try:
        found = _measure(name.value, size.value, change or [], out)
    except OtaError as error:
        out.error(error)
        raise typer.Exit(exit_code_of(error)) from error
    except KeyboardInterrupt:
        out.say("interrupted")
        raise typer.Exit(130) from None
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    out.data(found, facts((key, value) for key, value in found.items() if not isinstance(value, (dict, list))))


def _measure(name: str, size: str, changes: list[str], out: Output) -> dict[str, Any]:
    if not (ROOT / "tests" / "bench" / f"{name}.py").is_file():
        raise NoCheckoutError(f"There is no tests/bench/{name}.py beside this installation.")
    sys.path.insert(0, str(ROOT))
    try:
        module = importlib.import_module(f"tests.bench.{name}")
    except ModuleNotFoundError as why:
        raise NoCheckoutError(f"The measurements need {why.name}.") from why
    return asyncio.run(module.run(_changed(module.SIZES[size], changes), out.say))


def _changed(size: Any, changes: list[str]) -> Any:
    given: dict[str, int] = {}
    for change in changes:
        key, _, value = change.partition("=")
        if key not in type(size).__dataclass_fields__ or not value.isdigit():
            names = ", ".join(type(size).__dataclass_fields__)
            raise UnknownSettingError(f"{change!r} is no NUMBER=VALUE; the numbers are {names}.")
        given[key] = int(value)
    from dataclasses import replace

    return replace(size, **given)
