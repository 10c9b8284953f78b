"""As of a moment: what the live projection held then, from the logs alone and whenever it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from orchestrator.adapters.clock import now_ms
from orchestrator.adapters.sql.as_of import SqlArchive
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.fact_archive import keep
from orchestrator.app.as_of import SETTLED_MS, AsOf, FleetAsOf, NotHeardError
from orchestrator.app.registry import DeviceNotFoundError
from orchestrator.domain import campaign as c
from schemas import device_events as d
from schemas import registry_events as r
from tests.support.world import TOPIC, World

PHASES = [{"name": "all", "percent": 100.0, "soak": "0s"}]
LIVE = ["offered", "accepted", "downloading", "installed", "trial", "unknown"]


@dataclass
class Heard:
    """``Facts`` that have been heard up to a moment."""

    moment: int = 1 << 52

    async def until(self, now: int) -> int:
        return min(now, self.moment)


@dataclass
class Told:
    """A world that remembers how it stood at some moments."""

    world: World
    moments: dict[int, dict[str, Any]] = field(default_factory=dict)

    def as_of(self, heard: Heard | None = None) -> AsOf:
        return AsOf(SqlArchive(self.world.engine), heard or Heard(), now=lambda: now_ms() + SETTLED_MS + 1)

    def report(self, device: int, **said: Any) -> None:
        event = d.DeviceEvent(
            id=f"at-{device}-{len(self.world.log[device % 4])}",
            source="test",
            type=d.ATTRIBUTES,
            subject=f"dev-{device:04}",
            device_no=device,
            recorded_at=now_ms(),
            data=msgspec.Raw(msgspec.json.encode(d.Attributes(**said))),
        )
        self.world.raw(device % 4, d.encode(event))

    async def live(self) -> dict[str, Any]:
        rows = await self.world.rows(
            "SELECT c.campaign_id, a.state, count(*) AS n FROM assignment a JOIN campaign c USING (campaign_no) GROUP BY 1, 2"
        )
        states: dict[str, dict[str, int]] = {}
        for row in rows:
            states.setdefault(row["campaign_id"], {})[row["state"]] = row["n"]
        campaigns = await self.world.rows("SELECT campaign_id, state FROM campaign")
        return {
            "states": states,
            "campaigns": {row["campaign_id"]: row["state"] for row in campaigns},
            "devices": await self.world.value("SELECT count(*) FROM device"),
            "twins": await self.world.rows("SELECT device_id, version, digest FROM device ORDER BY device_no"),
            "rows": await self.world.rows(
                "SELECT a.*, c.campaign_id FROM assignment a JOIN campaign c USING (campaign_no) ORDER BY device_no, campaign_no"
            ),
        }

    async def remember(self) -> int:
        """Project, and remember this moment; what comes after it has a later time."""
        await self.world.project()
        moment = now_ms()
        self.moments[moment] = await self.live()
        while now_ms() <= moment:
            pass
        return moment

    async def begin(self, **changes: Any) -> c.Campaign:
        campaign = await self.world.launch(
            phases=PHASES, max_in_flight={"initial": 500, "maximum": 500}, confirm_deadline="1h", **changes
        )
        await self.world.open_phase(campaign.campaign_id, 0, now_ms())
        await self.world.decisions.dispatch(campaign.campaign_id, 0, 500, now_ms())
        return campaign


def shown(found: FleetAsOf) -> dict[str, Any]:
    return {
        "states": {each.campaign_id: each.devices for each in found.campaigns if each.devices},
        "campaigns": {each.campaign_id: each.state for each in found.campaigns},
        "devices": found.devices,
    }


@pytest.fixture
async def told(engine) -> Told:
    world = World(engine)
    await world.setup()
    return Told(world)


async def lived(told: Told) -> None:
    """Two campaigns, one after the other, with every kind of end; remembered seven times."""
    world = told.world
    await told.remember()
    for device in (1, 2, 3):
        told.report(device, version="1.0.0", digest="ff")
    first = await told.begin(
        retry={"max_attempts": 2}, halt=[{"name": "f", "scope": "campaign", "p0": 0.9, "alpha": 0.01}]
    )
    offered = sorted((await world.offered(first.campaign_no)).items())
    await told.remember()
    for number, (device, action) in enumerate(offered[:90]):
        await world.offers.start(device, action)
        for kind in (d.DOWNLOADING, d.INSTALLED, d.TRIAL)[: number % 4]:
            world.fact(device, action, kind, now_ms())
    await told.remember()
    for number, (device, action) in enumerate(offered[:60]):
        kind = (d.CONFIRMED, d.CONFIRMED, d.REVERTED, d.FAILED, d.REJECTED)[number % 5]
        world.fact(device, action, kind, now_ms(), failure_class="boot" if kind in {d.REVERTED, d.FAILED} else None)
    told.report(offered[0][0], version="2.0.0")
    told.report(offered[1][0], version="1.0.0")
    await told.remember()
    await world.command(
        first.campaign_id, lambda _, s: c.Abort(actor="ann", reason="enough", ledger_position=s.ledger_position)
    )
    await world.decisions.sweep(first.campaign_id, now_ms(), now_ms())
    await told.remember()
    second = await told.begin()
    for device, action in sorted((await world.offered(second.campaign_no)).items())[:40]:
        await world.offers.start(device, action)
        world.fact(device, action, d.CONFIRMED, now_ms())
    told.report(199, digest="aa")
    await told.remember()
    await world._register(
        r.DevicesRegistered(
            devices=[r.RegisteredDevice(device_no=900, device_id="late", hardware_model="sensor-a")], actor="test"
        )
    )
    await told.remember()


async def test_every_moment_is_what_the_live_projection_held_then(told: Told):
    await lived(told)
    seen = [shown(await told.as_of().fleet(moment)) for moment in told.moments]
    assert seen == [{name: live[name] for name in ("states", "campaigns", "devices")} for live in told.moments.values()]
    assert len({str(each) for each in seen}) == len(told.moments)
    kinds = {state for live in told.moments.values() for states in live["states"].values() for state in states}
    assert {"offered", "accepted", "trial", "confirmed", "reverted", "failed", "rejected", "cancelled"} <= kinds


async def test_devices_are_what_their_rows_and_twins_were_and_the_counts_are_theirs(told: Told):
    await lived(told)
    for moment, live in told.moments.items():
        counted: dict[tuple[Any, ...], int] = {}
        for twin in live["twins"]:
            found = await told.as_of().device(twin["device_id"], moment)
            assert (found.version, found.digest) == (twin["version"], twin["digest"])
            wanted = [row for row in live["rows"] if row["device_no"] == found.device_no]
            names = ("campaign_id", "phase", "attempt", "action_id", "state", "changed_at", "offered_at", "started_at")
            assert [
                tuple(getattr(each, name) for name in (*names, "failure_class", "reason")) for each in found.assignments
            ] == [tuple(row[name] for name in (*names, "failure_class", "reason")) for row in reversed(wanted)]
            key = (found.hardware_model, found.ran.release_id, found.ran.version, found.ran.digest, found.ran.source)
            counted[key] = counted.get(key, 0) + 1
        fleet = await told.as_of().fleet(moment)
        assert counted == {
            (each.hardware_model, each.release_id, each.version, each.digest, each.source): each.devices
            for each in fleet.ran
        }
    fleets = [await told.as_of().fleet(moment) for moment in told.moments]
    assert {(each.release_id, each.source) for fleet in fleets for each in fleet.ran} == {
        ("rel_1", "confirmed"),
        ("rel_1", "reported"),
        (None, "reported"),
        (None, "unknown"),
    }


async def test_the_same_moment_has_the_same_answer_also_after_the_log_was_lost(told: Told):
    await lived(told)
    middle = sorted(told.moments)[3]
    before = await told.as_of().fleet(middle), await told.as_of().device("dev-0001", middle)
    for device in (1, 2, 3):
        told.report(device, version="9.9")
    await told.world.project()
    assert (await told.as_of().fleet(middle), await told.as_of().device("dev-0001", middle)) == before
    async with transaction(told.world.engine) as conn:
        for partition in told.world.log:
            await keep(conn, TOPIC, partition, 1)
    assert await told.world.value("SELECT count(*) FROM timeline") == 0
    assert (await told.as_of().fleet(middle), await told.as_of().device("dev-0001", middle)) == before
    assert before[0].basis.decisions > 0
    assert sum(before[0].basis.facts.values()) > 0


async def test_what_has_not_been_heard_is_not_answered(told: Told):
    moment = await told.remember()
    with pytest.raises(NotHeardError):
        await told.as_of(Heard(moment - 1)).fleet(moment)
    with pytest.raises(NotHeardError):
        await told.as_of().fleet(now_ms() + 3_600_000)
    with pytest.raises(NotHeardError):
        await AsOf(SqlArchive(told.world.engine), Heard(), now=now_ms).device("dev-0001", moment)
    assert (await told.as_of(Heard(moment)).fleet(moment)).devices == 200


async def test_devices_that_were_not_there_yet_are_not_found(told: Told):
    with pytest.raises(DeviceNotFoundError):
        await told.as_of().device("nobody", now_ms())
    with pytest.raises(DeviceNotFoundError):
        await told.as_of().device("dev-0001", 1_000)
    assert (await told.as_of().fleet(1_000)).devices == 0
