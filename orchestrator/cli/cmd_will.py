"""``ota device will`` and its like: what the owner of a device wants, said one thing at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from orchestrator.cli.cmd_campaign import Reason
from orchestrator.cli.cmd_device import DeviceId, group
from orchestrator.cli.command import Cli, command

if TYPE_CHECKING:
    from orchestrator.client.models import Consent, NewWill, Will

ATTEMPTS: Final = 4
"""How often a change is made anew because somebody else stated something meanwhile."""

OnBehalfOf = Annotated[
    str | None,
    typer.Option(
        "--on-behalf-of",
        help="Whom this is passed on for: a customer's number, a ticket; no names.",
        show_default=False,
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", help="Until then, like 2026-12-24T00:00:00Z.", show_default=False)
]


def register(_: typer.Typer) -> None:
    """The commands belong to the group of devices."""


@command(group, "will")
def will(cli: Cli, device_id: DeviceId) -> None:
    """Show what the owner of a device wants."""
    _print(cli, cli.client.will(device_id))


@command(group, "opt-out")
def opt_out(cli: Cli, device_id: DeviceId, reason: Reason, on_behalf_of: OnBehalfOf = None) -> None:
    """Offer the device nothing from now on. No time limit ends it; only plans that say so, with a reason, override it."""
    _change(cli, device_id, reason, on_behalf_of, lambda said: said.update(opted_out=True))


@command(group, "opt-in")
def opt_in(cli: Cli, device_id: DeviceId, reason: Reason, on_behalf_of: OnBehalfOf = None) -> None:
    """Take the opt-out back."""
    _change(cli, device_id, reason, on_behalf_of, lambda said: said.update(opted_out=False))


@command(group, "postpone")
def postpone(
    cli: Cli,
    device_id: DeviceId,
    reason: Reason,
    until: Until = None,
    for_: Annotated[
        str | None, typer.Option("--for", help="From now, like 3d, instead of --until.", show_default=False)
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End a postponement instead.")] = False,
    on_behalf_of: OnBehalfOf = None,
) -> None:
    """Offer and start nothing until a time."""
    import time

    from orchestrator.cli.times import rfc3339
    from orchestrator.domain.durations import parse_duration
    from orchestrator.errors import InvalidInputError

    if (until is not None) + (for_ is not None) + end != 1:
        raise InvalidInputError("Exactly one of --until, --for and --end is needed.")
    at = rfc3339(round(time.time() * 1_000) + parse_duration(for_)) if for_ is not None else until
    _change(cli, device_id, reason, on_behalf_of, lambda said: said.update(postponed_until=at))


@command(group, "consent")
def consent(
    cli: Cli,
    device_id: DeviceId,
    reason: Reason,
    release: Annotated[str | None, typer.Option("--release", help="To this release.", show_default=False)] = None,
    campaign: Annotated[str | None, typer.Option("--campaign", help="To this campaign.", show_default=False)] = None,
    until: Until = None,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take it back instead.")] = False,
    on_behalf_of: OnBehalfOf = None,
) -> None:
    """Agree to a release or to a campaign, for plans that ask."""
    from orchestrator.errors import InvalidInputError

    if (release is None) == (campaign is None):
        raise InvalidInputError("Exactly one of --release and --campaign is needed.")

    def change(said: NewWill) -> None:
        kept = [each for each in said["consents"] if (each["release_id"], each["campaign_id"]) != (release, campaign)]
        given: list[Consent] = [{"release_id": release, "campaign_id": campaign, "until": until}]
        said.update(consents=kept if withdraw else [*kept, *given])

    _change(cli, device_id, reason, on_behalf_of, change)


def _change(cli: Cli, device_id: str, reason: str, on_behalf_of: str | None, change: Callable[[NewWill], Any]) -> None:
    """State what holds with one thing changed; again if somebody else stated something in between."""
    from orchestrator.client.errors import ApiError

    for attempt in range(1, ATTEMPTS + 1):
        held = cli.client.will(device_id)
        said: NewWill = {
            "opted_out": held["opted_out"],
            "postponed_until": held["postponed_until"],
            "consents": held["consents"],
            "reason": reason,
            "on_behalf_of": on_behalf_of,
        }
        change(said)
        try:
            stated = cli.client.state_will(device_id, said, version=held["version"])
        except ApiError as refusal:
            if refusal.status != 412 or attempt == ATTEMPTS:
                raise
        else:
            _print(cli, stated)
            return


def _print(cli: Cli, found: Will) -> None:
    from orchestrator.cli.output import facts

    consents = ", ".join(
        f"{each['release_id'] or each['campaign_id']}" + (f" until {each['until']}" if each["until"] else "")
        for each in found["consents"]
    )
    cli.output.data(
        found,
        facts(
            [
                ("device", found["device_id"]),
                ("updates", "opted out" if found["opted_out"] else "wanted"),
                ("postponed until", found["postponed_until"]),
                ("consents", consents or None),
                ("said at", found["stated_at"]),
                ("by", found["actor"]),
                ("on behalf of", found["on_behalf_of"]),
                ("reason", found["reason"]),
            ]
        ),
    )
