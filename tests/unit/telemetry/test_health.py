from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx
import pytest

from orchestrator.telemetry import health


async def fine() -> None:
    return None


async def broken() -> None:
    raise ConnectionError("no route")


@pytest.fixture
async def serve():
    """``serve(*checks)``: a client of a server with these checks."""
    servers, clients = [], []

    async def start(*checks: health.Check) -> httpx.AsyncClient:
        servers.append(server := await health.listen("127.0.0.1", 0, checks, lambda: b"ota_up 1\n"))
        clients.append(client := httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}"))
        return client

    yield start
    for client in clients:
        await client.aclose()
    for server in servers:
        await server.aclose()


async def test_a_role_that_runs_is_healthy_whatever_its_checks_say(serve):
    client = await serve(("database", broken))
    assert (await client.get("/healthz")).status_code == 200


async def test_a_role_is_ready_when_every_check_passes(serve):
    client = await serve(("database", fine), ("kafka", fine))
    answer = await client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["checks"] == [{"name": "database", "ok": True}, {"name": "kafka", "ok": True}]


async def test_a_check_that_fails_is_named_with_its_reason(serve):
    client = await serve(("database", fine), ("kafka", broken))
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"][1] == {"name": "kafka", "ok": False, "detail": "no route"}


async def test_a_check_that_hangs_does_not_hang_the_probe(serve, monkeypatch):
    monkeypatch.setattr(health, "CHECK_TIMEOUT", 0.01)
    client = await serve(("temporal", asyncio.Event().wait))
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "no answer" in answer.json()["checks"][0]["detail"]


async def test_metrics_are_prometheus_text(serve):
    client = await serve()
    answer = await client.get("/metrics")
    assert answer.text == "ota_up 1\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_a_head_request_has_no_body(serve):
    client = await serve()
    answer = await client.head("/metrics")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "9")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("GET", "/metrics/x", 404), ("POST", "/metrics", 405)]
)
async def test_nothing_else_is_served(serve, method, path, status):
    client = await serve()
    assert (await client.request(method, path)).status_code == status


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET /healthz\r\n\r\n", b"\x00\r\n\r\n"])
async def test_what_is_not_http_is_a_bad_request(serve, sent):
    client = await serve()
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(sent)
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"A" * 100_000])
async def test_a_request_that_does_not_end_harms_nobody_else(serve, sent):
    client = await serve()
    _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(sent)
    writer.close()
    assert (await client.get("/healthz")).status_code == 200


async def test_without_a_port_nothing_listens():
    @dataclass(frozen=True)
    class Quiet:
        host: str = "127.0.0.1"
        health_port: int = 0

    server = await health.serve_health(Quiet(), [], lambda: b"")
    assert server.port is None
    await server.aclose()
