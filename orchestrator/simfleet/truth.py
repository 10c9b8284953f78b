"""What the fleet knows for certain, one JSON object per line.

``sent``          a report was handed to the network for the first time;
``acknowledged``  it was answered 200, so the system must hold it for ever;
``revealed``      a request, sent at ``t``, whose answer showed a deployment to the device for the first time.

Times are nanoseconds since the epoch on this host's clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

SENT: Final = "sent"
ACKNOWLEDGED: Final = "acknowledged"
REVEALED: Final = "revealed"

BUFFER_BYTES: Final = 1 << 16
"""Lines are gathered up to this size; ``flush`` is called about once a second."""


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the truth file."""

    what: str
    t: int
    device: str
    action: str = ""
    """The DDI action id; empty for attributes."""
    state: str = ""
    event_id: str = ""


class TruthLog:
    """Appends to a truth file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=BUFFER_BYTES)
        self._encode = msgspec.json.Encoder().encode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def sent(self, device: str, action: str, state: str, event_id: str) -> None:
        self._write(Line(what=SENT, t=time.time_ns(), device=device, action=action, state=state, event_id=event_id))

    def acknowledged(self, device: str, action: str, state: str, event_id: str) -> None:
        line = Line(what=ACKNOWLEDGED, t=time.time_ns(), device=device, action=action, state=state, event_id=event_id)
        self._write(line)

    def revealed(self, device: str, action: str, sent_at: int) -> None:
        self._write(Line(what=REVEALED, t=sent_at, device=device, action=action))

    def flush(self) -> None:
        self._file.flush()

    def _write(self, line: Line) -> None:
        self._file.write(self._encode(line) + b"\n")


def read_truth(path: Path) -> Iterator[Line]:
    """The lines of a truth file; a last line that is still being written is left out."""
    decode = msgspec.json.Decoder(Line).decode
    with path.open("rb") as file:
        for raw in file:
            if raw.endswith(b"\n"):
                yield decode(raw)
