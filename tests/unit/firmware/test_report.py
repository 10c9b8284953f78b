from __future__ import annotations

import hashlib
import json

import pytest

from firmware import report
from firmware.errors import FileTooLargeError, FileUnreadableError, KeyMismatchError, NoTrustedKeysError
from firmware.report import verify_file
from firmware.sign import public_key_path


@pytest.fixture
def image_file(signed, tmp_path):
    path = tmp_path / "image.bin"
    path.write_bytes(signed)
    return path


def test_the_report_names_the_file_its_digests_and_the_key_that_signed_it(image_file, signed, signers, p256):
    key_files = [public_key_path(signers[name].path) for name in ("other", "ecdsa-p256", "ed25519")]
    said = json.loads(json.dumps(verify_file(image_file, key_files)))
    assert said["file"] == str(image_file)
    assert said["sha256"] == hashlib.sha256(signed).hexdigest()
    assert (said["version"], said["security_counter"], said["dependencies"]) == ("1.2.3+4", 7, [])
    assert (said["key_id"], said["key_file"]) == (p256.trusted.key_id, str(public_key_path(p256.path)))


def test_an_image_of_another_key_is_refused(image_file, signers):
    with pytest.raises(KeyMismatchError):
        verify_file(image_file, [public_key_path(signers["other"].path)])


def test_at_least_one_key_is_needed(image_file):
    with pytest.raises(NoTrustedKeysError):
        verify_file(image_file, [])


def test_a_file_that_cannot_be_read_is_named(p256, tmp_path):
    with pytest.raises(FileUnreadableError, match=r"none\.bin: No such file"):
        verify_file(tmp_path / "none.bin", [public_key_path(p256.path)])
    with pytest.raises(FileUnreadableError, match="directory"):
        verify_file(tmp_path, [public_key_path(p256.path)])


def test_a_file_larger_than_any_image_is_not_read_whole(image_file, p256, monkeypatch):
    monkeypatch.setattr(report, "MAX_IMAGE_BYTES", image_file.stat().st_size - 1)
    with pytest.raises(FileTooLargeError):
        verify_file(image_file, [public_key_path(p256.path)])
