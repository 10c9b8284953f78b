from pathlib import Path

from orchestrator.devstack.paths import cache_folder, default_state_folder


def test_the_cache_is_in_the_folder_that_the_user_names(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    assert cache_folder() == Path("/somewhere/cache/bellwether")


def test_a_relative_cache_folder_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert cache_folder() == Path.home() / ".cache/bellwether"


def test_state_is_not_kept_in_the_cache(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert not default_state_folder().is_relative_to(cache_folder())
