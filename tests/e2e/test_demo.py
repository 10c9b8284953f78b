"""The whole system in one piece: servers, five roles, a fleet over HTTP, three releases; judged by what was stored."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import msgspec
import psutil
import pytest
from rich.console import Console

from orchestrator.demo.__main__ import write
from orchestrator.demo.folder import fresh_folder
from orchestrator.demo.report import expectations
from orchestrator.demo.run import Demo, Options
from orchestrator.demo.screen import Screen
from orchestrator.demo.story import tell
from orchestrator.devstack.process import ComponentError

DEVICES = 120
PLAN = Path(__file__).with_name("plan.yaml")


@pytest.fixture
def state_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo") / "state"


@pytest.fixture
def no_servers_of_others(monkeypatch):
    for name in ("OTA_DATABASE_URL", "OTA_KAFKA_BOOTSTRAP", "OTA_TEMPORAL_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("no_servers_of_others")
async def test_good_releases_complete_and_bad_and_silent_ones_halt_by_themselves(request, state_dir):
    shown = io.StringIO()
    console = Console(file=shown, width=160)
    with fresh_folder(state_dir) as folder:
        demo = Demo(folder, Options(devices=DEVICES, plan=PLAN), Screen(console))
        try:
            report = await demo.play()
        except ComponentError as why:
            if request.config.getoption("--require-services"):
                raise
            pytest.skip(f"the servers do not start here: {why.detail.splitlines()[0]}")
        finally:
            sys.stdout.write(shown.getvalue())
            demo.system.stop()
    checks = list(expectations(report, demo.first_phase))
    tell(console, report, checks)
    assert [f"{check.what}: {check.found}" for check in checks if not check.holds] == []
    assert "FAILED" not in shown.getvalue()
    write(state_dir / "report.json", report)
    assert msgspec.json.decode((state_dir / "report.json").read_bytes())["bad"]["offers_after_halt"] == 0
    left = [
        process.name() for process in psutil.Process().children(recursive=True) if str(state_dir) in _words(process)
    ]
    assert left == [], "every process that was started for it is gone"


def _words(process: psutil.Process) -> str:
    try:
        return " ".join([*process.cmdline(), process.cwd()])
    except psutil.Error:
        return ""
