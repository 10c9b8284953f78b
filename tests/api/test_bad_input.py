"""Each wrong request answers with the right status, a stable code and a sentence, and leaves nothing behind."""

from __future__ import annotations

import copy
import hashlib

from orchestrator.adapters.sql.engine import make_engine
from orchestrator.config import Settings
from tests.api.conftest import PHASES, plan

MEMBERS = {"type", "title", "status", "code", "detail", "instance", "remedy", "trace_id", "errors"}


def problem(answer, status, code):
    """The answer is this problem, with everything that a problem has."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), answer.text
    assert body.keys() == MEMBERS
    assert body["status"] == status
    assert body["detail"]
    assert body["trace_id"] == answer.headers["x-trace-id"]
    return body


async def rows(api):
    tables = (
        "event_log",
        "hardware_model",
        "trusted_key",
        "artifact",
        "release",
        "device",
        "device_identity",
        "campaign",
    )
    return [await api.value(f"SELECT count(*) FROM {table}") for table in tables]


# ---- requests


BODIES = [
    (b"{", 400, "request.malformed_json"),
    (b'{"name": "x", }', 400, "request.malformed_json"),
    (b'{"name": NaN}', 400, "request.malformed_json"),
    (b"\xff\xfe", 400, "request.malformed_json"),
    (b'{"name": "\\ud800"}', 400, "request.malformed_json"),
    (b'{"name": "a\\u0000b", "plan": {}}', 400, "request.nul"),
    (b"[" * 100_000, 400, "request.too_deep"),
    (b'{"a":' * 40 + b"1" + b"}" * 40, 400, "request.too_deep"),
    (b'"text"', 422, "request.invalid"),
    (b"null", 422, "request.invalid"),
    (b"{}", 422, "request.invalid"),
    (b'{"name": 1, "plan": {}}', 422, "request.invalid"),
    (b'{"name": "x", "plan": []}', 422, "request.invalid"),
    (b'{"name": "x", "plan": {}, "more": 1}', 422, "request.invalid"),
    (b"", 422, "request.invalid"),
]


async def test_a_body_that_is_not_what_was_asked_for(api):
    for content, status, code in BODIES:
        answer = await api("POST", "/v1/campaigns", content=content, headers={"Content-Type": "application/json"})
        problem(answer, status, code)


async def test_an_unknown_field_is_named_by_its_pointer(api):
    body = problem(await api("POST", "/v1/campaigns", json={"name": "x", "plan": {}, "a/b": 1}), 422, "request.invalid")
    assert body["errors"] == [{"pointer": "/a~1b", "code": "field.unknown", "detail": "There is no field 'a/b' here."}]


async def test_a_wrong_parameter_of_the_query_is_named(api):
    body = problem(await api("GET", "/v1/devices", params={"limit": 5_000, "colour": "red"}), 422, "request.invalid")
    assert {item["parameter"] for item in body["errors"]} == {"limit", "colour"}


async def test_other_media_types_are_refused(api):
    problem(await api("POST", "/v1/campaigns", data={"name": "x"}), 415, "request.media_type")


async def test_an_oversized_body_is_refused_whether_or_not_it_says_so(api, settings, open_api):
    small = settings.model_copy(update={"max_body_bytes": 1_000, "max_import_devices": 2})

    async def unsized():
        for _ in range(20):
            yield b" " * 100

    async with open_api(small) as other:
        declared = await other("POST", "/v1/campaigns", json={"name": "x" * 2_000, "plan": {}})
        problem(declared, 413, "request.too_large")
        streamed = await other("POST", "/v1/campaigns", content=unsized(), headers={"Content-Type": "application/json"})
        problem(streamed, 413, "request.too_large")
        problem(await other("POST", "/v1/devices/import", content=b"x" * 3_000), 413, "request.too_large")
        headers = {"Content-Type": "application/json", "Content-Length": "many"}
        problem(await other("POST", "/v1/campaigns", content=b"{}", headers=headers), 400, "request.content_length")


async def test_unknown_routes_and_methods_are_problems_too(api):
    problem(await api("GET", "/v1/nothing"), 404, "route.not_found")
    refused = await api("PUT", "/v1/campaigns")
    problem(refused, 405, "route.method_not_allowed")
    assert refused.headers["allow"]


async def test_a_nul_in_the_address_is_refused(api):
    problem(await api("GET", "/v1/devices/a%00b"), 400, "request.nul")
    problem(await api("GET", "/v1/devices?hardware_model=a%00"), 400, "request.nul")


MISSING = [
    ("GET", "/v1/campaigns/cmp_x", "campaign.not_found"),
    ("GET", "/v1/campaigns/cmp_x/events", "campaign.not_found"),
    ("GET", "/v1/campaigns/cmp_x/preview", "campaign.not_found"),
    ("POST", "/v1/campaigns/cmp_x/submit", "campaign.not_found"),
    ("POST", "/v1/campaigns/cmp_x/launch", "campaign.not_found"),
    ("GET", "/v1/devices/nobody", "device.not_found"),
    ("GET", "/v1/devices/%F0%9F%92%A9", "device.not_found"),
    ("GET", "/v1/devices/nobody/timeline", "device.not_found"),
    ("POST", "/v1/devices/nobody/token", "device.not_found"),
    ("GET", "/v1/releases/rel_x", "release.not_found"),
    ("DELETE", "/v1/api-keys/none", "auth.key.not_found"),
]


async def test_what_does_not_exist_is_not_found(api):
    for method, path, code in MISSING:
        problem(await api(method, path, by="root", scopes=("admin",)), 404, code)


async def test_an_error_that_nobody_expected_is_a_problem_without_its_secrets(api, monkeypatch):
    async def fail(*_, **__):
        raise RuntimeError("postgresql://ota:secret@db")

    monkeypatch.setattr(type(api.services.queries), "releases", fail)
    answer = await api("GET", "/v1/releases")
    problem(answer, 500, "internal")
    assert "secret" not in answer.text


async def test_a_database_that_is_away_is_unavailable(api, settings, open_api):
    key = await api.key("ann")
    nowhere = make_engine("postgresql://ota@127.0.0.1:1/ota")
    async with open_api(settings, nowhere) as other:
        answer = await other("GET", "/v1/releases", key=key)
        problem(answer, 503, "unavailable.database")
        assert answer.headers["retry-after"]
        assert (await other("GET", "/readyz", key="")).status_code == 503
    await nowhere.dispose()


async def test_the_trace_of_the_caller_is_kept(api):
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = await api("GET", "/v1/nothing", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert answer.json()["trace_id"] == trace


# ---- plans


def changed(path, value):
    """A plan in which one part is replaced, or removed with ``...``."""
    made = copy.deepcopy(plan("RELEASE"))
    *parents, last = path
    at = made
    for part in parents:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return made


PLANS = [
    (changed(["phases"], ...), "plan.field.missing", "/phases"),
    (changed(["phases"], []), "plan.field.value", "/phases"),
    (changed(["phases"], PHASES[:1]), "plan.phases.sum", "/phases/0"),
    (changed(["phases", 0, "percent"], 100.0), "plan.phases.sum", "/phases/1"),
    (changed(["phases", 0, "name"], "rest"), "plan.name.duplicate", "/phases"),
    (changed(["phases", 0, "soak"], "5 parsecs"), "plan.duration", "/phases/0/soak"),
    (changed(["phases", 0, "promote", "p1"], 1.5), "plan.rate.range", "/phases/0/promote/p1"),
    (changed(["confirm_deadline"], "0s"), "plan.duration.range", "/confirm_deadline"),
    (changed(["halt", 0, "alpha"], "high"), "plan.field.type", "/halt/0/alpha"),
    (changed(["colour"], "red"), "plan.field.unknown", "/colour"),
    (changed(["release"], "rel_x"), "plan.release.unknown", "/release"),
]


async def test_a_plan_that_is_wrong_in_itself_makes_no_draft(api):
    release_id = await api.ready(4)
    for made, code, pointer in PLANS:
        sent = made | {"release": release_id} if made["release"] == "RELEASE" else made
        body = problem(await api("POST", "/v1/campaigns", json={"name": "x", "plan": sent}), 422, code)
        assert body["errors"][0]["pointer"] == pointer
    assert await api.value("SELECT count(*) FROM campaign") == 0


async def test_all_problems_of_a_plan_are_named_at_once(api):
    made = changed(["phases", 0, "soak"], "x") | {"confirm_deadline": -1, "colour": "red"}
    body = problem(await api("POST", "/v1/campaigns", json={"name": "x", "plan": made}), 422, "plan.invalid")
    assert {item["pointer"] for item in body["errors"]} == {"/phases/0/soak", "/confirm_deadline", "/colour"}


UNFIT = [
    ({"phases": [{**PHASES[0], "min_count": 20}, PHASES[1]]}, {"plan.promote.impossible"}),
    ({"phases": [{**PHASES[0], "promote": {"p1": 0.001}}, PHASES[1]]}, {"plan.promote.impossible"}),
    ({"phases": [{**PHASES[0], "min_count": 99}, PHASES[1]]}, {"plan.phase.size"}),
    ({"halt": [{"name": "h", "scope": "campaign", "p0": 0.02, "alpha": 0.5}]}, {"plan.halt.alpha"}),
    ({"cohort": {"include": ["nobody"]}}, {"plan.cohort.empty"}),
    ({"cohort": {"hardware_models": ["toaster"]}}, {"plan.cohort.hardware_model", "plan.cohort.empty"}),
]


async def test_a_plan_that_does_not_fit_the_fleet_stays_a_draft(api):
    release_id = await api.ready()
    for changes, codes in UNFIT:
        campaign_id = await api.draft(release_id, **changes)
        refused = await api.act(campaign_id, "submit")
        assert refused.status_code == 422, refused.text
        assert {item["code"] for item in refused.json()["errors"]} == codes
        assert refused.json()["code"] == (next(iter(codes)) if len(codes) == 1 else "plan.invalid")
        preview = await api.ok("GET", f"/v1/campaigns/{campaign_id}/preview")
        assert {item["code"] for item in preview["problems"]} == codes
        assert (await api.ok("GET", f"/v1/campaigns/{campaign_id}"))["version"] == 1


async def test_a_campaign_needs_a_name_that_can_be_read(api):
    release_id = await api.ready(4)
    for name in ("   ", "a\tb", "x" * 200):
        problem(await api("POST", "/v1/campaigns", json={"name": name, "plan": plan(release_id)}), 422, "campaign.name")


async def test_a_reason_is_needed_to_stop(api):
    campaign_id = await api.running(await api.ready())
    problem(await api.act(campaign_id, "halt", json={"reason": "  "}), 422, "campaign.reason")
    problem(await api.act(campaign_id, "halt", json={}), 422, "request.invalid")


# ---- images


async def test_a_good_image_is_kept_once(api):
    await api.models("sensor-a")
    data = api.image()
    sha256 = hashlib.sha256(data).hexdigest()
    first = await api.upload("sensor-a", data, query={"sha256": sha256})
    assert first.status_code == 201
    assert first.json()["sha256"] == sha256
    assert first.json()["image"]["version"] == "2.0.0"
    assert first.json()["image"]["security_counter"] == 5
    assert (await api.upload("sensor-a", data)).json() == first.json()
    assert len((await api.ok("GET", "/v1/artifacts"))["items"]) == 1


async def test_images_that_do_not_verify_are_refused_with_the_reason_and_not_kept(api, tmp_path, settings):
    from firmware.sign import build_image, generate_key

    await api.models("sensor-a")
    other = tmp_path / "other.pem"
    generate_key(other)
    good = api.image()
    flipped = bytearray(good)
    flipped[0x210] ^= 1
    images = {
        "firmware.image.unsigned": build_image(b"x" * 800, version="2.0.0", security_counter=5, key=None),
        "firmware.image.key_mismatch": build_image(b"x" * 800, version="2.0.0", security_counter=5, key=other),
        "firmware.image.truncated": good[:-10],
        "firmware.image.trailing_bytes": good + b"garbage",
        "firmware.image.bad_magic": b"not an image at all" * 40,
        "firmware.image.hash_mismatch": bytes(flipped),
    }
    before = await rows(api)
    for code, data in images.items():
        body = problem(await api.upload("sensor-a", data), 422, code)
        assert body["remedy"]
    assert await rows(api) == before
    assert not [path for path in (settings.state_dir / "artifacts").rglob("*") if path.is_file()]


async def test_a_security_counter_never_goes_down(api):
    await api.models("sensor-a", "gateway-b")
    assert (await api.upload("sensor-a", api.image(counter=5))).status_code == 201
    lower = await api.upload("sensor-a", api.image(counter=4))
    problem(lower, 422, "firmware.image.counter_too_low")
    problem(await api.upload("sensor-a", api.image(counter=None)), 422, "firmware.image.counter_missing")
    assert (await api.upload("sensor-a", api.image(counter=5, version="2.0.1"))).status_code == 201
    assert (await api.upload("gateway-b", api.image(counter=None))).status_code == 201


async def test_an_upload_must_say_what_it_is(api):
    await api.models("sensor-a")
    await api.ok("POST", "/v1/hardware-models", json={"name": "bare"})
    data = api.image()
    problem(await api("POST", "/v1/artifacts", content=data), 422, "request.invalid")
    problem(await api.upload("toaster", data), 404, "hardware_model.not_found")
    problem(await api.upload("bare", data), 422, "firmware.key.none_trusted")
    problem(await api.upload("sensor-a", b""), 422, "artifact.empty")
    problem(await api.upload("sensor-a", data, query={"sha256": "0" * 64}), 422, "artifact.digest_mismatch")
    problem(await api.upload("sensor-a", data, query={"sha256": "short"}), 422, "request.invalid")
    problem(await api.upload("sensor-a", data, query={"filename": "../../etc/passwd"}), 422, "registry.name")


async def test_an_artifact_beyond_the_limit_is_refused(api, settings, open_api):
    await api.models("sensor-a")
    async with open_api(settings.model_copy(update={"max_artifact_bytes": 1_000})) as other:
        problem(await other.upload("sensor-a", b"x" * 1_001), 413, "artifact.too_large")


# ---- registry


MODELS = [
    ({"name": "a b", "profile": {}}, 422, "registry.name"),
    ({"name": "../x", "profile": {}}, 422, "registry.name"),
    ({"name": "m", "profile": {"client": "floppy"}}, 422, "hardware_model.invalid_profile"),
    ({"name": "m", "profile": {"colour": 1}}, 422, "hardware_model.invalid_profile"),
    ({"name": "sensor-a", "profile": {}}, 409, "hardware_model.exists"),
]


async def test_a_hardware_model_that_cannot_be(api):
    await api.models("sensor-a")
    for body, status, code in MODELS:
        problem(await api("POST", "/v1/hardware-models", json=body), status, code)


async def test_a_key_that_cannot_be_trusted(api, signer):
    await api.models("sensor-a")

    async def add(pem, model="sensor-a"):
        path = f"/v1/hardware-models/{model}/keys"
        return await api("POST", path, by="root", scopes=("admin",), json={"pem": pem})

    problem(await add("nonsense"), 422, "firmware.key.unreadable")
    problem(await add(signer.path.read_text()), 422, "firmware.key.private")
    problem(await add(signer.public_pem), 409, "hardware_model.key_exists")
    problem(await add(signer.public_pem, "toaster"), 404, "hardware_model.not_found")


async def test_a_release_that_cannot_be(api):
    await api.ready(2)
    artifacts = (await api.ok("GET", "/v1/artifacts"))["items"]
    good = {item["hardware_model"]: item["sha256"] for item in artifacts}

    async def register(**changes):
        return await api("POST", "/v1/releases", json={"name": "app", "version": "3", "artifacts": good} | changes)

    problem(await register(version="2.0.0"), 409, "release.exists")
    problem(await register(artifacts={}), 422, "release.invalid")
    swapped = {"sensor-a": good["gateway-b"]}
    body = problem(await register(artifacts=swapped), 422, "release.invalid")
    assert body["errors"][0]["pointer"] == "/artifacts/sensor-a"
    problem(await register(artifacts={"sensor-a": "xyz"}), 422, "request.invalid")
    problem(await register(name=" "), 422, "registry.name")
    problem(await register(version="a b"), 422, "registry.name")


DEVICE = {"device_id": "d1", "hardware_model": "sensor-a"}


IMPORTS = [
    ([], 422, "device.import.invalid"),
    ([DEVICE, DEVICE], 422, "device.import.invalid"),
    ([DEVICE | {"device_id": "a b"}], 422, "device.import.invalid"),
    ([DEVICE | {"device_id": ""}], 422, "device.import.invalid"),
    ([DEVICE | {"device_id": "../x"}], 422, "device.import.invalid"),
    ([DEVICE | {"attributes": {"a b": "x"}}], 422, "device.import.invalid"),
    ([DEVICE | {"attributes": {"a": "x" * 600}}], 422, "device.import.invalid"),
    ([DEVICE | {"attributes": {str(i): "x" for i in range(100)}}], 422, "device.import.invalid"),
    ([DEVICE | {"attributes": {"a": 1}}], 422, "request.invalid"),
    ([DEVICE, {"device_id": "d2", "hardware_model": "toaster"}], 404, "hardware_model.not_found"),
    ([{**DEVICE, "device_id": "new"}, {**DEVICE, "device_id": "dev-0001"}], 409, "device.import.duplicate"),
]


async def test_an_import_with_one_wrong_device_imports_none(api):
    await api.models("sensor-a")
    await api.fleet(3, "sensor-a")
    before = await rows(api)
    for devices, status, code in IMPORTS:
        body = problem(await api("POST", "/v1/devices/import", json={"devices": devices}), status, code)
        assert body["errors"] or not devices or not code.startswith("device.import")
    assert await rows(api) == before


async def test_an_import_has_a_limit(api, settings, open_api):
    await api.models("sensor-a")
    async with open_api(Settings(**settings.model_dump() | {"max_import_devices": 5})) as other:
        devices = [{"device_id": f"d{i}", "hardware_model": "sensor-a"} for i in range(6)]
        problem(await other("POST", "/v1/devices/import", json={"devices": devices}), 422, "device.import.too_many")
