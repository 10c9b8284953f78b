"""``ota sim``: simulated devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.command import Cli, command

group = typer.Typer(help="Simulated devices.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="sim")


@command(group, "fleet")
def fleet(
    cli: Cli,
    devices: Annotated[
        Path, typer.Option("--devices", help="Hardware and devices, JSON.", exists=True, dir_okay=False)
    ],
    truth: Annotated[Path, typer.Option("--truth", help="Receives what the fleet knows, JSON lines.", dir_okay=False)],
    gateway: Annotated[
        str | None, typer.Option("--gateway", help="http://host:port of the gateway.  [default: from the settings]")
    ] = None,
    traits: Annotated[
        Path | None, typer.Option("--traits", help="Flaws of releases by version, JSON.", exists=True, dir_okay=False)
    ] = None,
    counts: Annotated[
        Path | None, typer.Option("--counts", help="Receives the counters once a second, JSON.", dir_okay=False)
    ] = None,
    duration: Annotated[
        str | None, typer.Option("--duration", help="How long, such as 10m; without: until SIGTERM or SIGINT.")
    ] = None,
    health_every: Annotated[
        str | None, typer.Option("--health-every", help="Report health this often, such as 10s; without: never.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the devices' dice.")] = 1,
) -> int:
    """Run a fleet that speaks hawkBit's DDI over real MCUboot slot pairs."""
    from orchestrator.domain.durations import parse_duration
    from orchestrator.simfleet.command import Options, run

    options = Options(
        gateway=gateway or cli.settings.public_gateway,
        devices=devices,
        truth=truth,
        traits=traits,
        counts=counts,
        duration=None if duration is None else parse_duration(duration) / 1_000,
        tenant=cli.settings.tenant,
        seed=seed,
        health_every=None if health_every is None else parse_duration(health_every) / 1_000,
    )
    return run(options)
