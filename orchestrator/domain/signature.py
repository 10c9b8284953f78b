"""Signatures of webhooks, as the Standard Webhooks specification defines them (version 1, symmetric).

``base64(HMAC-SHA256(key, "{id}.{timestamp}.{body}"))``, where the key is what follows ``whsec_`` in the secret, decoded from base64. A
header may hold several signatures; one that matches is enough. What is not in these three parts is not signed: not the address and no
other header.

Not here: making secrets, the time of day.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from hashlib import sha256
from typing import Final

PREFIX: Final = "whsec_"
"""Of every secret, so that scanners know one when they see it."""

TOLERANCE_S: Final = 300
"""Seconds that a timestamp may be away from now, in either direction: as the specification's libraries have it."""


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The header ``webhook-signature`` of one message; ``timestamp`` in seconds. Raises ValueError for what is no secret."""
    if not secret.startswith(PREFIX):
        raise ValueError("A secret of webhooks begins with whsec_.")
    try:
        key = b64decode(secret.removeprefix(PREFIX), validate=True)
    except Base64Error as error:
        raise ValueError("A secret of webhooks is base64 after whsec_.") from error
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + b64encode(hmac.new(key, signed, sha256).digest()).decode()


def verified(secret: str, message_id: str, timestamp: str, signatures: str, body: bytes, now_s: int) -> bool:
    """Whether one of the signatures is of this message by this secret, and the message is fresh.

    Args:
        secret: of the endpoint.
        message_id: header ``webhook-id``.
        timestamp: header ``webhook-timestamp``, as it came.
        signatures: header ``webhook-signature``, as it came.
        body: byte for byte.
        now_s: seconds since the epoch.
    """
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    expected = sign(secret, message_id, int(timestamp), body).encode()
    # All of them are compared, so that how long it takes tells nothing.
    matches = [hmac.compare_digest(expected, each.encode()) for each in signatures.split(" ")]
    return any(matches) and abs(now_s - int(timestamp)) <= TOLERANCE_S
