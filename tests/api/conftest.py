"""The operator API in this process, on a real database, with keys of several scopes and images of the real imgtool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from api.operator import OperatorServices, create_app
from firmware.sign import build_image, generate_key
from orchestrator.adapters.sql.engine import driver
from orchestrator.app.keys import Scope
from orchestrator.bootstrap import operator_services
from orchestrator.config import Settings


class Heard:
    """``Facts`` without a broker: everything that was stated has been heard."""

    async def until(self, now: int) -> int:
        return now


METRICS = b"# nothing\n"

PHASES = [
    {"name": "canary", "percent": 20.0, "min_count": 40, "soak": "5s", "promote": {"p1": 0.1, "beta": 0.05}},
    {"name": "rest", "percent": 100.0, "soak": "5s"},
]


def plan(release_id: str, **changes: Any) -> dict[str, Any]:
    """A plan that fits a fleet of 100."""
    base: dict[str, Any] = {
        "release": release_id,
        "cohort": {"stratify_by": ["hardware_model", "attribute.hw_revision"], "holdback_percent": 1.0},
        "phases": PHASES,
        "confirm_deadline": "20s",
        "offer_ttl": "60s",
        "halt": [{"name": "failures", "scope": "campaign", "p0": 0.02, "alpha": 0.01}],
        "max_in_flight": {"initial": 60, "maximum": 240},
    }
    return base | changes


@dataclass
class Api:
    """A client of the API that can be several people."""

    app: FastAPI
    services: OperatorServices
    engine: AsyncEngine
    image: Callable[..., bytes]
    public_pem: str
    _keys: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)
    _http: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60)

    async def key(self, name: str, *scopes: str) -> str:
        """The key of a person with these scopes; all but admin without any."""
        wanted = scopes or tuple(scope.value for scope in Scope if scope is not Scope.ADMIN)
        if (name, wanted) not in self._keys:
            made = await self.services.keys.create(name, wanted, actor="setup", command_id=f"setup/{uuid4()}")
            assert made.key
            self._keys[name, wanted] = made.key
        return self._keys[name, wanted]

    async def __call__(
        self,
        method: str,
        path: str,
        *,
        by: str = "ann",
        scopes: tuple[str, ...] = (),
        key: str | None = None,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> httpx.Response:
        """A request by a person, or with a key of the caller's choice ('' for none)."""
        presented = await self.key(by, *scopes) if key is None else key
        sent = {**({"Authorization": f"Bearer {presented}"} if presented else {}), **(headers or {})}
        return await self._http.request(method, path, headers=sent, **more)

    async def close(self) -> None:
        await self._http.aclose()

    # ---- a world to work in

    async def ok(self, method: str, path: str, **more: Any) -> Any:
        answer = await self(method, path, **more)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def models(self, *names: str) -> None:
        """Hardware models that trust the test key."""
        for name in names:
            await self.ok("POST", "/v1/hardware-models", json={"name": name, "profile": {}})
            await self.ok(
                "POST", f"/v1/hardware-models/{name}/keys", by="root", scopes=("admin",), json={"pem": self.public_pem}
            )

    async def upload(self, model: str, data: bytes, **more: Any) -> httpx.Response:
        query = {"filename": "fw.bin", "hardware_model": model, **more.pop("query", {})}
        return await self("POST", "/v1/artifacts", params=query, content=data, **more)

    async def release(self, *models: str, version: str = "2.0.0") -> str:
        """A release for these models; its id."""
        artifacts: dict[str, str] = {}
        for model in models:
            answer = await self.upload(model, self.image(version=version, payload=model.encode() * 500))
            assert answer.status_code == 201, answer.text
            artifacts[model] = answer.json()["sha256"]
        body = {"name": "app", "version": version, "artifacts": artifacts}
        return (await self.ok("POST", "/v1/releases", json=body))["release_id"]

    async def fleet(self, count: int, *models: str, **more: Any) -> Any:
        devices = [
            {
                "device_id": f"dev-{i:04}",
                "hardware_model": models[i % len(models)],
                "attributes": {"hw_revision": "ABC"[i % 3]},
            }
            for i in range(count)
        ]
        return await self.ok("POST", "/v1/devices/import", json={"devices": devices, **more})

    async def ready(self, devices: int = 100) -> str:
        """Two models, a fleet, a release; its id."""
        await self.models("sensor-a", "gateway-b")
        await self.fleet(devices, "sensor-a", "gateway-b")
        return await self.release("sensor-a", "gateway-b")

    async def draft(self, release_id: str, **changes: Any) -> str:
        body = {"name": "roll out 2.0", "plan": plan(release_id, **changes)}
        return (await self.ok("POST", "/v1/campaigns", json=body))["campaign_id"]

    async def act(self, campaign_id: str, action: str, **more: Any) -> httpx.Response:
        return await self("POST", f"/v1/campaigns/{campaign_id}/{action}", **more)

    async def approved(self, release_id: str, **changes: Any) -> str:
        campaign_id = await self.draft(release_id, **changes)
        submitted = await self.act(campaign_id, "submit")
        assert submitted.status_code == 200, submitted.text
        approved = await self.act(campaign_id, "approve", by="bob", json={"digest": submitted.json()["digest"]})
        assert approved.status_code == 200, approved.text
        return campaign_id

    async def running(self, release_id: str, **changes: Any) -> str:
        campaign_id = await self.approved(release_id, **changes)
        launched = await self.act(campaign_id, "launch")
        assert launched.status_code == 200, launched.text
        return campaign_id

    async def value(self, query: str, *args: Any) -> Any:
        async with driver(self.engine) as conn:
            return await conn.fetchval(query, *args)


@dataclass(frozen=True)
class Signer:
    path: Path
    public_pem: str

    def image(self, *, version: str = "2.0.0", payload: bytes = b"firmware" * 100, counter: int | None = 5) -> bytes:
        return build_image(payload, version=version, security_counter=counter, key=self.path)


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    path = tmp_path_factory.mktemp("signer") / "key.pem"
    return Signer(path, generate_key(path).public_pem.decode())


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database_url, state_dir=tmp_path)


@pytest.fixture
async def api(engine: AsyncEngine, settings: Settings, signer: Signer) -> AsyncIterator[Api]:
    services = operator_services(settings, engine, lambda: METRICS, Heard())
    api = Api(create_app(services), services, engine, signer.image, signer.public_pem)
    yield api
    await api.close()


@pytest.fixture
def open_api(engine: AsyncEngine, signer: Signer) -> Callable[..., Any]:
    """Another API with other settings, on the same database unless another is given."""

    @asynccontextmanager
    async def opened(settings: Settings, engine: AsyncEngine = engine) -> AsyncIterator[Api]:
        services = operator_services(settings, engine, lambda: METRICS, Heard())
        api = Api(create_app(services), services, engine, signer.image, signer.public_pem)
        yield api
        await api.close()

    return opened
