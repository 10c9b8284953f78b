"""``ota run``, ``ota migrate``, ``ota topics apply``, ``ota workflows repair``: what runs and prepares the system."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from orchestrator.cli.command import Cli, command

topics = typer.Typer(help="Kafka topics.", no_args_is_help=True)
workflows = typer.Typer(help="Temporal workflows.", no_args_is_help=True)


class Role(StrEnum):
    """The processes that make up the system."""

    API = "api"
    GATEWAY = "gateway"
    PROJECTOR = "projector"
    WORKER = "worker"
    RELAY = "relay"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "run")(run)
    command(app, "migrate")(migrate)
    app.add_typer(topics, name="topics")
    app.add_typer(workflows, name="workflows")


def run(cli: Cli, role: Annotated[Role, typer.Argument(help="What this process is.", show_default=False)]) -> int:
    """Run one role until SIGTERM or SIGINT. Its exit status is the role's: 5 of a projector means a damaged log."""
    import uvloop

    from orchestrator.bootstrap import run_role

    return uvloop.run(run_role(role.value, cli.settings))


def migrate(cli: Cli) -> None:
    """Bring the database to this version's revision. Running it again does nothing."""
    from orchestrator.adapters.sql.migrations import migrate as to_head

    revision = asyncio.run(to_head(cli.settings.database_url))
    cli.output.data({"revision": revision})
    cli.output.say(f"The database is at revision {revision}.")


@command(topics, "apply")
def apply_topics(cli: Cli) -> None:
    """Create the topics that are missing and check those that are there."""
    from orchestrator.adapters.kafka.topics import apply

    applied = asyncio.run(apply(cli.settings.kafka_bootstrap, cli.settings.topic_prefix))
    cli.output.data(
        {
            "cluster_id": applied.cluster_id,
            "replicas": applied.replicas,
            "created": list(applied.created),
            "present": list(applied.present),
        },
        "\n".join([f"created {name}" for name in applied.created] + [f"present {name}" for name in applied.present]),
    )


@command(workflows, "repair")
def repair_workflows(cli: Cli) -> None:
    """Start the workflow of every unfinished campaign that has none: what the log says should run, runs."""
    started = asyncio.run(_repair(cli))
    cli.output.data({"started": started}, "\n".join(started))
    cli.output.say(f"{len(started)} workflows started.")


async def _repair(cli: Cli) -> list[str]:
    from orchestrator.adapters.sql.engine import make_engine
    from orchestrator.adapters.sql.process import SqlUnfinished
    from orchestrator.adapters.temporal.client import connect
    from orchestrator.adapters.temporal.processes import TemporalProcesses
    from orchestrator.adapters.temporal.repair import repair

    engine = make_engine(cli.settings.database_url, pool_size=1, application="ota-repair")
    try:
        return await repair(SqlUnfinished(engine), TemporalProcesses(await connect(cli.settings), cli.settings))
    finally:
        await engine.dispose()
