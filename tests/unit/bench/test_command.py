from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from orchestrator.cli import cmd_bench
from orchestrator.cli.main import app


@dataclass(frozen=True)
class Size:
    devices: int
    runs: int = 3


@pytest.fixture
def ota(monkeypatch):
    async def run(size, say):
        say("measuring")
        return {"devices": size.devices, "runs": size.runs, "settings": {"fsync": "on"}}

    sizes = {"small": Size(10), "large": Size(1_000)}
    monkeypatch.setattr(cmd_bench.importlib, "import_module", lambda _: SimpleNamespace(run=run, SIZES=sizes))
    return lambda *words: CliRunner().invoke(app, ["bench", *words])


def test_the_result_is_written_whole_and_shown_without_its_details(ota, tmp_path):
    file = tmp_path / "halt.json"
    ran = ota("halt", "--json", str(file))
    assert ran.exit_code == 0
    assert json.loads(file.read_text()) == {"devices": 10, "runs": 3, "settings": {"fsync": "on"}}
    assert "devices" in ran.stdout
    assert "fsync" not in ran.stdout


def test_a_size_is_chosen_and_its_numbers_are_changed(ota):
    ran = ota("halt", "--size", "large", "--set", "runs=50", "--output", "json")
    found = json.loads(ran.stdout)
    assert (found["devices"], found["runs"]) == (1_000, 50)


@pytest.mark.parametrize("change", ["speed=1", "runs", "runs=-1", "runs=many"])
def test_a_number_that_does_not_exist_is_refused(ota, change):
    ran = ota("halt", "--set", change)
    assert ran.exit_code == 2
    assert "the numbers are devices, runs" in ran.stderr


def test_an_installation_without_the_checkout_says_so(ota, monkeypatch, tmp_path):
    monkeypatch.setattr(cmd_bench, "ROOT", tmp_path)
    ran = ota("halt")
    assert ran.exit_code == 6
    assert "checkout" in ran.stderr


def test_a_measurement_that_does_not_exist_is_wrong_usage(ota):
    assert ota("weather").exit_code == 2
