"""The implementations on PostgreSQL."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import msgspec
import pytest

from orchestrator.adapters.sql.campaigns import SqlCampaignStore
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.event_log import SqlEventLog, read_all
from orchestrator.adapters.sql.fleet import SqlFleet
from orchestrator.adapters.sql.registry import SqlRegistry, project
from orchestrator.app.ports import Recorded, VersionConflictError
from orchestrator.app.registry import AlreadyExistsError
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.selection import Target, select
from schemas import registry_events as e
from tests.contract.suites import META, CampaignStoreContract, EventLogContract, created


class TestSqlEventLog(EventLogContract):
    @pytest.fixture
    def event_log(self, engine):
        return SqlEventLog(engine)

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE event_log SET data = jsonb_set(data, '{name}', '\"x\"') WHERE position = 2",
            "UPDATE event_log SET recorded_at = recorded_at + 1 WHERE position = 2",
            "UPDATE event_log SET meta = jsonb_set(meta, '{actor}', '\"eve\"') WHERE position = 2",
            "DELETE FROM event_log WHERE position = 1",
        ],
    )
    async def test_a_changed_row_breaks_the_chain_there(self, event_log, engine, change):
        await event_log.append("s", 0, [created(), created(), created()], command_id="a", meta=META)
        async with transaction(engine) as conn:
            await conn.execute(change)
        assert (await event_log.verify_chain())[1] == 2


class TestSqlCampaignStore(CampaignStoreContract):
    @pytest.fixture
    def store(self, engine):
        return SqlCampaignStore(engine)

    async def test_control_follows_the_campaign_in_the_same_transaction(self, store, engine):
        campaign = await self.started(store)
        async with transaction(engine) as conn:
            row = await conn.fetchrow("SELECT state, version, gate_epoch FROM control WHERE campaign_no = 1")
        assert (row["state"], row["version"], row["gate_epoch"]) == ("running", campaign.version, 1)


def device(number: int, **more) -> e.RegisteredDevice:
    fields = {"device_no": number, "device_id": f"dev-{number}", "hardware_model": "m"} | more
    return e.RegisteredDevice(**fields)


def registered(*devices: e.RegisteredDevice) -> e.DevicesRegistered:
    return e.DevicesRegistered(devices=list(devices), actor="ann")


class TestSqlRegistry:
    @pytest.fixture
    def registry(self, engine):
        return SqlRegistry(engine)

    async def test_a_row_that_is_there_already_undoes_the_whole_record(self, registry, engine):
        await registry.record("devices/1", [registered(device(1))], command_id="a", meta=META)
        with pytest.raises(AlreadyExistsError):
            await registry.record(
                "devices/2",
                [registered(device(2)), registered(device(3, device_id="dev-1"))],
                command_id="b",
                meta=META,
            )
        assert await registry.registered(["dev-1", "dev-2"]) == ["dev-1"]
        assert await registry.done("b") == []

    async def test_a_repeated_command_writes_nothing(self, registry):
        first = await registry.record("devices/1", [registered(device(1))], command_id="a", meta=META)
        again = await registry.record("devices/9", [registered(device(9))], command_id="a", meta=META)
        assert again == first
        assert await registry.registered(["dev-9"]) == []

    async def test_a_stream_that_moved_is_a_conflict(self, registry):
        await registry.record("devices/1", [registered(device(1))], command_id="a", meta=META)
        with pytest.raises(VersionConflictError):
            await registry.record("devices/1", [registered(device(2))], command_id="b", meta=META, expected_version=0)

    async def test_projecting_again_gives_the_same_rows_and_leaves_identities_alone(self, registry, engine):
        await registry.record(
            "devices/1", [registered(device(1, token_hash="old", attributes={"a": "b"}))], command_id="a", meta=META
        )
        token = e.DeviceTokenIssued(device_no=1, device_id="dev-1", token_hash="new", actor="ann")
        await registry.record("device/1", [token], command_id="b", meta=META)
        async with transaction(engine) as conn:
            before = await conn.fetch("SELECT * FROM device")
            await conn.execute("DELETE FROM device")
            for item in await read_all(conn, 0, 10):
                await project(conn, item)
            assert await conn.fetch("SELECT * FROM device") == before
            assert await conn.fetchval("SELECT token_hash FROM device_identity") == "new"

    async def test_events_that_are_not_about_the_registry_project_nothing(self, engine):
        item = Recorded(
            position=1, stream="s", version=1, event_id="e", type="CampaignCreated", event=created(), meta=META,
            command_id="a", recorded_at=1,
        )  # fmt: skip
        async with transaction(engine) as conn:
            await project(conn, item)


def plan_for(cohort, *phases):
    return parse_plan(
        {
            "release": "r",
            "cohort": cohort,
            "phases": [*phases, {"name": "all", "percent": 100.0, "soak": 0}],
            "confirm_deadline": "1m",
            "offer_ttl": "1m",
            "halt": [{"name": "h", "scope": "campaign", "p0": 0.1, "alpha": 0.01}],
            "max_in_flight": {"initial": 1, "maximum": 1},
        }
    )


class TestSqlFleet:
    async def fleet(self, engine) -> SqlFleet:
        """Devices whose attributes are missing, empty, or need escaping."""
        revisions = [
            {"hw": "A"},
            {"hw": "B", "site": "x"},
            {},
            {"hw": ""},
            {"hw": "-"},
            {"hw": "a,b=c%"},
            {"site": "y"},
        ]
        devices = [
            device(i, hardware_model=["m1", "m2", "m3"][i % 3], attributes=revisions[i % len(revisions)])
            for i in range(1, 200)
        ]
        await SqlRegistry(engine).record("devices/1", [registered(*devices)], command_id="a", meta=META)
        return SqlFleet(engine)

    async def test_counting_in_the_database_is_counting_the_selected_members(self, engine):
        fleet = await self.fleet(engine)
        cohorts = [
            {"stratify_by": []},
            {"stratify_by": ["hardware_model"]},
            {"stratify_by": ["attribute.hw", "hardware_model", "attribute.site"]},
            {"stratify_by": ["attribute.hw"], "include": ["dev-1", "dev-2", "dev-7", "nobody"]},
            {"stratify_by": ["attribute.hw"], "exclude": ["dev-1", "dev-2", "dev-7"]},
            {"stratify_by": ["attribute.hw"], "selector": "attribute.site=exists=false;device_id!=dev-1*"},
        ]
        async with transaction(engine) as conn:
            await conn.execute("UPDATE device SET version = CASE device_no % 3 WHEN 0 THEN '2' WHEN 1 THEN '1' END")
            await conn.execute(
                "UPDATE device SET digest = CASE device_no % 5 WHEN 0 THEN 'aa' ELSE 'bb' END WHERE device_no % 7 < 4"
            )
        naming = [
            {"name": "sites", "group": "sites", "soak": 0},
            {"name": "some", "devices": ["dev-3", "-"], "soak": 0},
        ]
        for cohort, models, skip in itertools.product(cohorts, (["m1"], ["m1", "m3"], ["none"]), (True, False)):
            extra = {"groups": {"sites": "attribute.site=exists=true"}, "skip_current": skip}
            for plan in (plan_for(cohort | extra), plan_for(cohort | extra, *naming)):
                target = Target("2", dict.fromkeys(models, "aa"))
                strata: Counter[str] = Counter()
                named: defaultdict[int, Counter[str]] = defaultdict(Counter)
                async for page in fleet.members(["m1", "m2", "m3"]):
                    for member in select(plan, page, target):
                        strata[member.stratum] += 1
                        if member.named is not None:
                            named[member.named][member.stratum] += 1
                found = await fleet.count(plan, target)
                assert found.strata == strata
                assert found.named == named

    async def test_members_come_once_each_in_the_order_of_registration(self, engine, monkeypatch):
        monkeypatch.setattr("orchestrator.adapters.sql.fleet.PAGE", 7)
        fleet = await self.fleet(engine)
        numbers = [m.device_no async for page in fleet.members(["m1", "m2", "m3"]) for m in page]
        assert numbers == list(range(1, 200))
        assert msgspec.json.encode((await anext(fleet.members(["m2"])))[0].attributes) == b'{"hw":"B","site":"x"}'
