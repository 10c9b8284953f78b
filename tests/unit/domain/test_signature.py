"""Signatures of webhooks: the specification's vector, and everything that must not pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.signature import TOLERANCE_S, sign, verified

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
SIGNED = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_vector_of_the_specification():
    assert sign(SECRET, ID, AT, BODY) == SIGNED
    assert verified(SECRET, ID, str(AT), SIGNED, BODY, AT)


@given(message_id=st.text(min_size=1, max_size=20), body=st.binary(max_size=50), late=st.integers(-400, 400))
def test_what_is_signed_is_verified_while_it_is_fresh(message_id, body, late):
    signature = sign(SECRET, message_id, AT, body)
    fresh = abs(late) <= TOLERANCE_S
    assert verified(SECRET, message_id, str(AT), signature, body, AT + late) is fresh
    assert verified(SECRET, message_id, str(AT), f"v1a,xx {signature}", body, AT + late) is fresh
    assert not verified(OTHER, message_id, str(AT), signature, body, AT)
    assert not verified(SECRET, message_id, str(AT + 1), signature, body, AT)
    assert not verified(SECRET, message_id + "x", str(AT), signature, body, AT)
    assert not verified(SECRET, message_id, str(AT), signature, body + b"x", AT)


@pytest.mark.parametrize("timestamp", ["", "-1", "1e9", "٣", "1" * 40, f" {AT}"])
def test_a_timestamp_that_is_none_does_not_pass(timestamp):
    assert not verified(SECRET, ID, timestamp, SIGNED, BODY, AT)


@pytest.mark.parametrize("signatures", ["", "v1,", SIGNED[3:], SIGNED[:-1], "v2," + SIGNED[3:], "é"])
def test_a_signature_that_is_none_does_not_pass(signatures):
    assert not verified(SECRET, ID, str(AT), signatures, BODY, AT)


@pytest.mark.parametrize("secret", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64"])
def test_what_is_no_secret_signs_nothing(secret):
    with pytest.raises(ValueError, match="whsec_"):
        sign(secret, ID, AT, BODY)
