"""``ota webhook``: endpoints that are told of halts, breakers, holds and what else people must hear of."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.command import Cli, command

group = typer.Typer(help="Webhooks: who is told of what happens.", no_args_is_help=True)

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id, wh_….")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="webhook")


@command(group, "add")
def add(
    cli: Cli,
    url: Annotated[
        str, typer.Argument(help="http or https; who may send is proved by the signature, not the address.")
    ],
    events: Annotated[
        str,
        typer.Option("--events", "-e", help="Comma separated, such as campaign.halted,breaker.opened,hold.outlasted."),
    ],
) -> None:
    """Tell an endpoint of events from now on, and print the secret that signs: the only time that it is shown."""
    made = cli.client.add_webhook(url, [each.strip() for each in events.split(",") if each.strip()])
    cli.output.data(made, made["secret"] or "")
    cli.output.say(f"{made['webhook_id']} is told of {', '.join(made['events'])}.")
    cli.output.say("The secret is shown once. The receiver verifies with it.")


@command(group, "list")
def list_webhooks(cli: Cli) -> None:
    """List endpoints, the newest first; never their secrets."""
    from orchestrator.cli.output import table

    found = list(cli.client.webhooks())
    rows = ((w["webhook_id"], w["url"], ", ".join(w["events"]), w["created_by"], w["created_at"]) for w in found)
    cli.output.data({"items": found}, table(("webhook", "address", "events", "by", "at"), rows))


@command(group, "remove")
def remove(cli: Cli, webhook_id: WebhookId) -> None:
    """Tell an endpoint nothing more, also nothing that was still to be delivered."""
    cli.client.remove_webhook(webhook_id)
    cli.output.data({"webhook_id": webhook_id, "removed": True})
    cli.output.say(f"{webhook_id} is removed.")


@command(group, "test")
def test(cli: Cli, webhook_id: WebhookId) -> None:
    """Send an endpoint a notification without meaning; `ota webhook deliveries` says what became of it."""
    made = cli.client.test_webhook(webhook_id)
    cli.output.data(made, made["message_id"])


@command(group, "deliveries")
def deliveries(
    cli: Cli,
    webhook_id: WebhookId,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
) -> None:
    """List what an endpoint was told and what became of it, the newest first."""
    from itertools import islice

    from orchestrator.cli.output import table

    found = list(islice(cli.client.webhook_deliveries(webhook_id), limit))
    rows = (
        (
            d["message_id"],
            d["kind"],
            d["state"],
            d["attempts"],
            d["status"] or d["error"],
            d["next_at"],
            d["settled_at"],
        )
        for d in found
    )
    columns = ("message", "event", "state", "attempts", "answer", "next", "settled")
    cli.output.data({"items": found}, table(columns, rows, right=["attempts"]))
