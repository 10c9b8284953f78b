"""Running a fleet as a program: the files it reads and writes, how long it lives, how it ends."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path

import uvloop

from orchestrator.simfleet.fleet import Fleet
from orchestrator.simfleet.model import Pace, load_fleet, load_traits


@dataclass(frozen=True, slots=True)
class Options:
    """What to simulate, and for how long (seconds; None: until SIGTERM or SIGINT)."""

    gateway: str
    devices: Path
    truth: Path
    traits: Path | None = None
    counts: Path | None = None
    duration: float | None = None
    tenant: str = "default"
    seed: int = 1
    health_every: float | None = None
    """Seconds between reports on health; None: none are made."""


async def simulate(options: Options) -> Fleet:
    """Run a fleet; returns it as it was at the end.

    Raises:
        OSError: a file cannot be read or written.
        msgspec.DecodeError: the fleet or traits file is not what ``orchestrator.simfleet.model`` says.
    """
    described = load_fleet(options.devices)
    fleet = Fleet(
        options.gateway,
        described.devices,
        described.hardware,
        load_traits(options.traits) if options.traits else {},
        options.truth,
        pace=Pace(health_every=options.health_every),
        tenant=options.tenant,
        counts_file=options.counts,
        seed=options.seed,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ending = loop.call_later(options.duration, stop.set) if options.duration is not None else None
    try:
        await fleet.run(stop)
    finally:
        if ending:
            ending.cancel()
    return fleet


def run(options: Options) -> int:
    """Run a fleet on an event loop of its own; the exit code is 1 if a device's simulation ended with an error."""
    fleet = uvloop.run(simulate(options))
    return 1 if fleet.counts.defects else 0
