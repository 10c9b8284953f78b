"""Images in the flash of simulated devices: tens of thousands of devices in one process share few of them.

Every device downloads its own copy, but equal files become one object here, and each is verified once per key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from weakref import WeakValueDictionary

from firmware.errors import ImageError
from firmware.trust import TrustedKey, VerifiedImage, verify_image

VERIFICATION_CACHE_SIZE: Final = 128
"""Pairs of image and key whose verdict is kept: a fleet meets few releases at a time, and an entry holds its image."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class FlashImage:
    """Bytes written to a slot, whatever they are. Equal by digest, so that comparing never reads the bytes."""

    sha256: str
    data: bytes = field(repr=False, compare=False)


_shared: WeakValueDictionary[str, FlashImage] = WeakValueDictionary()


def flash_image(data: bytes | FlashImage) -> FlashImage:
    """The one object that stands for these bytes in this process."""
    if isinstance(data, FlashImage):
        return data
    sha256 = hashlib.sha256(data).hexdigest()
    return _shared.setdefault(sha256, FlashImage(sha256, data))


@lru_cache(maxsize=VERIFICATION_CACHE_SIZE)
def inspect(image: FlashImage, key: TrustedKey) -> VerifiedImage | ImageError:
    """What a bootloader with this key built in finds: the verified image, or why it refuses.

    The refusal is returned, not raised, so that it is cached as well. Counters are compared by the caller: they
    depend on the device.
    """
    try:
        return verify_image(image.data, [key], minimum_counter=None, minimum_version=None, counter_required=False)
    except ImageError as why:
        return why.with_traceback(None)  # the frames would keep alive what they hold
