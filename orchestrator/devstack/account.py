"""The account PostgreSQL runs under when we are root.

PostgreSQL refuses to run as root. Then it runs as ``nobody``, which exists everywhere, and owns its data folder.
Nothing on the machine is created or re-moded for it. Where ``nobody`` may not enter the folders on the way
(``/root``, a private temporary folder), the process keeps the single capability that lets it, instead of opening
those folders to everybody.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Account:
    """User and group to run as; ``override`` keeps CAP_DAC_OVERRIDE (Linux)."""

    uid: int
    gid: int
    override: bool


def account_for(*folders: Path) -> Account | None:
    """Return the account a program that must not be root runs under, or None when we are an ordinary user already.

    Args:
        folders: existing folders the program must be able to enter and read.
    """
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid, override=not all(_open_to_others(folder) for folder in folders))


def _open_to_others(folder: Path) -> bool:
    resolved = folder.resolve()
    return all(path.stat().st_mode & stat.S_IXOTH for path in (resolved, *resolved.parents))
