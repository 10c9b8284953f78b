"""Options of the fault scenarios, known when this folder is named, as ``deploy/test --chaos`` does.

``--chaos`` runs the long version, ``--chaos-seed`` repeats a run, ``--plant`` puts a defect in that must turn it red.
"""

from __future__ import annotations

import random

import pytest

from orchestrator.devstack.process import ComponentError
from tests.chaos.harness import Harness
from tests.chaos.planted import DEFECTS

LONG = pytest.mark.timeout(1_500)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", action="store_true", help="run the long fault scenarios too")
    parser.addoption(
        "--chaos-seed", type=int, help="of all dice of the fault scenarios; drawn and printed if not given"
    )
    parser.addoption("--plant", choices=sorted(DEFECTS), help="put this defect into every role")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chaos: a long fault scenario, run with --chaos")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Deselected, not skipped: a skip says that something is missing, and nothing is.
    long = [item for item in items if item.get_closest_marker("chaos")]
    for item in long:
        item.add_marker(LONG)
    if long and not config.getoption("--chaos", default=False):
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given: int | None = request.config.getoption("--chaos-seed", default=None)
    return given if given is not None else random.SystemRandom().randrange(1 << 31)


@pytest.fixture
def make_harness(request, tmp_path_factory, seed, monkeypatch):
    """A whole system of servers of its own; where none can be started the test is skipped, unless they are required."""
    for name in ("OTA_DATABASE_URL", "OTA_KAFKA_BOOTSTRAP", "OTA_TEMPORAL_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    defect = request.config.getoption("--plant", default=None)

    def make(**options) -> Harness:
        return Harness(tmp_path_factory.mktemp("chaos"), seed, defect=defect, **options)

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    try:
        return (yield)
    except ComponentError as why:
        if item.config.getoption("--require-services") or "make_harness" not in getattr(item, "fixturenames", ()):
            raise
        pytest.skip(f"the servers do not start here: {why.detail.splitlines()[0]}")
