"""One role as a process, as `ota run` starts it; killed and started again by tests."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.config import Settings

_RUN = """
import asyncio, os, sys
from orchestrator.bootstrap import run_role
from orchestrator.config import Settings
code = asyncio.run(run_role(sys.argv[1], Settings()))
sys.stdout.flush(); sys.stderr.flush()
os._exit(code)
"""


def environment(settings: Settings) -> dict[str, str]:
    """``OTA_…`` variables of these settings."""
    changed = settings.model_dump(mode="json", exclude_defaults=True)
    return {**os.environ, **{f"OTA_{key.upper()}": str(value) for key, value in changed.items()}}


@asynccontextmanager
async def running(role: str, settings: Settings, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The role's process; it is gone when the block ends."""
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _RUN, role, env=environment(settings), stdout=out, stderr=out, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), 15)
                except TimeoutError:
                    process.kill()
                    await process.wait()
