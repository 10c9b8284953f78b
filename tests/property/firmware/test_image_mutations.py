"""Whatever is done to a signed file: it is refused with a code of ours, or it is the same image still."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware.errors import FirmwareError, TrailingBytesError, TruncatedImageError
from firmware.image import parse_image
from firmware.trust import verify_image

KINDS = ["ecdsa-p256", "ed25519"]

many = settings(max_examples=300, deadline=None)


@pytest.fixture(scope="session", params=KINDS)
def signed(request, workshops):
    """An image with every protected record, its trusted key, and the number of bytes that its hash covers."""
    workshop = workshops[request.param]
    data = workshop.build(options=("--vid", "example.com", "--cid", "sensor", "--custom-tlv", "0xa0a0", "0x0102"))
    return data, workshop.key, len(parse_image(data).hashed_region)


def verify(data, key):
    return verify_image(data, [key], minimum_counter=None, minimum_version=None, counter_required=True)


def test_every_truncation_is_refused(signed):
    data, key, _ = signed
    for length in range(len(data)):
        with pytest.raises(TruncatedImageError):
            verify(data[:length], key)


@many
@given(choice=st.data(), mask=st.integers(1, 255))
def test_any_changed_byte_of_header_payload_or_protected_records_is_refused(signed, choice, mask):
    data, key, hashed = signed
    at = choice.draw(st.integers(0, hashed - 1))
    changed = bytearray(data)
    changed[at] ^= mask
    with pytest.raises(FirmwareError):
        verify(bytes(changed), key)


@many
@given(tail=st.binary(min_size=1, max_size=64).filter(lambda tail: tail.strip(b"\xff")), erased=st.integers(0, 64))
def test_any_appended_bytes_but_erased_ones_are_refused(signed, tail, erased):
    data, key, _ = signed
    with pytest.raises(TrailingBytesError):
        verify(data + b"\xff" * erased + tail, key)


@many
@given(choice=st.data(), removed=st.integers(0, 40), inserted=st.binary(max_size=40))
def test_any_splice_is_refused_or_leaves_the_image_as_it_was(signed, choice, removed, inserted):
    data, key, _ = signed
    at = choice.draw(st.integers(0, len(data)))
    changed = data[:at] + inserted + data[at + removed :]
    try:
        verified = verify(changed, key)
    except FirmwareError:
        return
    assert changed.rstrip(b"\xff") == data.rstrip(b"\xff")
    assert verified.image_digest == parse_image(data).image_digest


@many
@given(data=st.binary(max_size=200))
def test_the_parser_raises_nothing_but_its_own_errors(signed, data):
    good, _, _ = signed
    for candidate in (data, good[:32] + data, good[:4] + data):
        with pytest.raises(FirmwareError) as refusal:
            parse_image(candidate)
        assert refusal.value.code.startswith("firmware.image.")


@many
@given(records=st.binary(max_size=60), protected=st.booleans())
def test_arbitrary_records_under_a_good_header_are_refused_with_errors_of_the_package(signed, records, protected):
    good, key, hashed = signed
    magic = 0x6908 if protected else 0x6907
    area = magic.to_bytes(2, "little") + (len(records) + 4).to_bytes(2, "little") + records
    header = bytearray(good[:hashed])
    header[10:12] = (len(area) if protected else 0).to_bytes(2, "little")
    start = parse_image(good).header_size + parse_image(good).payload_size
    with pytest.raises(FirmwareError):
        verify(bytes(header[:start]) + area + (good[hashed:] if protected else b""), key)
