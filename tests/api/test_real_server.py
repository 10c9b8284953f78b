"""The app behind a real server: what an in-process client cannot see."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile

import httpx
import pytest
import uvicorn

from tests.api.conftest import METRICS


async def eventually(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (neither files nor the server have events)
            await asyncio.sleep(0.01)


@pytest.fixture
async def server(api):
    """``host, port`` of a running server."""
    config = uvicorn.Config(api.app, host="127.0.0.1", port=0, http="httptools", lifespan="on", log_config=None)
    running = uvicorn.Server(config)
    running.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(running.serve())
    await eventually(lambda: running.started)
    yield running.servers[0].sockets[0].getsockname()
    running.should_exit = True
    await task


async def raw(server, text: str) -> bytes:
    """Everything the server says to these bytes, until it closes."""
    reader, writer = await asyncio.open_connection(*server)
    writer.write(text.replace("\n", "\r\n").encode())
    await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_requests_are_answered_over_a_socket(api, server):
    key = await api.key("ann")
    await api.models("sensor-a")
    data = api.image(payload=b"x" * 300_000)

    async def chunks():
        for at in range(0, len(data), 10_000):
            yield data[at : at + 10_000]

    async with httpx.AsyncClient(
        base_url="http://{}:{}".format(*server), headers={"Authorization": f"Bearer {key}"}, trust_env=False
    ) as client:
        assert (await client.get("/metrics")).content == METRICS
        query = {"filename": "fw.bin", "hardware_model": "sensor-a"}
        uploaded = await client.post("/v1/artifacts", params=query, content=chunks())
        assert uploaded.status_code == 201
        assert uploaded.json()["size"] == len(data)
        large = await client.post(
            "/v1/campaigns", content=b"x" * 2_000_000, headers={"Content-Type": "application/json"}
        )
        assert (large.status_code, large.json()["code"]) == (413, "request.too_large")
        missing = await client.get("/v1/campaigns/cmp_x")
        assert (missing.status_code, missing.json()["code"]) == (404, "campaign.not_found")
        assert missing.headers["content-type"] == "application/problem+json"


async def test_an_upload_that_breaks_off_leaves_nothing(api, server, settings, tmp_path, monkeypatch):
    staging = tmp_path / "staging"
    staging.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(staging))
    await api.models("sensor-a")
    key = await api.key("ann")
    reader, writer = await asyncio.open_connection(*server)
    writer.write(
        b"POST /v1/artifacts?filename=f&hardware_model=sensor-a HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n"
        b"Authorization: Bearer " + key.encode() + b"\r\n\r\n" + b"x" * 5_000
    )
    await writer.drain()
    await eventually(lambda: any(staging.iterdir()))
    writer.close()
    await writer.wait_closed()
    del reader
    await eventually(lambda: not any(staging.iterdir()))
    assert (await api("GET", "/v1/artifacts")).json()["items"] == []
    assert not [path for path in (settings.state_dir / "artifacts").rglob("*") if path.is_file()]


async def test_who_has_no_key_is_turned_away_before_the_body(server):
    answer = await raw(server, "POST /v1/campaigns HTTP/1.1\nHost: x\nContent-Length: 900000\nConnection: close\n\n{")
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"auth.key.missing" in answer
