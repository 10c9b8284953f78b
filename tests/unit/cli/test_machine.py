"""Commands that work on the machine itself, without the API."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from types import ModuleType, SimpleNamespace

import pytest

from orchestrator.app.keys import CreatedKey
from orchestrator.app.registry import ApiKey
from orchestrator.cli import diagnosis
from orchestrator.cli.diagnosis import Trouble, diagnose
from orchestrator.config import Settings
from orchestrator.errors import NotFoundError


class Keys:
    """``orchestrator.app.keys.ApiKeys`` that keeps what it was asked."""

    def __init__(self) -> None:
        self.created: list[dict] = []
        self.revoked: list[str] = []

    async def create(self, name, scopes, *, actor, command_id, lifetime_ms=None):
        self.created.append({"name": name, "scopes": scopes, "actor": actor, "lifetime_ms": lifetime_ms})
        return CreatedKey(key="ota_live_1_s", key_id="1", name=name, scopes=list(scopes), expires_at=0)

    async def list(self):
        made = {
            "name": "ann",
            "scopes": ["admin"],
            "secret_hash": "hash",
            "created_at": 0,
            "expires_at": None,
            "revoked_at": None,
        }
        return [ApiKey(key_id="1", **made)]

    async def revoke(self, key_id, *, actor, command_id):
        if key_id != "1":
            raise NotFoundError(f"There is no API key {key_id}.")
        self.revoked.append(key_id)


@pytest.fixture
def keys():
    return Keys()


@pytest.fixture
def services(keys):
    @asynccontextmanager
    async def local(_settings):
        yield SimpleNamespace(keys=keys)

    return local


def test_a_new_key_is_alone_on_standard_output(ota, keys, monkeypatch):
    monkeypatch.delenv("OTA_API_KEY")
    ran = ota("key", "create", "ann", "--scope", "campaign:read", "--scope", "admin", "--lifetime", "90d")
    assert (ran.exit_code, ran.stdout) == (0, "ota_live_1_s\n")
    (made,) = keys.created
    assert (made["name"], made["scopes"], made["lifetime_ms"]) == ("ann", ["campaign:read", "admin"], 90 * 86_400_000)
    assert made["actor"].startswith("local:")


def test_a_new_key_in_json(ota):
    assert ota("key", "create", "ann", "--scope", "admin", "--json").json == {
        "key": "ota_live_1_s",
        "key_id": "1",
        "name": "ann",
        "scopes": ["admin"],
        "expires_at": "1970-01-01T00:00:00.000Z",
    }


def test_a_key_without_a_scope_or_with_an_odd_lifetime_is_not_made(ota, keys):
    assert ota("key", "create", "ann").exit_code == 2
    assert ota("key", "create", "ann", "--scope", "admin", "--lifetime", "soon").exit_code == 2
    assert not keys.created


def test_keys_are_listed_without_their_hashes(ota):
    ran = ota("key", "list", "--json")
    assert ran.json["items"][0]["name"] == "ann"
    assert "hash" not in ran.stdout
    assert "hash" not in ota("key", "list").stdout


def test_a_key_is_revoked(ota, keys):
    assert ota("key", "revoke", "1").exit_code == 0
    assert keys.revoked == ["1"]
    assert ota("key", "revoke", "2").exit_code == 4


# ---- roles


def test_a_role_ends_with_its_own_status(ota, monkeypatch):
    started = []

    async def run_role(role, settings):
        started.append((role, settings.topic_prefix))
        return 5

    bootstrap = ModuleType("orchestrator.bootstrap")
    bootstrap.run_role = run_role
    monkeypatch.setitem(sys.modules, "orchestrator.bootstrap", bootstrap)
    monkeypatch.setenv("OTA_TOPIC_PREFIX", "t.")
    assert ota("run", "projector").exit_code == 5
    assert started == [("projector", "t.")]


# ---- a database or broker that is away


def test_a_database_that_is_away_ends_with_8(ota, monkeypatch):
    monkeypatch.setenv("OTA_DATABASE_URL", "postgresql://ota@127.0.0.1:1/ota")
    ran = ota("migrate")
    assert ran.exit_code == 8
    assert "ota doctor" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_table_that_is_missing_says_to_migrate(ota, api):
    class UndefinedTableError(Exception):
        """As asyncpg's, by which it is known."""

    api.on("GET", "/v1/releases", UndefinedTableError('relation "release" does not exist'))
    ran = ota("release", "list")
    assert ran.exit_code == 6
    assert "ota migrate" in ran.stderr


# ---- doctor


async def fine(_settings):
    return "all is well"


async def troubled(_settings):
    raise Trouble("two left shoes", "Change one.")


async def broken(_settings):
    raise OSError("no route\nsecond line")


@pytest.fixture
def settings():
    return Settings()


async def test_every_check_is_made_whatever_the_others_find(settings):
    found = await diagnose(settings, [("a", "usual", troubled), ("b", "usual", broken), ("c", "usual", fine)])
    assert [(f.name, f.ok, f.detail, f.remedy) for f in found] == [
        ("a", False, "two left shoes", "Change one."),
        ("b", False, "no route", "usual"),
        ("c", True, "all is well", ""),
    ]


async def test_a_check_that_hangs_is_a_finding(settings, monkeypatch):
    import asyncio

    monkeypatch.setattr(diagnosis, "CHECK_TIMEOUT", 0.01)
    (found,) = await diagnose(settings, [("a", "usual", lambda _: asyncio.sleep(60))])
    assert (found.ok, found.remedy) == (False, "usual")


def test_doctor_ends_with_1_if_it_finds_something(ota, monkeypatch):
    monkeypatch.setattr(diagnosis, "CHECKS", (("a", "usual", fine),))
    assert ota("doctor").exit_code == 0
    monkeypatch.setattr(diagnosis, "CHECKS", (("a", "usual", fine), ("b", "usual", troubled)))
    ran = ota("doctor", "--json")
    assert ran.exit_code == 1
    assert ran.json["ok"] is False
    assert ran.json["checks"][1] == {"name": "b", "ok": False, "detail": "two left shoes", "remedy": "Change one."}
    assert "Change one." in ota("doctor").stdout


def test_doctor_looks_at_everything_the_system_needs():
    names = {name for name, _, _ in diagnosis.CHECKS}
    assert names == {"database", "migrations", "kafka", "topics", "projection", "temporal", "artifacts", "clock"}
