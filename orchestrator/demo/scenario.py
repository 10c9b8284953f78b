"""What the demonstration plays: the fleet, the releases and their secret flaws."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from firmware.device_sim.behaviour import Mode


class Play(StrEnum):
    """The three campaigns, in order."""

    GOOD = "good"
    BAD = "bad"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Revision:
    """A hardware revision and its share of the whole fleet."""

    hardware_model: str
    name: str
    share: float


@dataclass(frozen=True, slots=True)
class Firmware:
    """A version of the firmware, built for every hardware model."""

    version: str
    security_counter: int
    mode: Mode = Mode.GOOD


REVISIONS: Final = (
    Revision("sensor-a", "A", 0.15),
    Revision("sensor-a", "B", 0.15),
    Revision("sensor-a", "C", 0.30),
    Revision("gateway-b", "D", 0.25),
    Revision("gateway-b", "E", 0.15),
)
BAD_REVISION: Final = "C"

SIGNING: Final = {"sensor-a": "ecdsa-p256", "gateway-b": "ed25519"}
"""Hardware models and the kind of key their images are signed with."""

FACTORY: Final = Firmware("1.0.0", 1)
RELEASES: Final = {
    Play.GOOD: Firmware("2.0.0", 2),
    Play.BAD: Firmware("3.0.0", 3, Mode.FAILS_SELF_TEST),
    Play.SILENT: Firmware("4.0.0", 4, Mode.SILENT_IN_TRIAL),
}

PAYLOAD_BYTES: Final = 48_000
"""Of an image: as small as real microcontroller firmware gets, so that the network is not what is shown."""

DEVICES: Final = 2_000
LEAST_DEVICES: Final = 200
"""The plan in ``deploy/demo_data`` needs room for three phases, the first of 60 devices."""

POLLS_PER_SECOND: Final = 400
"""Idle polls of the whole fleet: the base load that two cores carry beside everything else."""
SHORTEST_POLL: Final = 2
"""Seconds between two polls of a device, for small fleets."""

CAMPAIGN_TIMEOUT: Final = 240.0
"""Seconds until a campaign must have ended; the good one takes about 110 s for 2,000 devices."""
SETTLE_TIMEOUT: Final = 60.0
"""Seconds until no device is in flight after a campaign's end: the confirm deadline and some patience."""


def poll_interval(devices: int) -> int:
    """Seconds between two polls of a device."""
    return max(SHORTEST_POLL, devices // POLLS_PER_SECOND)


def revisions_of(devices: int) -> list[Revision]:
    """The revision of every device: shares as exact as whole devices allow, interleaved."""
    owed = dict.fromkeys(range(len(REVISIONS)), 0.0)
    drawn: list[Revision] = []
    for _ in range(devices):
        for index, revision in enumerate(REVISIONS):
            owed[index] += revision.share
        most = max(owed, key=lambda index: owed[index])
        owed[most] -= 1.0
        drawn.append(REVISIONS[most])
    return drawn
