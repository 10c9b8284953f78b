"""Options of the fault scenarios, known when this folder is named, as ``deploy/test --chaos`` does, and what they found together.

``--chaos`` runs the long version, ``--chaos-seed`` repeats a run, ``--plant`` puts a defect in that must turn it red. When the whole
folder has run, fewer than ``KILLS`` judged deaths fail the session: a run that hardly hurt proves nothing.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

import pytest

from orchestrator.devstack.process import ComponentError
from tests.chaos.harness import Harness
from tests.chaos.planted import DEFECTS
from tests.chaos.tally import Tally

LONG = pytest.mark.timeout(900)

KILLS: Final = 100
"""Judged deaths with work in flight in a run of the whole folder."""

SEED: Final = pytest.StashKey[int]()
_OUTCOME: Final = "chaos"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", action="store_true", help="run the long fault scenarios too")
    parser.addoption(
        "--chaos-seed", type=int, help="of all dice of the fault scenarios; drawn and printed if not given"
    )
    parser.addoption("--plant", choices=sorted(DEFECTS), help="put this defect into every role")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chaos: a long fault scenario, run with --chaos")
    given: int | None = config.getoption("--chaos-seed", default=None)
    config.stash[SEED] = config.option.chaos_seed = (
        given if given is not None else random.SystemRandom().randrange(1 << 31)
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"chaos: --chaos-seed {config.stash[SEED]}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Deselected, not skipped: a skip says that something is missing, and nothing is.
    long = [item for item in items if item.get_closest_marker("chaos")]
    for item in long:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(LONG)
    if long and not config.getoption("--chaos", default=False):
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return request.config.stash[SEED]


@pytest.fixture
def make_harness(request, tmp_path_factory, seed, monkeypatch, record_property):
    """A whole system of servers of its own; where none can be started the test is skipped, unless they are required."""
    for name in ("OTA_DATABASE_URL", "OTA_KAFKA_BOOTSTRAP", "OTA_TEMPORAL_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    defect = request.config.getoption("--plant", default=None)

    def report(outcome: dict[str, Any]) -> None:
        record_property(_OUTCOME, outcome)

    def make(**options) -> Harness:
        return Harness(tmp_path_factory.mktemp("chaos"), seed, **{"defect": defect, "report": report, **options})

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    try:
        return (yield)
    except ComponentError as why:
        if item.config.getoption("--require-services") or "make_harness" not in getattr(item, "fixturenames", ()):
            raise
        pytest.skip(f"the servers do not start here: {why.detail.splitlines()[0]}")


# --------------------------------------------------------------------------- the session


TALLY: Final = Tally()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        for name, outcome in report.user_properties:
            if name == _OUTCOME:
                TALLY.add(outcome)  # pyright: ignore[reportArgumentType] - as the fixture recorded it


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and _whole(session.config) and TALLY.kills.total() < KILLS:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not TALLY.scenarios and not TALLY.planted:
        return
    terminalreporter.section("faults")
    for line in TALLY.lines(config.stash[SEED]):
        terminalreporter.write_line(line)
    if _whole(config) and TALLY.kills.total() < KILLS:
        terminalreporter.write_line(f"fewer than {KILLS} kills: FAILED", red=True)


def _whole(config: pytest.Config) -> bool:
    """Whether all long scenarios were asked for."""
    named = [Path(argument).absolute() for argument in config.args]
    narrowed = config.getoption("keyword") or config.getoption("markexpr") or config.getoption("--plant", default=None)
    everything = named == [Path(__file__).absolute().parent] and not narrowed
    return everything and bool(config.getoption("--chaos", default=False))
