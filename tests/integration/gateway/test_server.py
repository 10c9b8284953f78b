"""What only a real connection shows: framing, limits, and that success means a record in the log."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from typing import Any

import httpx
import pytest

from orchestrator.devstack.stack import DevStack
from orchestrator.domain.assignment import State
from schemas import device_events as d
from tests.integration.gateway.conftest import BASE, MAX_BODY, Served
from tests.support.offers import IMAGE, MemoryArtifacts

ACTION = 1_000_017
FEEDBACK = f"{BASE}/deploymentBase/{ACTION}/feedback"
CLOSED = {"id": str(ACTION), "status": {"execution": "closed", "result": {"finished": "success"}}}


def head(method: str, path: str, *lines: str) -> bytes:
    fixed = ("Host: gateway", "Authorization: TargetToken s3cret")
    return "\r\n".join([f"{method} {path} HTTP/1.1", *fixed, *lines, "\r\n"]).encode()


async def test_a_device_goes_through_an_update_over_its_own_links(served: Served):
    served.offers.offer(7, ACTION)
    poll = (await served.client.get(BASE)).json()
    deployment = (await served.client.get(poll["_links"]["deploymentBase"]["href"])).json()
    artifact = deployment["deployment"]["chunks"][0]["artifacts"][0]
    image = await served.client.get(artifact["_links"]["download-http"]["href"])
    assert image.content == IMAGE
    states = ["accepted", "downloading", "installed", "trial", "confirmed"]
    for state in states:
        body = {
            "status": {"execution": "proceeding", "result": {"finished": "none"}, "details": [f"ota.state={state}"]}
        }
        answer = await served.client.post(FEEDBACK, json=body)
        assert answer.status_code == 200
        served.offers.project(7, State(state))
    assert "_links" not in (await served.client.get(BASE)).json()
    assert [d.UPDATE_STATES[event.type] for event in await served.stored()] == states


async def test_every_answer_has_a_length_and_none_is_chunked(served: Served):
    served.offers.offer(7, ACTION)
    requests: list[tuple[str, str, Any]] = [
        ("GET", BASE, None),
        ("GET", f"{BASE}/deploymentBase/{ACTION}", None),
        ("GET", f"{BASE}/softwaremodules/{ACTION}/artifacts/sensor%202.0.1.bin", None),
        ("HEAD", f"{BASE}/softwaremodules/{ACTION}/artifacts/sensor%202.0.1.bin", None),
        ("GET", f"{BASE}/softwaremodules/{ACTION}/artifacts/sensor%202.0.1.bin.MD5SUM", None),
        ("PUT", f"{BASE}/configData", {"data": {"a": "b"}}),
        ("POST", FEEDBACK, CLOSED),
        ("POST", FEEDBACK, {}),
        ("GET", f"{BASE}/nothing", None),
        ("GET", "/readyz", None),
        ("GET", "/metrics", None),
    ]
    for method, path, body in requests:
        answer = await served.client.request(method, path, json=body)
        assert "transfer-encoding" not in answer.headers, path
        assert "content-length" in answer.headers, path
        if method != "HEAD":
            assert answer.headers["content-length"] == str(len(answer.content)), path


async def test_what_was_answered_200_is_in_the_log_under_the_identity_that_was_said(served: Served):
    served.offers.offer(7, ACTION)
    bodies = [
        {"status": {"execution": "proceeding", "result": {"finished": "none"}, "details": [f"step {n}"]}}
        for n in range(40)
    ]
    answers = await asyncio.gather(*(served.client.post(FEEDBACK, json=body) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    events = await served.stored()
    assert {event.id for event in events} == {answer.headers["ota-event-id"] for answer in answers}
    assert len(events) == 40
    assert {(event.subject, event.device_no) for event in events} == {("dev-1", 7)}


async def test_while_the_broker_is_away_no_report_is_answered_with_success(served: Served, broker: DevStack):
    served.offers.offer(7, ACTION)
    await asyncio.to_thread(broker.kill, "kafka")
    refused = await asyncio.gather(
        *(served.client.post(FEEDBACK, json=CLOSED) for _ in range(3)),
        served.client.put(f"{BASE}/configData", json={"data": {"a": "b"}}),
    )
    assert {answer.status_code for answer in refused} == {429}
    assert all(answer.headers["retry-after"] for answer in refused)
    assert (await served.client.get(BASE)).json()["_links"]["deploymentBase"], "polls go on"
    assert (await served.client.get("/healthz")).status_code == 200
    ready = await served.client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"][0]["ok"]) == (503, False)

    await asyncio.to_thread(broker.up)
    while (answer := await served.client.post(FEEDBACK, json=CLOSED)).status_code != 200:
        assert answer.status_code == 429
    stored = await served.stored()
    assert answer.headers["ota-event-id"] in {event.id for event in stored}
    assert len({event.id for event in stored if event.type == d.CONFIRMED}) == 1, "repetitions are the same statement"


async def test_a_body_above_the_limit_is_cut_off_however_it_comes(served: Served):
    served.offers.offer(7, ACTION)
    declared = await served.raw(head("POST", FEEDBACK, f"Content-Length: {10**12}"))
    assert declared.startswith(b"HTTP/1.1 413 ")
    piece = b"%x\r\n%s\r\n" % (4_096, b" " * 4_096)
    endless = await served.raw(head("POST", FEEDBACK, "Transfer-Encoding: chunked") + piece * (MAX_BODY // 4_096 + 1))
    assert endless.startswith(b"HTTP/1.1 413 ")
    for answer in (declared, endless):
        assert b"connection: close" in answer.lower()
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "body.too_large"
    assert await served.stored() == []


async def test_chunked_bodies_of_clients_are_read(served: Served):
    served.offers.offer(7, ACTION)

    async def pieces():
        for byte in json.dumps(CLOSED).encode():
            yield bytes([byte])

    assert (await served.client.post(FEEDBACK, content=pieces())).status_code == 200


async def test_a_client_that_waits_for_100_continue_gets_it(served: Served):
    served.offers.offer(7, ACTION)
    body = json.dumps(CLOSED).encode()
    request = head("POST", FEEDBACK, f"Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close")
    answer = await served.raw(request, until=b"100 Continue\r\n\r\n", then=body)
    assert b"HTTP/1.1 200 OK" in answer


async def test_a_client_that_is_not_who_it_says_is_refused_before_its_body_is_read(served: Served):
    request = (
        f"POST {FEEDBACK} HTTP/1.1\r\nHost: gateway\r\nAuthorization: TargetToken x\r\n"
        "Content-Length: 1000\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    answer = await served.raw(request.encode())
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"100 Continue" not in answer


async def test_a_connection_serves_the_next_request_after_an_error(served: Served):
    served.offers.offer(7, ACTION)
    bad = b"{]"
    request = head("POST", FEEDBACK, f"Content-Length: {len(bad)}") + bad + head("GET", BASE, "Connection: close")
    answer = await served.raw(request)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"HTTP/1.1 200 OK" in answer


@pytest.mark.parametrize("action", [ACTION + 1, 999])
async def test_a_foreign_action_leaves_no_trace(served: Served, action: int):
    served.offers.offer(8, ACTION + 1)
    answer = await served.client.post(f"{BASE}/deploymentBase/{action}/feedback", json=CLOSED)
    assert (answer.status_code, answer.json()["code"]) == (404, "action.not_found")
    assert await served.stored() == []


async def test_compressed_bodies_are_no_way_around_the_limit(served: Served):
    served.offers.offer(7, ACTION)
    bomb = gzip.compress(b" " * 10_000_000)
    answer = await served.client.post(FEEDBACK, content=bomb, headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (400, "report.malformed")


async def test_a_download_resumes_where_it_broke_off(served: Served):
    served.offers.offer(7, ACTION, State.DOWNLOADING)
    path = f"{BASE}/softwaremodules/{ACTION}/artifacts/sensor%202.0.1.bin"
    served.artifacts.lost = 3_000
    received = b""
    async with served.client.stream("GET", path) as answer:
        with contextlib.suppress(httpx.RemoteProtocolError):
            async for piece in answer.aiter_raw():
                received += piece
    assert received == IMAGE[:-3_000]
    served.artifacts.lost = 0
    resume = {"Range": f"bytes={len(received)}-", "If-Range": answer.headers["etag"]}
    rest = await served.client.get(path, headers=resume)
    assert rest.status_code == 206
    assert received + rest.content == IMAGE


async def test_nothing_is_read_for_a_client_that_is_gone(served: Served):
    served.offers.offer(7, ACTION, State.DOWNLOADING)
    artifacts = served.artifacts
    artifacts.content = bytes(50_000_000)
    path = f"{BASE}/softwaremodules/{ACTION}/artifacts/sensor%202.0.1.bin"
    async with served.client.stream("GET", path) as answer:
        assert answer.headers["content-length"] == "50000000"
    await _quiet(artifacts)
    assert artifacts.read < 50_000_000


async def _quiet(artifacts: MemoryArtifacts) -> None:
    seen = -1
    while artifacts.read != seen:
        seen = artifacts.read
        await asyncio.sleep(0.2)
