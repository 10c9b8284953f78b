from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from typer.testing import CliRunner

from orchestrator.cli.command import World
from orchestrator.cli.main import app

KEY = "ota_test_key_secret"
AT = "2026-11-21T03:04:36.898Z"

CAMPAIGN: dict[str, Any] = {
    "campaign_id": "cmp_1",
    "name": "spring",
    "release_id": "rel_1",
    "state": "running",
    "version": 7,
    "author": "ann",
    "phase": 0,
    "phase_count": 2,
    "created_at": AT,
    "updated_at": AT,
    "release_name": "fw",
    "release_version": "2.0.0",
    "digest": "sha256:abc",
    "plan": {},
    "gate_epoch": 1,
    "false_halt_at_most": 0.01,
    "false_halt_after_resume": 0.02,
    "approvals": ["bob"],
    "approvals_required": 1,
    "release_halted_in": [],
    "resume_approvals": [],
    "enrolment": {"members": 200, "holdback": 2, "strata": {}, "phases": [60, 138], "joined": 0, "refused": {}},
    "exposed": 25,
    "spared": 173,
    "withheld": {"opted_out": 3},
    "counts": {"offered": 5, "trial": 10, "confirmed": 12, "reverted": 3},
    "phases": [
        {
            "phase": 0,
            "name": "canary",
            "state": "soaking",
            "devices": 60,
            "counts": {"offered": 5, "trial": 10, "confirmed": 12, "reverted": 3, "expired": 2},
            "approved": False,
            "soak_until": "2026-11-21T04:00:00.000Z",
            "soak_ended_at": None,
            "external": [],
            "outlasted": [],
        },
        {
            "phase": 1,
            "name": "rest",
            "state": "waiting",
            "devices": 138,
            "counts": {},
            "approved": False,
            "soak_until": None,
            "soak_ended_at": None,
            "external": [],
            "outlasted": [],
        },
    ],
    "health": [],
    "gate": [
        {
            "rule": "fleet",
            "scope": "campaign",
            "gate_epoch": 1,
            "n": 25,
            "f": 3,
            "bound": 5,
            "verdict": "hold",
            "evaluated_at": AT,
        }
    ],
    "halt": None,
    "breaker": None,
    "halted_strata": [],
    "components": {},
    "remediates": None,
    "remediated_by": [],
    "brake": None,
    "revision": None,
}

HALT: dict[str, Any] = {
    "by": "gate",
    "reason": "9 of 25 started devices failed in campaign; rule 'fleet' halts from 5 failures on.",
    "at": AT,
    "phase": 0,
    "gate_epoch": 1,
    "position": 4711,
    "offers_after": 0,
    "starts_after": 0,
    "rule": "fleet",
    "scope": "campaign",
    "n": 25,
    "f": 9,
    "bound": 5,
    "log_e": 12.345,
    "p0": 0.02,
    "alpha": 0.006,
    "strata": [
        {"stratum": "sensor-a/C", "started": 8, "failures": 8, "log_e": 22.5},
        {"stratum": "sensor-a/A", "started": 17, "failures": 1, "log_e": -0.5},
    ],
    "failed_at": AT,
    "fact": {"topic": "ota.device-events.v1", "partition": 3, "offset": 99},
    "signal": None,
    "events": None,
    "exposure_ms": None,
    "held_events": None,
    "held_exposure_ms": None,
    "expected": None,
}


def campaign(state: str = "running", **changes: Any) -> dict[str, Any]:
    halted = {"halt": deepcopy(HALT)} if state == "halted" else {}
    return {**deepcopy(CAMPAIGN), "state": state, **halted, **changes}


def problem(status: int, code: str, **more: Any) -> httpx.Response:
    body = {
        "status": status,
        "code": code,
        "title": "T",
        "detail": "What is wrong.",
        "remedy": "Do this.",
        "errors": [],
    }
    return httpx.Response(status, json={**body, "trace_id": "t" * 32, **more})


@dataclass
class FakeApi:
    """Answers by method and path; the last answer of a list is repeated. Keeps what it was asked."""

    routes: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)

    def on(self, method: str, path: str, *answers: Any) -> None:
        self.routes[method, path] = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answers = self.routes.get((request.method, request.url.path))
        if answers is None:
            return problem(404, "route.not_found", detail=f"{request.method} {request.url.path}")
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer = answer(request) if isinstance(answer, Callable) else answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            # A response can be sent once.
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return httpx.Response(200, json=answer)

    @property
    def last(self) -> httpx.Request:
        return self.requests[-1]

    def body(self, index: int = -1) -> Any:
        return msgspec.json.decode(self.requests[index].content)


@dataclass
class Ran:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.stdout)


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def pauses() -> list[float]:
    """Seconds that commands waited; nobody waits them here."""
    return []


@pytest.fixture
def services() -> Any:
    """Replace to give commands on the machine itself their use cases."""
    return None


@pytest.fixture
def ota(api, pauses, services, monkeypatch):
    """``ota(*words)``: run a command against the fake API."""
    monkeypatch.setenv("OTA_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("OTA_API_KEY", KEY)

    def run(*words: Any, stdin: str | None = None) -> Ran:
        world = World(http=httpx.MockTransport(api), services=services, pause=pauses.append)
        result = CliRunner().invoke(app, [str(word) for word in words], obj=world, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    import logging

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
