from __future__ import annotations

import pytest

from firmware.errors import InvalidVersionError
from firmware.version import Version


@pytest.mark.parametrize("text", ["0.0.0", "1.2.3", "1.2.3+4", "255.255.65535+4294967295"])
def test_a_version_reads_back_as_it_was_written(text):
    assert str(Version.parse(text)) == text


def test_a_build_number_of_zero_is_not_written():
    assert str(Version.parse("1.2.3+0")) == "1.2.3"


def test_versions_are_ordered_as_numbers_down_to_the_build():
    ascending = ["0.9.9+9", "1.2.3", "1.2.3+4", "1.2.10", "1.10.0", "2.0.0"]
    assert sorted(map(Version.parse, reversed(ascending))) == [Version.parse(text) for text in ascending]


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.2", "1.2.3.4", "v1.2.3", "1.2.3-rc1", "1.2.3+", "01.2.3", " 1.2.3", "1.2.3\n", "-1.2.3", "٣.1.2"],
)
def test_what_imgtool_would_not_write_is_not_a_version(text):
    with pytest.raises(InvalidVersionError):
        Version.parse(text)


@pytest.mark.parametrize("text", ["256.0.0", "0.256.0", "0.0.65536", "0.0.0+4294967296", "9" * 5000 + ".0.0"])
def test_numbers_that_do_not_fit_the_header_are_refused(text):
    with pytest.raises(InvalidVersionError) as refusal:
        Version.parse(text)
    assert refusal.value.code == "firmware.version.invalid"
