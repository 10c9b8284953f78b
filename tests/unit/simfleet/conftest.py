"""A gateway that speaks just enough DDI on a loopback port, and a small fleet at it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from firmware.device_sim.behaviour import Mode
from firmware.device_sim.components import Fault
from firmware.sign import build_image, generate_key, public_key_path
from orchestrator.simfleet import DeviceSpec, Fleet, HardwareSpec, Pace
from orchestrator.simfleet.model import TraitsSpec, release_traits

QUICK = Pace(
    start_spread=0,
    reboot=(0, 0),
    self_test=(0, 0),
    first_retry=0.005,
    longest_retry=0.02,
    request_timeout=5,
    default_sleep=0.01,
)


@dataclass(frozen=True)
class Said:
    """A report as the gateway took it."""

    device: str
    action: str
    execution: str
    finished: str
    details: tuple[str, ...]
    cancel: bool

    @property
    def state(self) -> str:
        return next((d.removeprefix("ota.state=") for d in self.details if d.startswith("ota.state=")), "")


@dataclass
class FakeGateway:
    """Shows ``action`` until it is closed; what is queued in ``trouble`` is answered first to matching requests."""

    image: bytes
    version: str = "2.0.0"
    action: str | None = None
    cancelling: bool = False
    announced_sha256: str | None = None
    applications: dict[str, bytes] = field(default_factory=dict)
    """Name to content of those that a deployment has before the image."""
    url: str = ""
    base: str = "/default/controller/v1"
    said: list[Said] = field(default_factory=list)
    health: list[dict[str, Any]] = field(default_factory=list)
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    trouble: list[tuple[str, int | str]] = field(default_factory=list)
    """(pattern of "METHOD path", status or "drop" or "half")."""
    requests: Counter[str] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    on_request: Callable[[str], None] | None = None

    def states(self) -> list[str]:
        return [said.state for said in self.said]

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._before])
        root = "/default/controller/v1/{device}"
        app.router.add_get(root, self._poll)
        app.router.add_put(f"{root}/configData", self._config)
        app.router.add_get(f"{root}/deploymentBase/{{action}}", self._deployment)
        app.router.add_post(f"{root}/{{kind:deploymentBase|cancelAction}}/{{action}}/feedback", self._feedback)
        app.router.add_get(f"{root}/cancelAction/{{action}}", self._cancel)
        app.router.add_post("/device/v1/{device}/health", self._health)
        app.router.add_get(f"{root}/softwaremodules/{{module}}/artifacts/image.bin", self._artifact)
        return app

    @web.middleware
    async def _before(self, request: web.Request, handler: Any) -> web.StreamResponse:
        what = f"{request.method} {request.path.removeprefix(self.base)}"
        self.requests[re.sub(r"^(\w+) /[^/]+", r"\1 ", what)] += 1
        if self.on_request:
            self.on_request(what)
        device = request.match_info["device"]
        if request.headers.get("Authorization") != f"TargetToken {self.tokens[device]}":
            return web.Response(status=401)
        for index, (pattern, trouble) in enumerate(self.trouble):
            if re.search(pattern, what):
                if trouble == "half":
                    break
                del self.trouble[index]
                if trouble == "drop":
                    request.transport.abort()
                    return web.Response()
                return web.Response(status=int(trouble))
        return await handler(request)

    async def _poll(self, request: web.Request) -> web.Response:
        root = f"{self.url}{self.base}/{request.match_info['device']}"
        links: dict[str, Any] = {}
        if self.action and self.cancelling:
            links["cancelAction"] = {"href": f"{root}/cancelAction/{self.action}"}
        elif self.action:
            links["deploymentBase"] = {"href": f"{root}/deploymentBase/{self.action}?c=7"}
        return web.json_response({"config": {"polling": {"sleep": "00:00:00"}}, "_links": links})

    async def _config(self, request: web.Request) -> web.Response:
        self.attributes.setdefault(request.match_info["device"], {}).update((await request.json())["data"])
        return web.Response()

    async def _deployment(self, request: web.Request) -> web.Response:
        device, action = request.match_info["device"], request.match_info["action"]
        if action != self.action or self.cancelling:
            return web.Response(status=404)
        chunks = [self._chunk(device, "bApp", name, content) for name, content in self.applications.items()]
        chunks.append(self._chunk(device, "os", "sensor-a", self.image))
        deployment = {"download": "forced", "update": "forced", "chunks": chunks}
        return web.json_response({"id": action, "deployment": deployment})

    def _chunk(self, device: str, part: str, name: str, content: bytes) -> dict[str, Any]:
        announced = self.announced_sha256 if part == "os" else None
        href = f"{self.url}{self.base}/{device}/softwaremodules/{name}/artifacts/image.bin"
        artifact = {
            "filename": "image.bin",
            "size": len(content),
            "hashes": {"sha256": announced or hashlib.sha256(content).hexdigest()},
            "_links": {"download-http": {"href": href}},
        }
        return {"part": part, "version": self.version, "name": name, "artifacts": [artifact]}

    async def _feedback(self, request: web.Request) -> web.Response:
        body = await request.json()
        status, cancel = body["status"], request.match_info["kind"] == "cancelAction"
        self.said.append(
            Said(
                request.match_info["device"],
                request.match_info["action"],
                status["execution"],
                status["result"]["finished"],
                tuple(status.get("details", ())),
                cancel,
            )
        )
        if status["execution"] == "closed" and not (cancel and status["result"]["finished"] == "failure"):
            self.action, self.cancelling = None, False
        return web.Response()

    async def _health(self, request: web.Request) -> web.Response:
        self.health.append({"device": request.match_info["device"], **await request.json()})
        return web.Response()

    async def _cancel(self, request: web.Request) -> web.Response:
        action = request.match_info["action"]
        return web.json_response({"id": action, "cancelAction": {"stopId": action}})

    async def _artifact(self, request: web.Request) -> web.StreamResponse:
        content = self.applications.get(request.match_info["module"], self.image)
        asked = request.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").removesuffix("-") or 0)
        self.ranges.append(asked)
        response = web.StreamResponse(status=206 if asked else 200)
        response.content_length = len(content) - start
        await response.prepare(request)
        if self.trouble and self.trouble[0][1] == "half":
            del self.trouble[0]
            await response.write(content[start : start + 1000])
            request.transport.abort()
            return response
        await response.write(content[start:])
        return response


@pytest.fixture(scope="session")
def hardware(tmp_path_factory) -> HardwareSpec:
    folder = tmp_path_factory.mktemp("hardware")
    key = folder / "release.pem"
    generate_key(key, "ed25519")
    factory = folder / "factory.bin"
    factory.write_bytes(build_image(b"\x01" * 4096, version="1.0.0", security_counter=1, key=key))
    return HardwareSpec(factory_image=str(factory), public_key=str(public_key_path(key)))


@pytest.fixture(scope="session")
def image(hardware) -> bytes:
    """Version 2.0.0 for the hardware."""
    key = Path(hardware.public_key).with_name("release.pem")
    return build_image(b"\x02" * 8192, version="2.0.0", security_counter=2, key=key)


@pytest.fixture
async def gateway(image) -> AsyncIterator[FakeGateway]:
    fake = FakeGateway(image)
    server = TestServer(fake.application())
    await server.start_server()
    fake.url = str(server.make_url("")).rstrip("/")
    yield fake
    await server.close()


@dataclass
class Running:
    fleet: Fleet
    truth: Path
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert not self.task.done(), self.task
            await asyncio.sleep(0.005)

    async def end(self) -> None:
        self.stop.set()
        await self.task


@pytest.fixture
async def start(gateway, hardware, tmp_path) -> AsyncIterator[Callable[..., Running]]:
    """Starts a fleet of ``revisions`` whose 2.0.0 goes wrong with ``mode`` and faults of components on revision C."""
    started: list[Running] = []

    def begin(*revisions: str, mode: Mode = Mode.GOOD, pace: Pace = QUICK, **components: Fault) -> Running:
        specs = [
            DeviceSpec(device_id=f"dev-{i}", token=f"secret-{i}", hardware_model="sensor-a", hw_revision=revision)
            for i, revision in enumerate(revisions)
        ]
        gateway.tokens = {spec.device_id: spec.token for spec in specs}
        traits = release_traits({"2.0.0": TraitsSpec(mode=mode, bad_revisions=["C"], components=components)})
        truth = tmp_path / f"truth-{len(started)}.jsonl"
        fleet = Fleet(gateway.url, specs, {"sensor-a": hardware}, traits, truth, pace=pace)
        stop = asyncio.Event()
        started.append(Running(fleet, truth, stop, asyncio.create_task(fleet.run(stop))))
        return started[-1]

    yield begin
    for running in started:
        await running.end()
