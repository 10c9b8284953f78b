"""The applications of one simulated device beside its OS: each is replaced, and goes back, alone.

Unlike the OS an application needs no reboot: the device keeps what ran before beside what it installs, and puts it back if the new one
fails its self-test. What was there before the first installation is nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from firmware.device_sim.flash import FlashImage


class Fault(StrEnum):
    """How one component of a release goes wrong."""

    CORRUPT = "corrupt"
    """What arrives is not what was announced."""
    FAILS_SELF_TEST = "fails_self_test"
    """It is installed, does not work, and is rolled back."""


class ComponentBay:
    """The applications of one device, by name."""

    __slots__ = ("_before", "_running")

    def __init__(self) -> None:
        self._running: dict[str, FlashImage] = {}
        self._before: dict[str, FlashImage | None] = {}

    @property
    def running(self) -> Mapping[str, FlashImage]:
        """What each application is now; one that was never installed is absent."""
        return MappingProxyType(self._running)

    def install(self, name: str, image: FlashImage) -> None:
        """Put an application in, and keep what it was before the update for the way back."""
        self._before.setdefault(name, self._running.get(name))
        self._running[name] = image

    def roll_back(self, name: str) -> None:
        """Put back what this application was before the update; the others stay. Nothing to do if it was not installed."""
        if name not in self._before:
            return
        before = self._before.pop(name)
        if before is None:
            del self._running[name]
        else:
            self._running[name] = before

    def roll_back_all(self) -> None:
        """Give up an update that did not come to its end."""
        for name in list(self._before):
            self.roll_back(name)

    def keep(self) -> None:
        """The update is over: there is no way back any more."""
        self._before.clear()
