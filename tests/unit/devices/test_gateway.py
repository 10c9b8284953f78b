from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from orchestrator.domain.assignment import State
from orchestrator.domain.campaign import CampaignState
from orchestrator.domain.profile import parse_profile
from orchestrator.errors import UnavailableError
from schemas import device_events as d
from tests.support.offers import IMAGE, IMAGE_SHA256
from tests.unit.devices.conftest import BASE, NOW, World

ACTION = 1_000_017
ARTIFACT = f"/softwaremodules/{ACTION}/artifacts/sensor%202.0.1.bin"


def code(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    return answer.json()["code"]


def links(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200
    return answer.json().get("_links", {})


async def until(reached: Callable[[], bool]) -> None:
    while not reached():  # noqa: ASYNC110 (what is waited for happens in other tasks of this loop)
        await asyncio.sleep(0)


# ---- who is there


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "TargetToken",
        "TargetToken wrong",
        "Bearer s3cret",
        "GatewayToken s3cret",
        "s3cret",
        "TargetToken other",
    ],
)
async def test_without_its_own_token_a_device_gets_401(world: World, authorization: str | None):
    headers = {} if authorization is None else {"Authorization": authorization}
    world.client.headers.pop("Authorization")
    known = await world.client.get(BASE, headers=headers)
    unknown = await world.client.get("/default/controller/v1/nobody", headers=headers)
    assert (known.status_code, code(known)) == (401, "device.unauthorized")
    assert known.headers["www-authenticate"] == "TargetToken"
    assert unknown.content == known.content, "an unknown device can be told from a wrong token"
    assert not world.presence.times


@pytest.mark.parametrize("path", ["", "/configData", f"/deploymentBase/{ACTION}", "/nothing", ARTIFACT])
async def test_everything_below_a_device_needs_its_token(world: World, path: str):
    answer = await world.client.get(f"/default/controller/v1/dev-2{path}")
    assert answer.status_code == 401


async def test_the_tenant_is_compared_without_case_and_written_as_the_client_writes_it(world: World):
    world.offers.offer(7, ACTION)
    for tenant in ("default", "DEFAULT", "Default"):
        answer = await world.client.get(f"/{tenant}/controller/v1/dev-1")
        assert f"/{tenant}/controller/v1/dev-1/" in links(answer)["deploymentBase"]["href"]
    assert (await world.client.get("/other/controller/v1/dev-1")).status_code == 404


async def test_a_controller_id_may_be_anything_that_is_encoded(world: World):
    world.identities.register(replace(world.identities.devices["dev-1"], device_id="a/b ü%"))
    answer = await world.client.get("/default/controller/v1/a%2Fb%20%C3%BC%25")
    assert answer.status_code == 200
    too_long = await world.client.get(f"/default/controller/v1/{'x' * 257}")
    assert too_long.status_code == 401


async def test_who_was_here_is_noted(world: World):
    await world.get("")
    assert world.presence.times == {7: NOW}


# ---- polls


async def test_an_idle_poll(world: World):
    answer = await world.get("")
    assert answer.content == b'{"config":{"polling":{"sleep":"00:05:00"}}}'
    assert answer.headers["content-type"] == "application/hal+json"
    assert answer.headers["content-length"] == str(len(answer.content))


async def test_a_poll_shows_one_action_and_a_cancel_before_all_else(world: World):
    world.offers.offer(7, ACTION)
    assert set(links(await world.get(""))) == {"deploymentBase"}
    world.offers.project(7, State.DOWNLOADING)
    world.offers.cancel(ACTION)
    shown = links(await world.get(""))
    assert shown == {"cancelAction": {"href": f"http://ota.example{BASE}/cancelAction/{ACTION}"}}


async def test_attributes_are_asked_for_until_they_are_told(world: World):
    world.identities.register(replace(world.identities.devices["dev-1"], attributes_wanted=True))
    assert links(await world.get(""))["configData"]["href"] == f"http://ota.example{BASE}/configData"
    await world.client.put(f"{BASE}/configData", json={"data": {"fw_version": "1"}})
    assert links(await world.get("")) == {}


async def test_a_trailing_slash_changes_nothing(world: World):
    assert (await world.get("/")).status_code == 200


# ---- the deployment


async def test_the_start_is_committed_before_the_image_is_shown_and_only_once(world: World):
    world.offers.offer(7, ACTION)
    assert (await world.get(ARTIFACT)).status_code == 404
    assert world.offers.starts == []
    for _ in range(2):
        answer = await world.get(f"/deploymentBase/{ACTION}?c=1&actionHistory=10")
        assert answer.status_code == 200
        assert answer.json()["id"] == str(ACTION)
    assert world.offers.starts == [(7, ACTION)]


@pytest.mark.parametrize("control", [CampaignState.HALTED, CampaignState.PAUSED, CampaignState.ABORTED])
async def test_nothing_is_revealed_once_the_campaign_stopped(world: World, control: CampaignState):
    world.offers.offer(7, ACTION)
    world.offers.control = control
    assert links(await world.get("")) == {}
    answer = await world.get(f"/deploymentBase/{ACTION}")
    assert (answer.status_code, code(answer)) == (404, "action.not_found")
    assert IMAGE_SHA256 not in answer.text
    assert world.offers.starts == []


@pytest.mark.parametrize("action", ["1000018", "0", "-1", "x", "1e3", "1.0", "99999999999", "2147483648", "１", "%00"])
async def test_other_actions_are_not_found(world: World, action: str):
    world.offers.offer(7, ACTION)
    for kind in ("deploymentBase", "cancelAction"):
        answer = await world.get(f"/{kind}/{action}")
        assert (answer.status_code, code(answer)) == (404, "action.not_found")


async def test_the_model_of_the_device_decides_the_part(world: World):
    world.identities.register(replace(world.identities.devices["dev-1"], profile=parse_profile({"client": "zephyr"})))
    world.offers.offer(7, ACTION)
    answer = await world.get(f"/deploymentBase/{ACTION}")
    assert answer.json()["deployment"]["chunks"][0]["part"] == "bApp"


async def test_a_cancel_can_be_read_only_while_it_is_asked_for(world: World):
    world.offers.offer(7, ACTION, State.ACCEPTED)
    assert (await world.get(f"/cancelAction/{ACTION}")).status_code == 404
    world.offers.cancel(ACTION)
    assert (await world.get(f"/cancelAction/{ACTION}")).json()["cancelAction"] == {"stopId": str(ACTION)}


# ---- reports


async def test_a_report_becomes_a_fact_and_its_answer_is_empty_with_a_length(world: World):
    world.offers.offer(7, ACTION, State.ACCEPTED)
    answer = await world.feedback(ACTION, "closed", "failure", "ota.class=transport", "line lost")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    (event,) = world.facts.events
    assert (event.type, event.subject, event.device_no, event.recorded_at) == (d.FAILED, "dev-1", 7, NOW)
    assert event.id == answer.headers["ota-event-id"]
    assert d.decode_report(event.data) == d.Report(action_id=ACTION, failure_class="transport", detail="line lost")
    assert world.facts.traces == ["00-trace"]
    assert world.ingested == [d.FAILED]


async def test_repeated_late_and_superseded_reports_are_taken_and_keep_their_identity(world: World):
    world.offers.offer(7, ACTION)
    world.offers.offer(7, ACTION + 1)
    answers = [await world.feedback(ACTION, "closed", "success") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({event.id for event in world.facts.events}) == 1


async def test_an_action_of_another_device_is_not_found(world: World):
    world.offers.offer(8, ACTION)
    for cancel in (False, True):
        answer = await world.feedback(ACTION, "closed", "success", cancel=cancel)
        assert (answer.status_code, code(answer)) == (404, "action.not_found")
    assert world.facts.events == []
    assert world.refused == [("feedback", "action.not_found")] * 2


async def test_an_action_that_nobody_was_given_is_not_found_until_it_is_given(world: World):
    assert (await world.feedback(ACTION, "closed", "success")).status_code == 404
    world.offers.offer(7, ACTION)
    assert (await world.feedback(ACTION, "closed", "success")).status_code == 200


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "report.malformed"),
        (b"{", "report.malformed"),
        (b"\xff\xfe", "report.malformed"),
        (b"[]", "report.invalid"),
        (b"{}", "report.invalid"),
        (b'{"status": {"execution": 1, "result": {"finished": "none"}}}', "report.invalid"),
        (b'{"status": {"execution": "closed", "result": {"finished": "none"}, "details": 1}}', "report.invalid"),
    ],
)
async def test_a_body_that_is_no_report_is_refused_with_a_code_and_a_sentence(world: World, body: bytes, error: str):
    world.offers.offer(7, ACTION)
    for method, path in (("POST", f"/deploymentBase/{ACTION}/feedback"), ("PUT", "/configData")):
        answer = await world.client.request(method, BASE + path, content=body)
        assert (answer.status_code, code(answer)) == (400, error)
        assert answer.json()["detail"]
    assert world.facts.events == []


async def test_unknown_fields_and_foreign_content_types_are_ignored(world: World):
    world.offers.offer(7, ACTION)
    body = (
        b'{"id":"x","time":[],"status":{"execution":"closed","result":{"finished":"none","x":1},"code":"7"},"more":{}}'
    )
    for content_type in ("application/json;charset=UTF-8", "text/plain", ""):
        answer = await world.client.post(
            f"{BASE}/deploymentBase/{ACTION}/feedback", content=body, headers={"content-type": content_type}
        )
        assert answer.status_code == 200


async def test_a_body_above_the_limit_is_refused_and_one_at_the_limit_is_read(world: World):
    world.offers.offer(7, ACTION)
    report = b'{"status":{"execution":"closed","result":{"finished":"none"}}}'
    path = f"{BASE}/deploymentBase/{ACTION}/feedback"

    async def undeclared():
        yield report
        yield b" " * 5_000

    for content in (report.ljust(5_001), undeclared()):
        answer = await world.client.post(path, content=content)
        assert (answer.status_code, code(answer)) == (413, "body.too_large")
        assert answer.headers["connection"] == "close"
    assert world.facts.events == []
    assert (await world.client.post(path, content=report.ljust(5_000))).status_code == 200


async def test_attributes_become_a_fact(world: World):
    answer = await world.client.put(f"{BASE}/configData", json={"mode": "merge", "data": {"hw": "b"}})
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    (event,) = world.facts.events
    assert event.type == d.ATTRIBUTES
    assert event.id == d.statement_id("dev-1", "configData", b'{"data":{"hw":"b"},"mode":"merge"}')
    assert d.decode_attributes(event.data).attributes == {"hw": "b"}


# ---- a report is answered when it is safe


@pytest.mark.parametrize("error", [UnavailableError("Kafka is away"), OSError("gone"), TimeoutError()])
async def test_what_is_not_acknowledged_is_not_answered_with_success(world: World, error: Exception):
    world.offers.offer(7, ACTION)
    world.facts.error = error
    answers = [
        await world.feedback(ACTION, "closed", "success"),
        await world.client.put(f"{BASE}/configData", json={"data": {"a": "b"}}),
    ]
    for answer in answers:
        assert (answer.status_code, code(answer)) == (429, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
    assert world.offers.overlays == []
    assert world.ingested == []


@pytest.mark.parametrize(
    ("execution", "finished", "state"),
    [
        ("closed", "success", "confirmed"),
        ("closed", "failure", "failed"),
        ("rejected", "none", "rejected"),
        ("canceled", "none", "cancelled"),
    ],
)
async def test_a_link_is_gone_in_the_poll_after_the_report_although_the_projection_lags(
    world: World, execution: str, finished: str, state: str
):
    world.offers.offer(7, ACTION, State.DOWNLOADING)
    world.offers.projected = 0
    assert (await world.feedback(ACTION, execution, finished)).status_code == 200
    assert world.offers.overlays == [(7, ACTION, state, 0, 0)]
    assert links(await world.get("")) == {}


async def test_an_acknowledged_cancel_is_gone_in_the_next_poll(world: World):
    world.offers.offer(7, ACTION, State.DOWNLOADING)
    world.offers.cancel(ACTION)
    world.offers.projected = 0
    assert (await world.feedback(ACTION, "closed", "success", cancel=True)).status_code == 200
    assert links(await world.get("")) == {}


async def test_a_report_waits_for_its_own_record_and_needs_no_overlay_then(world: World):
    world.offers.offer(7, ACTION, State.DOWNLOADING)
    world.offers.projected = 0
    world.settings.projection_wait_ms = 60_000
    report = asyncio.create_task(world.feedback(ACTION, "closed", "success"))
    await until(lambda: bool(world.facts.events))
    assert not report.done()
    world.offers.projected = 1
    assert (await report).status_code == 200
    assert world.offers.overlays == []


@pytest.mark.parametrize("details", [("All Chunks Installed.",), ("ota.state=trial",), ("working",)])
async def test_a_report_that_ends_nothing_waits_for_nothing(world: World, details: tuple[str, ...]):
    world.offers.offer(7, ACTION, State.DOWNLOADING)
    world.offers.projected = 0
    assert (await world.feedback(ACTION, "proceeding", "none", *details)).status_code == 200
    assert world.offers.overlays == []


async def test_a_report_whose_effect_cannot_be_kept_is_not_answered_with_success(world: World):
    world.offers.offer(7, ACTION, State.DOWNLOADING)
    await world.get(f"/deploymentBase/{ACTION}")
    world.offers.error = ConnectionRefusedError("the database is away")
    answer = await world.feedback(ACTION, "closed", "success")
    assert (answer.status_code, code(answer)) == (429, "unavailable")
    world.offers.error = None
    assert (await world.feedback(ACTION, "closed", "success")).status_code == 200
    assert len({event.id for event in world.facts.events}) == 1


async def test_a_confirmed_device_is_looked_at_again_for_its_attributes(world: World):
    world.offers.offer(7, ACTION, State.TRIAL)
    await world.feedback(ACTION, "proceeding")
    assert world.identities.forgotten == []
    await world.feedback(ACTION, "closed", "success")
    assert world.identities.forgotten == ["dev-1"]


async def test_attributes_do_not_wait_for_ever(world: World):
    world.offers.projected = 0
    world.identities.register(replace(world.identities.devices["dev-1"], attributes_wanted=True))
    assert (await world.client.put(f"{BASE}/configData", json={"data": {"a": "b"}})).status_code == 200
    assert links(await world.get("")) == {}


async def test_with_too_many_reports_in_hand_devices_are_asked_to_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("api.devices.reports.MAX_REPORTS_IN_HAND", 2)
    world.offers.offer(7, ACTION)
    world.facts.hold = asyncio.Event()
    held = [asyncio.create_task(world.feedback(ACTION, "proceeding")) for _ in range(2)]
    await until(lambda: world.facts.waiting == 2)
    turned_away = await world.feedback(ACTION, "proceeding")
    assert turned_away.status_code == 429
    assert code(turned_away) == "gateway.overloaded"
    assert int(turned_away.headers["retry-after"]) >= world.settings.retry_after_min
    assert (await world.get("")).status_code == 200, "polls are not held up"
    world.facts.hold.set()
    assert [(await task).status_code for task in held] == [200, 200]
    assert (await world.feedback(ACTION, "proceeding")).status_code == 200


# ---- downloads


@pytest.fixture
def started(world: World) -> World:
    world.offers.offer(7, ACTION, State.ACCEPTED)
    return world


async def test_the_whole_artifact(started: World):
    answer = await started.get(ARTIFACT)
    assert (answer.status_code, answer.content) == (200, IMAGE)
    assert answer.headers["content-length"] == str(len(IMAGE))
    assert answer.headers["etag"] == f'"{IMAGE_SHA256}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_link_of_the_deployment_leads_to_the_artifact(started: World):
    deployment = (await started.get(f"/deploymentBase/{ACTION}")).json()
    href = deployment["deployment"]["chunks"][0]["artifacts"][0]["_links"]["download-http"]["href"]
    assert (await started.client.get(href.removeprefix("http://ota.example"))).content == IMAGE


async def test_head_has_the_headers_and_reads_nothing(started: World):
    answer = await started.client.head(BASE + ARTIFACT, headers={"Range": "bytes=0-1"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(IMAGE))
    assert started.artifacts.read == 0


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=5000-", 5_000, len(IMAGE)), ("bytes=-7", len(IMAGE) - 7, len(IMAGE))],
)
async def test_a_range(started: World, header: str, start: int, end: int):
    answer = await started.get(ARTIFACT, headers={"Range": header})
    assert (answer.status_code, answer.content) == (206, IMAGE[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(IMAGE)}"
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["etag"] == f'"{IMAGE_SHA256}"'


async def test_several_ranges_come_in_parts(started: World):
    answer = await started.get(ARTIFACT, headers={"Range": "bytes=0-9,2000-4999,-1"})
    assert answer.status_code == 206
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert "content-range" not in answer.headers
    first, *parts, last = answer.content.split(f"--{boundary}".encode())
    assert (first, last) == (b"\r\n", b"--\r\n")
    bodies = {}
    for part in parts:
        head, _, body = part.partition(b"\r\n\r\n")
        bodies[head.rpartition(b": ")[2].decode()] = body.removesuffix(b"\r\n")
    size = len(IMAGE)
    assert bodies == {
        f"bytes 0-9/{size}": IMAGE[:10],
        f"bytes 2000-4999/{size}": IMAGE[2_000:5_000],
        f"bytes {size - 1}-{size - 1}/{size}": IMAGE[-1:],
    }


async def test_a_range_beyond_the_end_is_416_with_the_size(started: World):
    answer = await started.get(ARTIFACT, headers={"Range": f"bytes={len(IMAGE)}-"})
    assert (answer.status_code, code(answer)) == (416, "artifact.range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(IMAGE)}"


@pytest.mark.parametrize(
    ("headers", "status", "length"),
    [
        ({"If-Match": f'"{IMAGE_SHA256}"'}, 200, len(IMAGE)),
        ({"If-Match": "*"}, 200, len(IMAGE)),
        ({"If-Match": '"x"'}, 412, None),
        ({"If-None-Match": '"x"'}, 200, len(IMAGE)),
        ({"If-None-Match": f'W/"{IMAGE_SHA256}"'}, 304, 0),
        ({"Range": "bytes=0-9", "If-Range": f'"{IMAGE_SHA256}"'}, 206, 10),
        ({"Range": "bytes=0-9", "If-Range": '"x"'}, 200, len(IMAGE)),
        ({"Range": "bytes=0-9", "If-Range": "Wed, 21 Oct 2026 07:28:00 GMT"}, 200, len(IMAGE)),
        ({"Range": "lines=0-9"}, 200, len(IMAGE)),
    ],
)
async def test_conditions(started: World, headers: dict[str, str], status: int, length: int | None):
    answer = await started.get(ARTIFACT, headers=headers)
    assert answer.status_code == status
    assert length is None or len(answer.content) == length


async def test_the_md5_sum_is_as_md5sum_writes_it(started: World):
    answer = await started.get(f"{ARTIFACT}.MD5SUM")
    view = await started.offers.current(7)
    assert view is not None
    assert answer.text == f"{view.md5}  sensor 2.0.1.bin"


@pytest.mark.parametrize(
    "path",
    [
        f"/softwaremodules/{ACTION}/artifacts/other.bin",
        f"/softwaremodules/{ACTION + 1}/artifacts/sensor%202.0.1.bin",
        f"/softwaremodules/{IMAGE_SHA256}/artifacts/sensor%202.0.1.bin",
        f"/softwaremodules/{ACTION}/artifacts/..%2F..%2Fetc%2Fpasswd",
        f"/softwaremodules/{ACTION}/artifacts/sensor%202.0.1.bin.SHA1SUM",
    ],
)
async def test_other_artifacts_are_not_found(started: World, path: str):
    answer = await started.get(path)
    assert (answer.status_code, code(answer)) == (404, "artifact.not_found")


@pytest.mark.parametrize("state", [State.OFFERED, State.CONFIRMED, State.FAILED])
async def test_an_artifact_is_given_only_between_start_and_verdict(world: World, state: State):
    world.offers.offer(7, ACTION, state)
    assert (await world.get(ARTIFACT)).status_code == 404
    assert world.artifacts.read == 0


async def test_a_device_that_is_asked_to_cancel_gets_no_artifact(started: World):
    started.offers.control = CampaignState.HALTED
    assert (await started.get(ARTIFACT)).status_code == 404


async def test_a_device_in_trial_keeps_its_link_after_a_halt(world: World):
    world.offers.offer(7, ACTION, State.TRIAL)
    world.offers.control = CampaignState.HALTED
    assert set(links(await world.get(""))) == {"deploymentBase"}
    assert (await world.get(f"/deploymentBase/{ACTION}")).status_code == 200


async def test_bytes_that_are_missing_break_the_answer_off(started: World):
    started.artifacts.lost = 100
    with pytest.raises(EOFError, match="100 bytes"):
        await started.get(ARTIFACT)


# ---- the rest


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "", "GET"),
        ("DELETE", "", "GET"),
        ("GET", "/configData", "PUT"),
        ("POST", "/configData", "PUT"),
        ("POST", f"/deploymentBase/{ACTION}", "GET"),
        ("GET", f"/deploymentBase/{ACTION}/feedback", "POST"),
        ("PUT", f"/cancelAction/{ACTION}/feedback", "POST"),
        ("POST", ARTIFACT, "GET, HEAD"),
    ],
)
async def test_other_methods_are_refused_with_those_that_are_allowed(world: World, method: str, path: str, allow: str):
    answer = await world.client.request(method, BASE + path)
    assert (answer.status_code, code(answer), answer.headers["allow"]) == (405, "method.not_allowed", allow)


@pytest.mark.parametrize("path", ["/", "/x", "/default/controller/v2/dev-1", f"{BASE}/x", f"{BASE}/deploymentBase"])
async def test_other_paths_are_not_found(world: World, path: str):
    answer = await world.client.get(path)
    assert (answer.status_code, code(answer)) == (404, "path.not_found")


@pytest.mark.parametrize("path", ["", f"/deploymentBase/{ACTION}", ARTIFACT])
async def test_while_the_database_is_away_devices_are_asked_to_come_back(world: World, path: str):
    world.offers.error = ConnectionRefusedError("the database is away")
    answer = await world.get(path)
    assert (answer.status_code, code(answer)) == (429, "unavailable")
    assert "retry-after" in answer.headers


async def test_a_defect_is_an_answer_that_tells_nothing_of_the_inside(world: World):
    world.offers.error = RuntimeError("secret detail")
    answer = await world.get("")
    assert (answer.status_code, code(answer)) == (500, "internal")
    assert "secret" not in answer.text


async def test_health_readiness_and_metrics_need_no_token(world: World):
    world.client.headers.pop("Authorization")
    assert (await world.client.get("/healthz")).json() == {"status": "ok"}
    assert (await world.client.get("/readyz")).json() == {"status": "ok", "checks": []}
    metrics = await world.client.get("/metrics")
    assert metrics.text == "ota_up 1\n"
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
