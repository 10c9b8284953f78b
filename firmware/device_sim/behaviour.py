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
    CRASH_LOOP = "crash_loop"
    """Passes the self-test, and then crashes again and again: nothing that an update's report could say."""


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
    Mode.CRASH_LOOP: Behaviour.CONFIRM,
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
    return _ON_BAD_REVISION[Mode(traits.mode)] if _strikes(image_version, hw_revision, traits) else Behaviour.CONFIRM


def crash_loops(image_version: Version, hw_revision: str, traits: ReleaseTraits) -> bool:
    """Whether the device crashes again and again while it runs ``image_version``, confirmed or not."""
    return Mode(traits.mode) is Mode.CRASH_LOOP and _strikes(image_version, hw_revision, traits)


def _strikes(image_version: Version, hw_revision: str, traits: ReleaseTraits) -> bool:
    return traits.version in {None, image_version} and hw_revision in traits.bad_revisions


def component_fault(name: str, hw_revision: str, traits: ReleaseTraits) -> Fault | None:
    """What is wrong with a component of the release on a device of this hardware revision."""
    return traits.components.get(name) if hw_revision in traits.bad_revisions else None
