from __future__ import annotations

import pytest

from orchestrator.demo.folder import FolderInUseError, FolderNotOursError, fresh_folder


def test_the_folder_of_an_earlier_run_is_emptied(tmp_path):
    with fresh_folder(tmp_path / "demo") as folder:
        (folder / "truth.jsonl").touch()
    with fresh_folder(tmp_path / "demo") as folder:
        assert not (folder / "truth.jsonl").exists()


def test_files_of_somebody_else_are_never_deleted(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FolderNotOursError), fresh_folder(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").exists()


def test_two_runs_do_not_share_a_folder(tmp_path):
    with fresh_folder(tmp_path / "demo"), pytest.raises(FolderInUseError), fresh_folder(tmp_path / "demo"):
        pass
