"""Actors that the system itself is in the log: no person, machine or external gate may be called so."""

from __future__ import annotations

from typing import Final

RESERVED: Final = frozenset({"gate", "orchestrator", "process"})
