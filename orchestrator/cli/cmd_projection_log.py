"""``ota projection status`` and ``accept-loss``: how far the projection has read its log, and the way out when that lost facts."""

from __future__ import annotations

import asyncio
import getpass
from typing import Annotated

import typer

from orchestrator.cli.cmd_projection import group
from orchestrator.cli.command import Cli, command
from orchestrator.cli.exit_codes import ExitCode
from orchestrator.cli.output import facts, table


def register(_app: typer.Typer) -> None:
    """Add the commands to ``ota projection``."""
    command(group, "status")(status)
    command(group, "accept-loss")(accept_loss)


def status(cli: Cli) -> int:
    """Positions, bounds of the log and lag by partition. Exit 0 if all that was not read is still there, 1 if not."""
    from orchestrator.stream.log_loss import look_once

    found = asyncio.run(look_once(cli.settings))
    losses = {loss.partition: loss for loss in found.losses}
    rows = [
        {
            "partition": partition,
            "position": found.bookmarks[partition].next_offset if partition in found.bookmarks else None,
            "log_start": start,
            "log_end": end,
            "lag": None if partition in losses else found.lag(partition),
            "damage": str(losses[partition].kind) if partition in losses else None,
        }
        for partition, (start, end) in sorted(found.log.bounds.items())
    ]
    cli.output.data(
        {
            "topic": found.topic,
            "topic_id": found.log.identity.topic_id,
            "cluster_id": found.log.identity.cluster_id,
            "lag": sum(row["lag"] or 0 for row in rows),
            "damaged": len(losses),
            "partitions": rows,
            "remedies": [loss.command for loss in losses.values()],
        },
        table(
            ("partition", "position", "log start", "log end", "lag", "damage"),
            (list(row.values()) for row in rows),
            right=["position", "log start", "log end", "lag"],
        ),
    )
    if not losses:
        return ExitCode.DONE
    cli.output.say(f"{len(losses)} partitions lost facts before they were read. Restore the topic if you can; else:")
    for loss in losses.values():
        cli.output.say(f"  {loss.command}")
    return ExitCode.UNEXPECTED


def accept_loss(
    cli: Cli,
    topic: Annotated[str, typer.Option("--topic", help="Full name of the topic.")],
    partition: Annotated[int, typer.Option("--partition", help="Its partition.")],
    start: Annotated[int, typer.Option("--from", help="Offset of the first fact that was not read: the position.")],
    end: Annotated[int, typer.Option("--to", help="Offset at which the log goes on, in the topic as it is now.")],
    reason: Annotated[str, typer.Option("--reason", help="What happened. Kept in the event log.")],
) -> None:
    """Accept that facts were destroyed before they were read, exactly as `ota projection status` names them.

    Devices of the partition with an assignment in flight become unknown, and their campaigns pause until somebody resumes them.
    """
    from orchestrator.adapters.sql.losses import Acceptance
    from orchestrator.stream import log_loss

    wanted = Acceptance(partition, start, end, reason, f"local:{getpass.getuser()}")
    done = asyncio.run(log_loss.accept_loss(cli.settings, topic, wanted))
    shown = {
        "topic": done.topic,
        "partition": done.partition,
        "kind": done.kind,
        "from": done.from_offset,
        "to": done.to_offset,
        "archived": done.archived,
        "devices": done.devices,
        "campaigns": done.campaigns,
        "paused": done.paused,
    }
    text = shown | {"campaigns": ", ".join(done.campaigns), "paused": ", ".join(done.paused)}
    cli.output.data(shown, facts(text.items()))
    cli.output.say("Start the projector again once no partition is damaged (`ota projection status`).")
    for campaign_id in done.paused:
        cli.output.say(f"Paused; when you know enough: ota campaign resume {campaign_id}")
