from __future__ import annotations

import pytest

from tests.unit.cli.conftest import AT

MODEL = {"name": "sensor-a", "profile": {"client": "zephyr"}, "created_at": AT}
PEM = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"


def test_a_hardware_model_is_created_with_what_was_said_of_it(ota, api):
    api.on("POST", "/v1/hardware-models", MODEL)
    ran = ota("hardware-model", "create", "sensor-a", "--client", "zephyr")
    assert (ran.exit_code, ran.stdout) == (0, "sensor-a\n")
    assert api.body() == {"name": "sensor-a", "profile": {"client": "zephyr"}}


@pytest.mark.parametrize(("word", "multi"), [("--multi", True), ("--single", False)])
def test_a_hardware_model_may_say_whether_its_client_takes_several_components(ota, api, word, multi):
    api.on("POST", "/v1/hardware-models", MODEL)
    ota("hardware-model", "create", "sensor-a", word)
    assert api.body() == {"name": "sensor-a", "profile": {"multi": multi}}


def test_hardware_models_are_listed(ota, api):
    api.on("GET", "/v1/hardware-models", {"items": [MODEL], "next": None})
    assert "client=zephyr" in ota("hardware-model", "list").stdout


def test_a_public_key_is_trusted(ota, api, tmp_path):
    key = tmp_path / "public.pem"
    key.write_text(PEM)
    api.on("POST", "/v1/hardware-models/sensor-a/keys", {"key_id": "55cf", "hardware_model": "sensor-a"})
    ran = ota("trust", "add", key, "--hardware-model", "sensor-a")
    assert (ran.exit_code, ran.stdout) == (0, "55cf\n")
    assert api.body() == {"pem": PEM}


@pytest.mark.parametrize(
    "content", [b"-----BEGIN EC PRIVATE KEY-----\n", b"\xff\x00", PEM.replace("PUBLIC", "PRIVATE").encode()]
)
def test_a_private_key_never_leaves_the_machine(ota, api, tmp_path, content):
    key = tmp_path / "key.pem"
    key.write_bytes(content)
    assert ota("trust", "add", key, "-m", "sensor-a").exit_code == 2
    assert not api.requests
