from __future__ import annotations

import stat
import subprocess
import sys

import pytest

from firmware.errors import ImgtoolMissingError, SigningFailedError
from firmware.keys import load_public_key
from firmware.sign import build_image, generate_key, public_key_path


def test_a_generated_key_is_private_to_its_owner_and_its_public_half_lies_beside_it(tmp_path):
    path = tmp_path / "release-2.0.pem"
    pair = generate_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == pair.private_pem
    assert public_key_path(path) == tmp_path / "release-2.0.pub.pem"
    assert load_public_key(public_key_path(path).read_bytes()) == load_public_key(pair.public_pem)


def test_imgtool_itself_verifies_the_image(build, p256, tmp_path):
    image = tmp_path / "image.bin"
    image.write_bytes(build())
    command = [sys.executable, "-m", "imgtool.main", "verify", "--key", str(p256.path), str(image)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Image was correctly validated" in said


def test_nothing_is_printed(build, capsys):
    build()
    assert capsys.readouterr() == ("", "")


def test_what_imgtool_refuses_is_said_in_its_words(build):
    with pytest.raises(SigningFailedError, match="exceeds requested size"):
        build(slot_size=0x1000)


def test_a_missing_key_file_is_a_failed_signature(build, tmp_path):
    with pytest.raises(SigningFailedError):
        build(key=tmp_path / "none.pem")


def test_without_imgtool_the_error_says_what_to_install(monkeypatch, p256):
    monkeypatch.setitem(sys.modules, "imgtool.main", None)
    with pytest.raises(ImgtoolMissingError) as refusal:
        build_image(b"x", version="1.0.0", security_counter=1, key=p256.path)
    assert refusal.value.code == "firmware.sign.imgtool_missing"
    assert "development dependencies" in refusal.value.remedy
