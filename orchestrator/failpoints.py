"""Named places where a process can be made to die, as by a power cut: between any two of the steps that must not come apart.

Nothing happens unless ``OTA_FAILPOINTS`` names places when the process starts: ``name:probability[:count]``, comma separated. A place
is passed only with work in flight. None fires before the file ``OTA_FAILPOINT_LOG`` exists, so that a test can set the stage first.
When one does, a line (``name pid nanoseconds``) is forced into that file and the process kills itself with SIGKILL, so nothing is
closed, flushed or rolled back by it. ``count`` is the most deaths of that place over all processes, by the log's lines. The dice come
from ``OTA_FAILPOINT_SEED``, the name and the deaths of all places so far, so a restarted process throws them anew and a run can be
repeated.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orchestrator.errors import InvalidInputError

PLACES: Final = frozenset(
    {
        "projector.before_transaction",
        "projector.after_position",
        "projector.before_commit",
        "projector.after_commit",
        "enrol.before_append",
        "enrol.before_commit",
        "slice.before_ledger",
        "slice.before_commit",
        "slice.after_commit",
        "start.before_transaction",
        "start.before_commit",
        "start.after_commit",
        "halt.before_commit",
        "sweep.before_commit",
        "sweep.after_commit",
        "command.before_commit",
        "command.after_commit",
        "relay.before_deliver",
        "relay.before_bookmark",
        "gateway.before_send",
        "gateway.after_ack",
        "api.before_remember",
        "api.before_answer",
        "webhook.before_record",
        "worker.before_completion",
        "rebuild.before_commit",
        "rebuild.before_switch",
        "rebuild.after_switch",
    }
)
"""Role or transaction, and the moment."""

_PLACES_VARIABLE: Final = "OTA_FAILPOINTS"
_LOG_VARIABLE: Final = "OTA_FAILPOINT_LOG"
_SEED_VARIABLE: Final = "OTA_FAILPOINT_SEED"


class FailpointError(InvalidInputError):
    """A failpoint that does not exist, or is not written as ``name:probability[:count]``."""

    code = "failpoint.invalid"
    remedy = "Unset OTA_FAILPOINTS: it is for fault tests only."


@dataclass(slots=True)
class _Place:
    probability: float
    count: int | None
    dice: random.Random


@dataclass(slots=True)
class Failpoints:
    """The places that may fire in this process."""

    log: Path
    places: dict[str, _Place] = field(default_factory=dict[str, _Place])

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Failpoints | None:
        """What the environment names; None, the usual case, if it names nothing. Raises FailpointError."""
        wanted = environ.get(_PLACES_VARIABLE)
        if not wanted:
            return None
        if not environ.get(_LOG_VARIABLE):
            raise FailpointError(f"{_PLACES_VARIABLE} is set without {_LOG_VARIABLE}.")
        made = cls(Path(environ[_LOG_VARIABLE]))
        died, seed = deaths(made.log), environ.get(_SEED_VARIABLE, "0")
        for item in wanted.split(","):
            name, _, rest = item.strip().partition(":")
            probability, _, count = rest.partition(":")
            if name not in PLACES:
                raise FailpointError(f"There is no failpoint '{name}'.")
            try:
                # Dice of a fault test are no secret.
                dice = random.Random(f"{seed} {name} {died.total()}")  # noqa: S311
                made.places[name] = _Place(float(probability), int(count) if count else None, dice)
            except ValueError as error:
                raise FailpointError(f"'{item}' is not name:probability[:count].") from error
        return made

    def hit(self, name: str) -> None:
        """Pass the place; does not return if it fires."""
        place = self.places.get(name)
        if place is None or place.dice.random() >= place.probability:
            return
        if place.count is not None and deaths(self.log)[name] >= place.count:
            return
        if not self.log.exists():
            return
        line = f"{name} {os.getpid()} {time.time_ns()}\n".encode()
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND)
        os.write(log, line)
        os.fsync(log)
        os.kill(os.getpid(), signal.SIGKILL)


def deaths(log: Path) -> Counter[str]:
    """How often each place has fired, by the log's lines."""
    try:
        lines = log.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return Counter()
    return Counter(line.split(" ", 1)[0] for line in lines)


_active = Failpoints.read(os.environ)


def hit(name: str) -> None:
    """Pass a place of ``PLACES``, with work in flight."""
    if _active is not None:
        _active.hit(name)
