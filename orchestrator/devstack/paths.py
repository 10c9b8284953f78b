"""Where the embedded stack keeps things: downloads in the user's cache folder, state where the caller says.

The cache holds only what can be fetched or computed again, keyed by version, so that deleting it is always safe and two
versions never share a folder. State (databases, logs, ports, process ids) lives in one folder per stack.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/bellwether``, by default ``~/.cache/bellwether``; not created here."""
    return _base("XDG_CACHE_HOME", ".cache") / "bellwether"


def default_state_folder() -> Path:
    """Return the state folder of ``ota dev`` by default: ``$XDG_STATE_HOME/bellwether/dev``; not created here."""
    return _base("XDG_STATE_HOME", ".local/state") / "bellwether" / "dev"


def _base(variable: str, default: str) -> Path:
    given = os.environ.get(variable, "")
    # The XDG specification: a relative path is invalid and must be ignored.
    return Path(given) if given.startswith("/") else Path.home() / default
