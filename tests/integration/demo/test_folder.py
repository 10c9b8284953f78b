from __future__ import annotations

import psutil
import pytest

from orchestrator.demo.folder import MARK, fresh_folder
from orchestrator.devstack.process import ComponentError
from orchestrator.devstack.stack import DevStack


@pytest.fixture
def kept(request, tmp_path):
    """The folder of a demonstration that left its database running, and the database's process."""
    folder = tmp_path / "demo"
    folder.mkdir(mode=0o700)
    (folder / MARK).touch()
    stack = DevStack(folder, kafka=False, temporal=False, detach=True, environ={})
    try:
        stack.up()
    except ComponentError as why:
        if request.config.getoption("--require-services"):
            raise
        pytest.skip(why.detail.splitlines()[0])
    yield folder, psutil.Process(stack.pids()["postgres"])
    stack.down()


def test_what_an_earlier_run_left_running_is_ended_before_its_folder_is_emptied(kept):
    folder, database = kept
    with fresh_folder(folder):
        assert not database.is_running() or database.status() == psutil.STATUS_ZOMBIE
        assert [entry.name for entry in folder.iterdir()] == [MARK]
