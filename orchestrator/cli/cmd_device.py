"""``ota device``: the fleet, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from orchestrator.cli.command import Cli, command

if TYPE_CHECKING:
    from orchestrator.client.models import ImportedDevice, Will

group = typer.Typer(help="Devices.", no_args_is_help=True)

IMPORT_AT_ONCE: Final = 1_000
"""Devices per request of an import: an answer every second or so."""

TIMELINE: Final = 20
"""Entries of a device's timeline that are shown."""

DeviceId = Annotated[str, typer.Argument(metavar="DEVICE", help="Its id.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="device")


@command(group, "import")
def import_devices(
    cli: Cli,
    file: Annotated[
        Path,
        typer.Argument(
            help="Devices with device_id, hardware_model and attributes: a JSON list, JSON lines, or CSV (further columns are"
            " attributes).",
            exists=True,
            dir_okay=False,
        ),
    ],
    tokens: Annotated[
        bool,
        typer.Option("--tokens/--no-tokens", help="Give each device a token and print it: the only time it is shown."),
    ] = True,
) -> None:
    """Register devices. Can be repeated after an interruption: what was imported before is not imported again."""
    import hashlib

    import msgspec

    from orchestrator.cli.device_file import read_devices
    from orchestrator.cli.progress import Counting

    devices = read_devices(file)
    imported: list[ImportedDevice] = []
    with Counting(cli.output) as progress:
        for start in range(0, len(devices), IMPORT_AT_ONCE):
            part = devices[start : start + IMPORT_AT_ONCE]
            # The same devices are the same request, also in another run of this command.
            key = "import-" + hashlib.sha256(msgspec.json.encode([part, tokens])).hexdigest()[:40]
            imported += cli.client.import_devices(part, issue_tokens=tokens, idempotency_key=key)
            progress(f"of {len(devices)} devices", len(imported))
    lines = [f"{each['device_id']}\t{each['token']}" if each.get("token") else each["device_id"] for each in imported]
    cli.output.data({"devices": imported}, "\n".join(lines))
    cli.output.say(f"{len(imported)} devices are registered.")
    if tokens and not all(each.get("token") for each in imported):
        cli.output.say(
            "Some were imported before; their tokens are not shown again. `ota device token` makes a new one."
        )


@command(group, "token")
def token(cli: Cli, device_id: DeviceId) -> None:
    """Give a device a new token and print it: the only time it is shown. The one before ends."""
    issued = cli.client.issue_token(device_id)
    cli.output.data(issued, issued["token"] or "")


@command(group, "list")
def list_devices(
    cli: Cli,
    hardware_model: Annotated[
        str | None, typer.Option("--hardware-model", "-m", help="Only of this model.", show_default=False)
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", "-a", help="Only with this name:value; repeat for several.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 1_000,
) -> None:
    """List devices in the order of their registration."""
    from itertools import islice

    from orchestrator.cli.output import table

    found = list(islice(cli.client.devices(hardware_model=hardware_model, attributes=attribute or ()), limit))
    rows = ((d["device_id"], d["hardware_model"], d["version"], d["attributes"], d["last_seen_at"]) for d in found)
    columns = ("device", "hardware model", "version", "attributes", "last seen")
    cli.output.data({"items": found}, table(columns, rows))
    if len(found) == limit:
        cli.output.say(f"These are the first {limit}; --limit shows more.")


@command(group, "show")
def show(
    cli: Cli,
    device_id: DeviceId,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", metavar="TIME", help="As it was then, from the logs: 2026-11-21T02:30:00Z.", show_default=False
        ),
    ] = None,
) -> None:
    """Show a device: what it says of itself, its campaigns, and its last reports; or what it was at a time."""
    if as_of is not None:
        from orchestrator.cli.cmd_history import show_device

        show_device(cli, device_id, as_of)
        return
    from itertools import islice

    from orchestrator.cli.output import facts, table

    device = cli.client.device(device_id)
    timeline = list(islice(cli.client.timeline(device_id), TIMELINE))
    assigned = table(
        ("campaign", "phase", "stratum", "attempt", "state", "reason", "changed", "next attempt"),
        (
            (
                a["campaign_id"],
                a["phase"],
                a["stratum"],
                a["attempt"],
                a["state"],
                a["reason"] or a["failure_class"],
                a["changed_at"],
                a["next_attempt_at"],
            )
            for a in device["assignments"]
        ),
        right=("phase", "attempt"),
    )
    components = device["components"]
    known = table(
        ("component", "outcome", "class", "version", "campaign", "changed"),
        (
            (c["name"], c["outcome"], c["failure_class"], c["version"], c["campaign_id"], c["changed_at"])
            for c in components
        ),
    )
    said = table(
        ("recorded", "report", "campaign", "class", "reason", "detail"),
        (
            (
                e["recorded_at"],
                e["type"],
                e["campaign_id"],
                e["failure_class"],
                e["reason"],
                e["detail"] or e.get("version") or e.get("digest"),
            )
            for e in timeline
        ),
    )
    cli.output.data(
        {**device, "timeline": timeline},
        facts(
            [
                ("device", device["device_id"]),
                ("hardware model", device["hardware_model"]),
                ("version", device["version"]),
                ("digest", device["digest"]),
                ("attributes", device["attributes"]),
                ("registered", device["registered_at"]),
                ("reported", device["reported_at"]),
                ("last seen", device["last_seen_at"]),
                ("token", "issued" if device["token_issued"] else "none"),
                ("owner", _wants(device["will"])),
            ]
        ),
        "",
        assigned,
        *(["", known] if components else []),
        "",
        said,
    )


def _wants(will: Will) -> str | None:
    """What the owner wants; None where nothing was said."""
    if not will["version"]:
        return None
    said = ["opted out" if will["opted_out"] else "wants updates"]
    if will["postponed_until"]:
        said.append(f"postponed until {will['postponed_until']}")
    said += [f"agrees to {each['release_id'] or each['campaign_id']}" for each in will["consents"]]
    return ", ".join(said)


@command(group, "why")
def why(
    cli: Cli,
    device_id: DeviceId,
    campaign_id: Annotated[
        str | None,
        typer.Option("--campaign", "-c", help="Only in this one, which may also be over.", show_default=False),
    ] = None,
) -> None:
    """Say why a device is not updated, in each campaign that is not over, or why it is no member."""
    from orchestrator.cli.why_view import device

    found = cli.client.why_device(device_id, campaign_id)
    cli.output.data(found, device(found))
