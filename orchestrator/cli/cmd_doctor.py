"""``ota doctor``: whether everything is there that the system needs."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import typer
from rich.text import Text

from orchestrator.cli.command import Cli, command
from orchestrator.cli.exit_codes import ExitCode
from orchestrator.cli.output import table


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "doctor")(doctor)


def doctor(cli: Cli) -> int:
    """Check database, migrations, clock, Kafka, topics, projection, Temporal, artifact store. Exit 0 if all is well, 1 if not."""
    from orchestrator.cli.diagnosis import diagnose

    findings = asyncio.run(diagnose(cli.settings))
    ok = all(finding.ok for finding in findings)
    rows = [
        (
            Text("ok", "green") if finding.ok else Text("trouble", "bold red"),
            finding.name,
            finding.detail + (f"\n{finding.remedy}" if finding.remedy else ""),
        )
        for finding in findings
    ]
    cli.output.data({"ok": ok, "checks": [asdict(finding) for finding in findings]}, table(("", "part", "found"), rows))
    return ExitCode.DONE if ok else ExitCode.UNEXPECTED
