"""Versions of the workflow code: which build this is, and the patches that separate old histories from new code.

A patch id is a constant here, named by date and subject, with the date after which it goes: no campaign that started before it runs
any more. There are none yet.
"""

from __future__ import annotations

import os
from typing import Final

from temporalio.common import VersioningBehavior

BUILD_ID: Final = os.environ.get("OTA_BUILD_ID", "")
"""Set: the worker takes part in worker versioning under this build id, and somebody has to make the version current."""

DEPLOYMENT: Final = "ota"
"""Name of the worker deployment."""


def behavior(wanted: VersioningBehavior) -> VersioningBehavior:
    """The behaviour to declare: an unversioned worker that declares one has every workflow task refused by the server."""
    return wanted if BUILD_ID else VersioningBehavior.UNSPECIFIED
