"""The state folder of the demonstration: emptied before each run, used by one run at a time, never somebody else's."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from orchestrator.devstack import supervisor
from orchestrator.devstack.paths import default_state_folder
from orchestrator.devstack.stack import DevStack
from orchestrator.errors import ConflictError

MARK: Final = "bellwether-demo"
"""A file of this name says that the folder's content may be deleted."""


class FolderInUseError(ConflictError):
    """Another demonstration uses this state folder."""

    code = "demo.folder.in_use"
    remedy = "Wait for its end, or give another folder with --state-dir."


class FolderNotOursError(ConflictError):
    """The state folder holds something else."""

    code = "demo.folder.not_ours"
    remedy = "Give an empty or a new folder with --state-dir."


def default_folder() -> Path:
    """Beside that of ``ota dev``."""
    return default_state_folder().with_name("demo")


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """An empty state folder; a run that was kept in it is stopped first.

    Raises:
        FolderInUseError: another process has it.
        FolderNotOursError: it holds files that no demonstration has made.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(f"Another demonstration uses {path}.") from None
        _empty(path)
        yield path


def _empty(path: Path) -> None:
    if path.exists() and any(path.iterdir()):
        if not (path / MARK).exists():
            raise FolderNotOursError(f"{path} is not empty and was not made by a demonstration.")
        supervisor.stop(path)
        DevStack(path).down()
        shutil.rmtree(path)
    path.mkdir(mode=0o700, exist_ok=True)
    (path / MARK).touch()
