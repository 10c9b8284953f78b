from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from orchestrator.cli.main import app

COMMANDS = {
    "bench",
    "campaign abort",
    "campaign approve",
    "campaign backtest",
    "campaign brake",
    "campaign create",
    "campaign eta",
    "campaign events",
    "campaign gate",
    "campaign halt",
    "campaign launch",
    "campaign list",
    "campaign pause",
    "campaign preview",
    "campaign remediate",
    "campaign release-brake",
    "campaign resume",
    "campaign revise",
    "campaign show",
    "campaign submit",
    "campaign watch",
    "campaign why",
    "dev down",
    "dev status",
    "dev up",
    "device import",
    "device list",
    "device show",
    "device token",
    "device will",
    "device opt-out",
    "device opt-in",
    "device postpone",
    "device consent",
    "device why",
    "doctor",
    "fleet as-of",
    "fleet release",
    "fleet show",
    "fleet stop",
    "hardware-model create",
    "hardware-model list",
    "key create",
    "key list",
    "key revoke",
    "migrate",
    "projection accept-loss",
    "projection rebuild",
    "projection status",
    "projection verify",
    "release create",
    "release list",
    "release push",
    "release show",
    "release verify",
    "run",
    "sim fleet",
    "topics apply",
    "trust add",
    "webhook add",
    "webhook deliveries",
    "webhook list",
    "webhook remove",
    "webhook test",
    "workflows repair",
}

HEAVY = (
    "httpx",
    "sqlalchemy",
    "asyncpg",
    "fastapi",
    "temporalio",
    "faust",
    "aiokafka",
    "opentelemetry",
    "pydantic",
    "yaml",
)


def walk(command, words=()):
    children = getattr(command, "commands", None)
    if children is None:
        yield " ".join(words)
        return
    for name, child in children.items():
        yield from walk(child, (*words, name))


def test_the_commands_are_those_that_are_documented():
    assert set(walk(typer.main.get_command(app))) == COMMANDS


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_every_command_explains_itself(ota, words):
    ran = ota(*words.split(), "--help")
    assert ran.exit_code == 0
    for option in ("--help", "--output", "--json", "--quiet", "--no-color"):
        assert option in ran.stdout
    assert ran.stderr == ""


@pytest.mark.parametrize("words", [(), ("campaign",), ("trust",), ("topics",), ("workflows",), ("sim",)])
def test_without_a_command_the_help_is_shown(ota, words):
    ran = ota(*words)
    assert "Usage: ota" in ran.stdout + ran.stderr
    assert ran.exit_code == 2


def test_help_needs_none_of_what_commands_need():
    # Each of these costs a tenth of a second or more.
    script = f"import sys, orchestrator.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [("nonsense",), ("campaign", "show"), ("campaign", "halt", "cmp_1"), ("run", "king")])
def test_wrong_usage_ends_with_2(ota, words):
    assert ota(*words).exit_code == 2
