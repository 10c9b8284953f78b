"""Digests of plain data: one byte string per value, on every machine.

Canonical JSON as used here: keys sorted by code point, no spaces, UTF-8, floats written as strings of their
``repr`` (the shortest text that reads back as the same double; JSON libraries disagree on how to print them). A
float and the string of its ``repr`` therefore digest alike, so what is digested must have fixed types: a model's
dump, never free-form input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from math import isfinite
from typing import Any, cast


def canonical_json(value: Any) -> bytes:
    """The value as canonical JSON.

    Raises:
        TypeError: something is not a mapping with string keys, list, tuple, string, number, boolean or None.
        ValueError: a float is infinite or no number, or a string is no valid Unicode.
    """
    plain = json.dumps(_exact(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return plain.encode("utf-8")


def digest_of(value: Any) -> str:
    """``sha256:`` and the hexadecimal digest of the value's canonical JSON."""
    return "sha256:" + sha256(canonical_json(value)).hexdigest()


def _exact(value: Any) -> Any:
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError(f"{value} has no canonical form")
        return repr(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value)
        if not all(isinstance(key, str) for key in items):
            raise TypeError("keys of canonical JSON are strings")
        return {key: _exact(item) for key, item in items.items()}
    if isinstance(value, list | tuple):
        return [_exact(item) for item in cast("list[Any]", value)]
    return value
