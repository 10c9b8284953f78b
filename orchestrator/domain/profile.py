"""How the update client of a hardware model speaks, and what its words prove.

No protocol-level success means the same with every client: SWUpdate says it after the reboot and a self-test, RAUC when the bundle is
written. So each hardware model has a profile, stored with it as plain data: ``{"client": "zephyr"}``, with overrides where a device is
built differently from what its client usually does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from orchestrator.domain.assignment import State
from orchestrator.errors import InvalidInputError

MAX_PART_CHARS: Final = 32
"""Longest module type; hawkBit's own are at most 4."""


class ProfileError(InvalidInputError):
    """The profile of a hardware model is not valid."""

    code = "hardware_model.invalid_profile"


class Client(StrEnum):
    """Update clients that speak hawkBit's device interface."""

    GENERIC = "generic"
    """Says what it means with ``ota.state=…`` details."""
    SWUPDATE = "swupdate"
    RAUC = "rauc"
    ZEPHYR = "zephyr"


@dataclass(frozen=True, slots=True)
class Profile:
    """A hardware model's client."""

    client: Client = Client.GENERIC
    part: str = "os"
    """Module type of the chunk of a deployment that holds the OS or the only artifact: Zephyr's client takes nothing but ``bApp``."""
    closed_success: State = State.CONFIRMED
    """What ``closed/success`` proves: ``confirmed``, or only ``installed`` where the client says it before the reboot."""
    multi: bool = False
    """Whether a deployment may have several chunks: Zephyr's client takes exactly one, RAUC's one bundle."""


_USUAL: Final = {
    Client.GENERIC: Profile(multi=True),
    Client.SWUPDATE: Profile(client=Client.SWUPDATE, multi=True),
    Client.RAUC: Profile(client=Client.RAUC, closed_success=State.INSTALLED),
    Client.ZEPHYR: Profile(client=Client.ZEPHYR, part="bApp"),
}

_PROOFS: Final = {state.value: state for state in (State.CONFIRMED, State.INSTALLED)}


def parse_profile(data: Mapping[str, Any]) -> Profile:
    """A profile from the plain data it is stored as: ``client``, ``part``, ``closed_success``, ``multi``, each optional.

    Raises:
        ProfileError: a key or a value is not one of these.
    """
    if unknown := sorted(set(data) - {"client", "part", "closed_success", "multi"}):
        raise ProfileError(f"A profile has no {', '.join(map(repr, unknown))}.")
    name = data.get("client", Client.GENERIC.value)
    if not isinstance(name, str) or name not in {client.value for client in Client}:
        raise ProfileError(f"client is {name!r}; known are {', '.join(client.value for client in Client)}.")
    usual = _USUAL[Client(name)]
    part = data.get("part", usual.part)
    if not isinstance(part, str) or not 0 < len(part) <= MAX_PART_CHARS or not part.isprintable():
        raise ProfileError(f"part must be a text of 1 to {MAX_PART_CHARS} printable characters.")
    proof = data.get("closed_success", usual.closed_success.value)
    if not isinstance(proof, str) or proof not in _PROOFS:
        raise ProfileError(f"closed_success is {proof!r}; it can prove {' or '.join(_PROOFS)}.")
    multi = data.get("multi", usual.multi)
    if not isinstance(multi, bool):
        raise ProfileError(f"multi is {multi!r}; it can be true or false.")
    if multi and usual.client is Client.ZEPHYR:
        raise ProfileError("Zephyr's client takes exactly one chunk: multi cannot be true.")
    return Profile(client=usual.client, part=part, closed_success=_PROOFS[proof], multi=multi)
