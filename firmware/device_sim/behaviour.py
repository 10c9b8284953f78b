"""What a simulated device makes of a release once it runs on trial."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum

from firmware.device_sim.components import Fault
from firmware.version import Version


class Mode(StrEnum):
    """How a release goes wrong on the hardware revisions that it does not suit."""

    GOOD = "good"
    FAILS_SELF_TEST = "fails_self_test"
    SILENT_IN_TRIAL = "silent_in_trial"
    CRASHES = "crashes"


class Behaviour(StrEnum):
    """What the device does in trial."""

    CONFIRM = "confirm"
    """The self-test passes: confirm the image and say so."""
    FAIL = "fail"
    """The self-test fails: say so, reset without confirming, and so revert."""
    SILENT = "silent"
    """The image runs on unconfirmed and never says a word."""
    CRASH = "crash"
    """The image dies before it can say anything; the watchdog resets the device, and so it reverts."""


_ON_BAD_REVISION = {
    Mode.GOOD: Behaviour.CONFIRM,
    Mode.FAILS_SELF_TEST: Behaviour.FAIL,
    Mode.SILENT_IN_TRIAL: Behaviour.SILENT,
    Mode.CRASHES: Behaviour.CRASH,
}


@dataclass(frozen=True, slots=True)
class ReleaseTraits:
    """The secret flaw of a release: ``mode`` strikes on ``bad_revisions`` of the hardware, the others are well."""

    mode: Mode = Mode.GOOD
    bad_revisions: AbstractSet[str] = frozenset()
    version: Version | None = None
    """The image that has these traits; None for any."""
    components: Mapping[str, Fault] = field(default_factory=dict[str, Fault])
    """Component to its fault, on the same revisions."""


def self_test(image_version: Version, hw_revision: str, traits: ReleaseTraits) -> Behaviour:
    """What a device of this hardware revision does on trial of ``image_version``."""
    if traits.version not in {None, image_version} or hw_revision not in traits.bad_revisions:
        return Behaviour.CONFIRM
    return _ON_BAD_REVISION[Mode(traits.mode)]


def component_fault(name: str, hw_revision: str, traits: ReleaseTraits) -> Fault | None:
    """What is wrong with a component of the release on a device of this hardware revision."""
    return traits.components.get(name) if hw_revision in traits.bad_revisions else None
