"""``python -m orchestrator.simfleet``: a simulated fleet as a process of its own, until SIGTERM or for a given time."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.simfleet.command import Options, run


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m orchestrator.simfleet", description="Simulate a fleet of devices.")
    made.add_argument("--gateway", required=True, metavar="URL", help="http://host:port of the gateway")
    made.add_argument("--devices", required=True, type=Path, metavar="FILE", help="hardware and devices, JSON")
    made.add_argument("--traits", type=Path, metavar="FILE", help="flaws of releases by version, JSON")
    made.add_argument(
        "--truth", required=True, type=Path, metavar="FILE", help="receives what the fleet knows, JSON lines"
    )
    made.add_argument("--counts", type=Path, metavar="FILE", help="receives the counters once a second, JSON")
    made.add_argument("--duration", type=float, metavar="SECONDS", help="how long; without: until SIGTERM or SIGINT")
    made.add_argument("--tenant", default="default", help="DDI tenant (default: %(default)s)")
    made.add_argument("--seed", type=int, default=1, help="of the devices' dice (default: %(default)s)")
    made.add_argument("--health-every", type=float, metavar="SECONDS", help="report health this often; without: never")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return run(Options(**vars(parser().parse_args(arguments))))


if __name__ == "__main__":
    sys.exit(main())
