"""The version in an MCUboot image header."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from firmware.errors import InvalidVersionError

_NUMBER = r"(0|[1-9][0-9]{0,9})"
_PATTERN = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:\+{_NUMBER})?")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """``major.minor.revision+build``, ordered by all four numbers; 8, 8, 16 and 32 bits wide.

    The build number counts here. MCUboot ignores it when it compares, unless built with
    MCUBOOT_VERSION_CMP_USE_BUILD_NUMBER.
    """

    major: int
    minor: int = 0
    revision: int = 0
    build: int = 0

    def __post_init__(self) -> None:
        for number, bits in ((self.major, 8), (self.minor, 8), (self.revision, 16), (self.build, 32)):
            if not 0 <= number < 1 << bits:
                raise InvalidVersionError(
                    f"Version {self}: {number} does not fit into {bits} bits of the image header."
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``1.2.3`` or ``1.2.3+4``; a missing build number is 0.

        Raises:
            InvalidVersionError: it is written in another way, or a number is too large for the header.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise InvalidVersionError(f"{text[:80]!r} is not a version.")
        return cls(*(int(number or 0) for number in match.groups()))

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.revision}"
        return f"{text}+{self.build}" if self.build else text
