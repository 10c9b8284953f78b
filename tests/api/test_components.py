"""Releases with several components over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.domain.digest import digest_of
from tests.api.test_bad_input import problem


@pytest.fixture
async def images(api) -> dict[str, str]:
    """Artifacts of sensor-a by what they are for, and one of gateway-b."""
    await api.models("sensor-a", "gateway-b")
    found: dict[str, str] = {}
    for name, model in (("modem", "sensor-a"), ("display", "sensor-a"), ("os", "sensor-a"), ("other", "gateway-b")):
        answer = await api.upload(model, api.image(payload=name.encode() * 500))
        assert answer.status_code == 201, answer.text
        found[name] = answer.json()["sha256"]
    return found


def body(components: list[dict[str, Any]], model: str = "sensor-a", **more: Any) -> dict[str, Any]:
    return {"name": "app", "version": "3", "components": {model: components}} | more


async def test_a_release_keeps_its_components_in_the_order_of_their_installation(api, images):
    given = [
        {"name": "os", "kind": "os", "sha256": images["os"]},
        {"name": "display", "kind": "app", "sha256": images["display"], "after": ["modem"]},
        {"name": "modem", "kind": "app", "sha256": images["modem"]},
    ]
    made = await api.ok("POST", "/v1/releases", json=body(given, artifacts={"gateway-b": images["other"]}))
    assert made["components"] == {
        "sensor-a": [
            {"name": "modem", "kind": "app", "sha256": images["modem"], "after": []},
            {"name": "display", "kind": "app", "sha256": images["display"], "after": ["modem"]},
            {"name": "os", "kind": "os", "sha256": images["os"], "after": []},
        ]
    }
    assert made["artifacts"] == {"gateway-b": images["other"], "sensor-a": images["os"]}
    assert await api.ok("GET", f"/v1/releases/{made['release_id']}") == made
    assert (await api.ok("GET", "/v1/releases"))["items"] == [made]


async def test_the_digest_covers_components_and_without_them_is_what_it_always_was(api, images):
    plain = {"name": "app", "version": "1", "artifacts": {"sensor-a": images["os"]}}
    single = await api.ok("POST", "/v1/releases", json=plain)
    assert single["digest"] == digest_of(plain)
    assert single["components"] == {}
    digests = {single["digest"]}
    for version, (kind, after) in enumerate([("app", []), ("os", []), ("os", ["modem"])], 2):
        parts = [
            {"name": "modem", "kind": "app", "sha256": images["modem"]},
            {"name": "os", "kind": kind, "sha256": images["os"], "after": after},
        ]
        made = await api.ok("POST", "/v1/releases", json=body(parts, version=str(version)))
        plain = {"name": "app", "version": str(version), "artifacts": {"sensor-a": images["os"]}}
        assert made["digest"] == digest_of(plain | {"components": made["components"]})
        digests.add(made["digest"])
    assert len(digests) == 4


async def test_components_that_cannot_be_released_are_refused_with_pointers(api, images):
    os = {"name": "os", "kind": "os", "sha256": images["os"]}
    modem = {"name": "modem", "kind": "app", "sha256": images["modem"]}
    cases = [
        ([], "", "release.component.count"),
        ([modem, modem], "/1/name", "release.component.duplicate"),
        ([os, os | {"name": "os2"}], "/1/kind", "release.component.second_os"),
        ([modem | {"after": ["radio"]}, os], "/0/after/0", "release.component.unknown_dependency"),
        ([modem | {"after": ["os"]}, os], "/0/after/0", "release.component.after_os"),
        ([modem | {"after": ["modem"]}, os], "", "release.component.cycle"),
        ([modem, os | {"sha256": images["other"]}], "/1/sha256", "artifact.not_found"),
    ]
    for components, pointer, code in cases:
        found = problem(await api("POST", "/v1/releases", json=body(components)), 422, "release.invalid")
        assert found["errors"][0]["code"] == code
        assert found["errors"][0]["pointer"] == f"/components/sensor-a{pointer}"
    twice = body([modem, os], artifacts={"sensor-a": images["os"]})
    found = problem(await api("POST", "/v1/releases", json=twice), 422, "release.invalid")
    assert found["errors"][0]["code"] == "release.model_twice"
    problem(await api("POST", "/v1/releases", json=body([modem | {"kind": "bios"}])), 422, "request.invalid")
    assert (await api.ok("GET", "/v1/releases"))["items"] == []


@pytest.mark.parametrize(
    ("client", "several"), [("generic", True), ("swupdate", True), ("rauc", False), ("zephyr", False)]
)
async def test_a_model_whose_client_takes_one_chunk_gets_no_release_with_several(api, client, several):
    await api.ok("POST", "/v1/hardware-models", json={"name": "m", "profile": {"client": client}})
    await api.ok("POST", "/v1/hardware-models/m/keys", by="root", scopes=("admin",), json={"pem": api.public_pem})
    shas = [(await api.upload("m", api.image(payload=text * 500))).json()["sha256"] for text in (b"a", b"b")]
    parts = [{"name": f"c{at}", "kind": "app", "sha256": sha} for at, sha in enumerate(shas)]
    answer = await api("POST", "/v1/releases", json=body(parts, model="m"))
    if several:
        assert answer.status_code == 201
    else:
        found = problem(answer, 422, "release.invalid")
        assert [each["code"] for each in found["errors"]] == ["release.component.unsupported"]
    assert (await api("POST", "/v1/releases", json=body(parts[:1], model="m", version="4"))).status_code == 201


async def test_a_campaign_of_such_a_release_binds_its_components_by_the_digest(api, images):
    parts = [
        {"name": "modem", "kind": "app", "sha256": images["modem"]},
        {"name": "os", "kind": "os", "sha256": images["os"]},
    ]
    release = await api.ok("POST", "/v1/releases", json=body(parts))
    await api.fleet(60, "sensor-a")
    campaign_id = await api.running(release["release_id"])
    assert await api.value("SELECT dossier ->> 'release_digest' FROM campaign") == release["digest"]
    assert (await api.ok("GET", f"/v1/campaigns/{campaign_id}"))["components"] == {}
    assert (await api.ok("GET", "/v1/devices/dev-0001"))["components"] == []
