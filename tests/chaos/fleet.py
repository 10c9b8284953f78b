"""A simulated fleet as a process that also writes down, at its end, what every device's flash holds.

``python -m tests.chaos.fleet FLASH_FILE`` followed by the arguments of ``python -m orchestrator.simfleet``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import uvloop

from orchestrator.simfleet.__main__ import parser
from orchestrator.simfleet.command import Options, simulate


def main(flash_file: str, *arguments: str) -> int:
    fleet = uvloop.run(simulate(Options(**vars(parser().parse_args(arguments)))))
    flash = {
        device: {"running": str(slots.running_version), "in_trial": slots.in_trial}
        for device, slots in fleet.slots.items()
    }
    Path(flash_file).write_text(json.dumps(flash), encoding="utf-8")
    return 1 if fleet.counts.defects else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
