from __future__ import annotations

from hashlib import sha256

import pytest

from firmware.sign import build_image, generate_key, public_key_path
from tests.unit.cli.conftest import AT, problem

RELEASE = {
    "release_id": "rel_1",
    "name": "fw",
    "version": "2.0.0",
    "artifacts": {"sensor-a": "aa", "gateway-b": "bb"},
    "components": {},
    "digest": "sha256:d",
    "created_at": AT,
}


@pytest.fixture
def signed(tmp_path):
    """An image and the public key that verifies it."""
    key = tmp_path / "key.pem"
    generate_key(key)
    image = tmp_path / "fw.bin"
    image.write_bytes(build_image(b"payload" * 500, version="2.1.0+7", security_counter=5, key=key))
    return image, public_key_path(key)


def test_push_uploads_every_image_and_then_registers_the_release(ota, api, tmp_path):
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(name.encode())
    stored = {"sensor-a": "aa", "gateway-b": "bb"}
    api.on(
        "POST",
        "/v1/artifacts",
        lambda request: {"sha256": stored[request.url.params["hardware_model"]], "image": {"version": "2.0.0"}},
    )
    api.on("POST", "/v1/releases", RELEASE)
    words = ("-m", "sensor-a", "-m", "gateway-b", "--name", "fw", "--version", "2.0.0")
    ran = ota("release", "push", tmp_path / "a.bin", tmp_path / "b.bin", *words)
    assert (ran.exit_code, ran.stdout) == (0, "rel_1\n")
    first, second, _ = api.requests
    assert (first.content, second.content) == (b"a.bin", b"b.bin")
    assert first.url.params["sha256"] == sha256(b"a.bin").hexdigest()
    assert api.body() == {"name": "fw", "version": "2.0.0", "artifacts": stored}


def test_an_image_that_is_refused_makes_no_release(ota, api, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"a")
    api.on("POST", "/v1/artifacts", problem(422, "firmware.signature.invalid"))
    api.on("POST", "/v1/releases", RELEASE)
    ran = ota("release", "push", tmp_path / "a.bin", "-m", "sensor-a", "--name", "fw", "--version", "2.0.0")
    assert ran.exit_code == 2
    assert "firmware.signature.invalid" in ran.stderr
    assert [request.url.path for request in api.requests] == ["/v1/artifacts"]


@pytest.mark.parametrize("models", [("a",), ("a", "b", "c"), ("a", "a")])
def test_images_and_hardware_models_must_match(ota, api, tmp_path, models):
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(b"x")
    words = [word for model in models for word in ("-m", model)]
    ran = ota("release", "push", tmp_path / "a.bin", tmp_path / "b.bin", *words, "--name", "fw", "--version", "1")
    assert ran.exit_code == 2
    assert not api.requests


def test_list_and_show(ota, api):
    api.on("GET", "/v1/releases", {"items": [RELEASE], "next": None})
    api.on("GET", "/v1/releases/rel_1", RELEASE)
    assert "rel_1    fw    2.0.0    sensor-a, gateway-b" in ota("release", "list").stdout
    assert ota("release", "list", "--json").json == {"items": [RELEASE]}
    assert "gateway-b       bb" in ota("release", "show", "rel_1").stdout
    assert ota("release", "show", "rel_1", "--json").json == RELEASE


def test_a_good_image_is_verified_without_any_server(ota, api, signed):
    image, key = signed
    ran = ota("release", "verify", image, "--key", key)
    assert ran.exit_code == 0
    assert "version           2.1.0+7" in ran.stdout
    assert "security_counter  5" in ran.stdout
    assert not api.requests


def test_verify_in_json_has_version_digests_counter_and_dependencies(ota, signed):
    image, key = signed
    found = ota("release", "verify", image, "--key", key, "--json").json
    assert found["ok"] is True
    assert (found["version"], found["security_counter"], found["dependencies"]) == ("2.1.0+7", 5, [])
    assert {"sha256", "image_digest", "key_id"} <= found.keys()


def test_an_image_that_is_refused_ends_with_1_and_a_stable_code(ota, signed):
    image, key = signed
    data = bytearray(image.read_bytes())
    data[600] ^= 1
    image.write_bytes(data)
    ran = ota("release", "verify", image, "--key", key, "--json")
    assert ran.exit_code == 1
    assert ran.json["ok"] is False
    assert ran.json["code"].startswith("firmware.")
    text = ota("release", "verify", image, "--key", key)
    assert text.exit_code == 1
    assert ran.json["code"] in text.stdout
    assert text.stderr.strip()


def test_a_key_that_is_none_ends_with_1_and_a_stable_code(ota, signed, tmp_path):
    (tmp_path / "none.pem").write_text("nothing")
    ran = ota("release", "verify", signed[0], "--key", tmp_path / "none.pem", "--json")
    assert ran.exit_code == 1
    assert ran.json["code"].startswith("firmware.")


def test_a_file_that_is_not_there_is_wrong_usage(ota, signed):
    assert ota("release", "verify", "nowhere.bin", "--key", signed[1]).exit_code == 2


def words(*component: str, models: tuple[str, ...] = ("sensor-a",), after: tuple[str, ...] = ()) -> list[str]:
    given = [word for model in models for word in ("-m", model)]
    given += [word for each in component for word in ("--component", each)]
    return [*given, *(word for each in after for word in ("--after", each)), "--name", "fw", "--version", "2.0.0"]


MODEM, OS = "a" * 64, "b" * 64


def test_create_registers_components_with_their_kinds_and_order(ota, api):
    api.on("POST", "/v1/releases", RELEASE)
    ran = ota("release", "create", *words(f"modem={MODEM}", f"os:os={OS}", after=("os=modem",)))
    assert (ran.exit_code, ran.stdout) == (0, "rel_1\n")
    assert api.body() == {
        "name": "fw",
        "version": "2.0.0",
        "artifacts": {},
        "components": {
            "sensor-a": [
                {"name": "modem", "kind": "app", "sha256": MODEM, "after": []},
                {"name": "os", "kind": "os", "sha256": OS, "after": ["modem"]},
            ]
        },
    }


def test_create_uploads_files_and_tells_models_apart(ota, api, tmp_path):
    (tmp_path / "modem.bin").write_bytes(b"modem")
    api.on("POST", "/v1/artifacts", {"sha256": MODEM, "image": {"version": "2.0.0"}})
    api.on("POST", "/v1/releases", RELEASE)
    parts = (f"a/modem={tmp_path / 'modem.bin'}", f"a/os:os={OS}", f"b/os:os={OS}")
    assert ota("release", "create", *words(*parts, models=("a", "b"))).exit_code == 0
    assert api.requests[0].url.params["hardware_model"] == "a"
    found = api.body()["components"]
    assert [(model, [part["name"] for part in parts]) for model, parts in found.items()] == [
        ("a", ["modem", "os"]),
        ("b", ["os"]),
    ]
    assert found["a"][0]["sha256"] == MODEM


@pytest.mark.parametrize(
    "given",
    [
        words("modem"),
        words("modem="),
        words("modem=nowhere.bin"),
        words(f"modem={MODEM}", f"modem={OS}"),
        words(f"b/modem={MODEM}"),
        words(f"modem={MODEM}", models=("a", "b")),
        words(f"modem={MODEM}", after=("os=modem",)),
    ],
)
def test_words_that_are_no_components_send_nothing(ota, api, given):
    ran = ota("release", "create", *given)
    assert ran.exit_code == 2
    assert "release.component.words" in ran.stderr
    assert not api.requests


def test_show_lists_components_in_order_beside_single_artifacts(ota, api):
    components = {"gateway-b": [{"name": "modem", "kind": "app", "sha256": MODEM, "after": []}]}
    components["gateway-b"].append({"name": "os", "kind": "os", "sha256": OS, "after": ["modem"]})
    api.on("GET", "/v1/releases/rel_1", RELEASE | {"components": components})
    shown = ota("release", "show", "rel_1").stdout
    assert shown.index("sensor-a") < shown.index(MODEM) < shown.index(OS)
    assert "bb" not in shown.replace(OS, ""), "the artifact of a model with components is one of theirs"
