"""A pair of flash slots under MCUboot: trial, confirm, revert.

The model is the bootloader's own state: per slot the image and its trailer (magic, swap type, copy done, image ok),
and the hardware's security counter. It follows MCUboot's SWAP_SCRATCH and SWAP_MOVE with validation of both slots and
hardware rollback protection, one image pair. The decision at boot, in this order (MCUboot ``docs/design.md``, "Swap
types"):

======================================================  =======
secondary is marked, its image_ok is unset              test
secondary is marked, its image_ok is set                perm
primary is marked and swapped in, its image_ok is unset revert
otherwise                                               none
======================================================  =======

Two rules are the update client's, not the bootloader's, and hold here because a device that breaks them can brick:
nothing is written or requested while the running image is in trial.

Not modelled: power cuts within a swap (MCUboot ends in the same states), overwrite-only, several pairs, slot sizes. The
verifier is stricter than the bootloader about what no signature covers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from firmware.device_sim.flash import FlashImage, flash_image, inspect
from firmware.errors import ImageError, InTrialError, NothingStagedError
from firmware.trust import TrustedKey, VerifiedImage, check_counter
from firmware.version import Version


class Swap(StrEnum):
    """What a boot does with the two slots, and what a slot's trailer remembers of it."""

    NONE = "none"
    TEST = "test"
    PERM = "perm"
    REVERT = "revert"


@dataclass(frozen=True, slots=True)
class Trailer:
    """The flags at the end of a slot. Immutable, so that all devices share the few that occur."""

    marked: bool = False
    """The magic is good."""
    swap: Swap = Swap.NONE
    copy_done: bool = False
    image_ok: bool = False


_ERASED: Final = Trailer()
_REQUESTED: Final = {
    False: Trailer(marked=True, swap=Swap.TEST),
    True: Trailer(marked=True, swap=Swap.PERM, image_ok=True),
}
_SWAPPED_IN: Final = {
    swap: Trailer(marked=True, swap=swap, copy_done=True, image_ok=swap is not Swap.TEST)
    for swap in (Swap.TEST, Swap.PERM, Swap.REVERT)
}


@dataclass(frozen=True, slots=True)
class BootResult:
    """What one boot did."""

    version: Version
    """Of the image that runs now."""
    swap: Swap
    in_trial: bool
    refused: str | None
    """Code of the reason why the swap was refused. A real bootloader leaves no trace but the erased slot."""
    hardware_counter: int


class SlotPair:
    """The two slots of one device, its pinned key and its hardware counter.

    Args:
        primary: the factory image, which runs first.
        secondary: what the second slot holds at first, if anything.
        key: the public key built into the bootloader.
        hardware_counter: the lowest security counter that the hardware lets boot.

    Raises:
        ImageError: the factory image would not boot.
    """

    __slots__ = ("_hardware_counter", "_key", "_primary", "_primary_trailer", "_secondary", "_secondary_trailer")

    def __init__(
        self,
        primary: bytes | FlashImage,
        secondary: bytes | FlashImage | None = None,
        *,
        key: TrustedKey,
        hardware_counter: int = 0,
    ) -> None:
        self._key = key
        self._hardware_counter = hardware_counter
        self._primary = flash_image(primary)
        self._primary_trailer = _ERASED
        self._secondary = None if secondary is None else flash_image(secondary)
        self._secondary_trailer = _ERASED
        self._validate(self._primary)

    # ---- what the device can read

    @property
    def running(self) -> VerifiedImage:
        """The image in the primary slot."""
        return self._validate(self._primary)

    @property
    def running_version(self) -> Version:
        return self.running.version

    @property
    def secondary_sha256(self) -> str | None:
        """Digest of what was written to the second slot; None when it is erased."""
        return self._secondary.sha256 if self._secondary else None

    @property
    def in_trial(self) -> bool:
        """The running image is unconfirmed, and the second slot holds the only way back."""
        trailer = self._primary_trailer
        return trailer.marked and trailer.copy_done and not trailer.image_ok

    @property
    def reverted(self) -> bool:
        """The last swap was a revert. A refused image does not set this."""
        return self._primary_trailer.swap is Swap.REVERT

    @property
    def next_swap(self) -> Swap:
        """What the next boot will attempt."""
        if self._secondary_trailer.marked:
            return Swap.PERM if self._secondary_trailer.image_ok else Swap.TEST
        return Swap.REVERT if self.in_trial else Swap.NONE

    @property
    def hardware_counter(self) -> int:
        """The lowest security counter that boots.

        It rises on the first boot *after* a confirmation, or at a permanent swap: confirmed is not yet rollback-proof.
        """
        return self._hardware_counter

    # ---- what the update client does

    def write_secondary(self, image: bytes | FlashImage) -> None:
        """Erase the second slot and write ``image``, unchecked as flash is; the boot validates it.

        Raises:
            InTrialError: the slot holds the fallback of a running trial.
        """
        self._refuse_in_trial()
        self._secondary = flash_image(image)
        self._secondary_trailer = _ERASED

    def set_pending(self, *, permanent: bool = False) -> None:
        """Request a swap at the next boot, on trial unless ``permanent``. A request that stands is left as it is.

        Raises:
            InTrialError: the fallback would go on trial itself, with the unconfirmed image as *its* fallback.
            NothingStagedError: the second slot is erased.
        """
        self._refuse_in_trial()
        if self._secondary is None:
            raise NothingStagedError
        if not self._secondary_trailer.marked:
            self._secondary_trailer = _REQUESTED[permanent]

    def confirm(self) -> None:
        """Make the running image permanent. A factory image has no trailer and needs none."""
        if self._primary_trailer.marked:
            self._primary_trailer = replace(self._primary_trailer, image_ok=True)

    # ---- what the bootloader does

    def boot(self) -> BootResult:
        """One reset: decide, validate, swap, raise the counter. A refused image costs its slot and nothing else."""
        swap, refused = self.next_swap, None
        if swap is not Swap.NONE:
            try:
                self._swap(swap)
            except ImageError as why:
                self._secondary, self._secondary_trailer = None, _ERASED
                swap, refused = Swap.NONE, why.code
        running = self.running
        if not self.in_trial:
            self._hardware_counter = max(self._hardware_counter, running.security_counter or 0)
        return BootResult(running.version, swap, self.in_trial, refused, self._hardware_counter)

    def _swap(self, swap: Swap) -> None:
        arriving = self._secondary
        assert arriving is not None, "a swap is only ever requested of a written slot, and a trial keeps its fallback"
        self._validate(arriving)
        self._primary, self._secondary = arriving, self._primary
        self._primary_trailer, self._secondary_trailer = _SWAPPED_IN[swap], _ERASED

    def _validate(self, image: FlashImage) -> VerifiedImage:
        found = inspect(image, self._key)
        if isinstance(found, ImageError):
            raise type(found)(found.detail)  # the cached one would collect the traceback of every raise
        check_counter(found.security_counter, minimum=self._hardware_counter, required=True)
        return found

    def _refuse_in_trial(self) -> None:
        if self.in_trial:
            raise InTrialError
