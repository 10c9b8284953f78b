"""``ota campaign brake``, ``release-brake`` and ``revise``: the pace of a campaign that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.cmd_campaign import CampaignId, Reason, group, read_mapping, show_state
from orchestrator.cli.command import Cli, command

PerMinute = Annotated[
    int | None, typer.Option("--per-minute", min=1, help="Offers a minute, at most.", show_default=False)
]
InFlight = Annotated[
    int | None,
    typer.Option("--in-flight", min=1, help="Offered or started and not yet ended, at most.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Nothing to add: the commands belong to the campaigns' group."""


@command(group, "brake")
def brake(
    cli: Cli, campaign_id: CampaignId, reason: Reason, per_minute: PerMinute = None, in_flight: InFlight = None
) -> None:
    """Lower the pace at once; what is not named stays as it is. Asks for no approval."""
    after = cli.client.brake(campaign_id, reason, per_minute=per_minute, max_in_flight=in_flight)
    show_state(cli, after)


@command(group, "release-brake")
def release_brake(
    cli: Cli, campaign_id: CampaignId, reason: Reason, per_minute: PerMinute = None, in_flight: InFlight = None
) -> None:
    """Loosen the brake to the limits given; without any it is off, and the approved plan holds."""
    after = cli.client.release_brake(campaign_id, reason, per_minute=per_minute, max_in_flight=in_flight)
    show_state(cli, after)


@command(group, "revise")
def revise(
    cli: Cli,
    campaign_id: CampaignId,
    changes: Annotated[
        Path,
        typer.Argument(
            help="What changes, YAML or JSON: max_in_flight, and by the phase's name its rate, max_in_flight and jitter.",
            exists=True,
            dir_okay=False,
        ),
    ],
    reason: Reason,
) -> None:
    """Propose another pace for a running campaign. It changes nothing until somebody else approves it."""
    show_state(cli, cli.client.revise(campaign_id, read_mapping(changes), reason))
