"""Cursors: where a page ended, opaque and signed, good for one list and one filter only."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec
from starlette.datastructures import URL

from orchestrator.app.queries import Key
from orchestrator.errors import InvalidInputError

DEFAULT_LIMIT: Final = 50
"""Items of a page: a screen or two."""

MAX_LIMIT: Final = 1_000
"""Largest page: some 500 kB of JSON."""

MAX_CURSOR: Final = 1_024
"""Characters of a cursor; ours have about 100."""

_SIGNATURE: Final = 16
_FILTER: Final = 8


class CursorInvalidError(InvalidInputError):
    """The cursor is not one that this list gave out."""

    code = "cursor.invalid"
    status = 400
    remedy = "Start again without a cursor, and pass `next` on unchanged."


class CursorFilterError(CursorInvalidError):
    """The cursor belongs to another filter."""

    code = "cursor.filter_changed"
    remedy = "Keep the filter while paging, or start again without a cursor."


class Cursors:
    """Makes and reads cursors. Every process of one deployment needs the same secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def encode(self, key: Key, kind: str, filters: Mapping[str, Any]) -> str:
        """The cursor of a page of ``kind`` under ``filters`` that ended at ``key``."""
        payload = _digest(kind, filters) + msgspec.json.encode(key)
        return urlsafe_b64encode(self._sign(payload) + payload).decode().rstrip("=")

    def decode(self, cursor: str | None, kind: str, filters: Mapping[str, Any]) -> Key | None:
        """The key of a cursor. Raises CursorInvalidError, CursorFilterError."""
        if cursor is None:
            return None
        try:
            raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        except (Base64Error, UnicodeEncodeError) as why:
            raise CursorInvalidError from why
        signature, payload = raw[:_SIGNATURE], raw[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._sign(payload)):
            raise CursorInvalidError
        if payload[:_FILTER] != _digest(kind, filters):
            raise CursorFilterError
        return msgspec.json.decode(payload[_FILTER:], type=tuple[int | str, ...])

    def _sign(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, payload, "sha256")[:_SIGNATURE]


def next_link(url: URL, cursor: str) -> str:
    """Header ``Link`` to the next page, relative to the host."""
    following = url.include_query_params(cursor=cursor)
    return f'<{following.path}?{following.query}>; rel="next"'


def _digest(kind: str, filters: Mapping[str, Any]) -> bytes:
    return sha256(msgspec.json.encode([kind, filters], order="sorted")).digest()[:_FILTER]
