"""The whole system on real servers, with a fleet, while parts of it are killed; judged by the oracle at the end.

Everything that is drawn comes from one seed, which a failing run prints.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from orchestrator.client.errors import ApiError
from orchestrator.config import Settings
from orchestrator.demo.operators import AUTHOR
from orchestrator.demo.scenario import FACTORY, Play
from orchestrator.demo.world import make_world
from orchestrator.devstack.roles import ROLES
from orchestrator.failpoints import deaths
from tests.chaos import injection
from tests.chaos.callers import Callers
from tests.chaos.planted import DEFECTS
from tests.chaos.system import ChaosSystem
from tests.support.oracle import Evidence, Verdict, judge
from tests.support.role import running
from tests.support.witnesses import Flash, Truth, read_tables, read_topic

LOOK: Final = 0.3
"""Seconds between two looks at the database."""

PATIENCE: Final = 180.0
"""Seconds until a campaign that does not end counts as stuck: nobody repairs anything by hand."""

CATCH_UP: Final = 60.0
"""Seconds in which the projection must have read the log to its end."""

SESSION: Final = 14.0
"""Seconds that outlast the consumer group's session, so that partitions change hands."""

ACTIVE: Final = ["offered", "accepted", "downloading", "installed", "trial"]


def plan(**changes: Any) -> dict[str, Any]:
    """Two phases that end as soon as nothing is in flight, so that the faults take the time and not the soaking."""
    base: dict[str, Any] = {
        "cohort": {"stratify_by": ["hardware_model", "attribute.hw_revision"], "holdback_percent": 4},
        "phases": [
            {"name": "canary", "percent": 25, "min_count": 20, "soak": "1s"},
            {"name": "everyone", "percent": 100, "soak": "1s"},
        ],
        "confirm_deadline": "60s",
        "offer_ttl": "30s",
        "max_in_flight": {"initial": 25, "maximum": 60},
        "halt": [
            {"name": "fleet", "scope": "campaign", "p0": 0.02, "alpha": 0.006, "min_failures": 3},
            {"name": "phase", "scope": "phase", "p0": 0.02, "alpha": 0.004, "min_failures": 3},
        ],
        "approvals": {"required": 1, "separation": True},
        "retry": {"max_attempts": 3},
    }
    return base | changes


class Harness:
    """One run.

    Args:
        folder: of its own; everything is kept there.
        seed: of what is killed when, and of the failpoints' dice.
        devices: how many are simulated.
        failpoints: as ``OTA_FAILPOINTS``.
        defect: one of ``planted.DEFECTS``.
        settings: further ``OTA_…`` variables of all roles.
        report: is told the outcome when it has been judged, as plain data.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        devices: int,
        failpoints: str = "",
        defect: str | None = None,
        settings: Mapping[str, str] | None = None,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        if defect is not None and defect not in DEFECTS:
            raise ValueError(f"{defect} is none of {', '.join(DEFECTS)}")
        self.seed = seed
        self.dice = random.Random(seed)
        self.kills: Counter[str] = Counter()
        """Kills with work in flight, at random times and of servers; those at failpoints are in the failpoints' log."""
        self._report = report
        self._defect = defect
        self._folder = folder
        self._devices = devices
        self._fail_log = folder / "failpoints.log"
        settings = {
            **(settings or {}),
            "OTA_POLL_INTERVAL": "2",
            # A killed process is missed sooner than in earnest, so that more of them can be killed.
            "OTA_WORKER_HEARTBEAT_MS": "1500",
            "OTA_IDEMPOTENCY_LEASE_MS": "2000",
            "OTA_FAILPOINTS": failpoints,
            "OTA_FAILPOINT_LOG": str(self._fail_log),
            "OTA_FAILPOINT_SEED": str(seed),
        }
        self.system = ChaosSystem(folder / "state", settings, defect)
        self._busy = asyncio.Lock()
        self._names: list[str] = []

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Harness]:
        """Servers, roles, fleet; all devices connected."""
        _say(f"seed {self.seed}, {self._devices} devices, {self.system.state_dir}")
        try:
            world, _ = await asyncio.gather(
                asyncio.to_thread(make_world, self._folder / "world", self._devices),
                asyncio.to_thread(self.system.start),
            )
            async with Callers(self.system) as self.desk:
                self._world = world
                self.releases = await self.desk.prepare(world)
                await asyncio.to_thread(self.system.start_fleet, world)
                await self.until(
                    "every device is known",
                    lambda: self.value(
                        "SELECT count(*) >= $1 FROM device WHERE reported_at IS NOT NULL", self._devices
                    ),
                )
                self._fail_log.touch()
                yield self
        finally:
            await asyncio.to_thread(self.system.stop)

    # ---- looking

    def tokens(self) -> list[tuple[str, str]]:
        """Id and token of each device."""
        fleet = msgspec.json.decode(self._world.fleet_file.read_bytes())
        return [(device["device_id"], device["token"]) for device in fleet["devices"]]

    def devices(self, chosen: Callable[[str], bool]) -> list[str]:
        """Ids of the devices whose hardware revision is chosen."""
        return [device.device_id for device in self._world.devices if chosen(device.hw_revision)]

    @property
    def settings(self) -> Settings:
        return self.system.settings()

    @property
    def deaths(self) -> Counter[str]:
        """Kills at failpoints, by name."""
        return deaths(self._fail_log)

    async def value(self, sql: str, *arguments: Any) -> Any:
        """One value; None while the database is away."""
        try:
            connection = await asyncpg.connect(self.system.env["OTA_DATABASE_URL"], timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return None
        try:
            return await connection.fetchval(sql, *arguments)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return None
        finally:
            connection.terminate()

    async def until(self, what: str, met: Callable[[], Awaitable[Any]], patience: float = PATIENCE) -> None:
        """Raises AssertionError when it takes too long."""
        deadline = time.monotonic() + patience
        while not await met():
            assert time.monotonic() < deadline, f"seed {self.seed}: waited {patience:.0f} s in vain until {what}"
            await asyncio.sleep(LOOK)

    async def _has_work(self, part: str) -> bool:
        """Whether a death of this role or server would hit something: of the API a request, of all others devices in flight."""
        return self.desk.asking if part == "api" else bool(await self.in_flight())

    async def in_flight(self) -> int:
        return await self.value("SELECT count(*) FROM assignment WHERE state = ANY($1)", ACTIVE) or 0

    # ---- doing

    async def launch(self, play: Play, **changes: Any) -> str:
        """Write, approve, launch; the API may be killed meanwhile, people ask again."""
        return await self.desk.launch(self._name(play), {**plan(**changes), "release": self.releases[play]})

    @asynccontextmanager
    async def people(self, campaign_id: str) -> AsyncIterator[None]:
        """Somebody keeps writing drafts, pausing the campaign and letting it go on meanwhile."""
        done = asyncio.Event()

        def work() -> None:
            self.desk.create(self._name("draft"), {**plan(), "release": self.releases[Play.GOOD]})
            with suppress(ApiError):  # it has ended or was halted: that is for others to decide
                self.desk.act(AUTHOR, campaign_id, "pause", {"reason": "lunch"})
                self.desk.act(AUTHOR, campaign_id, "resume", {"reason": "back"})

        async def keep_at_it() -> None:
            while not done.is_set():
                await asyncio.to_thread(work)
                await asyncio.sleep(self.dice.uniform(0.2, 1.0))

        task = asyncio.create_task(keep_at_it())
        try:
            yield
        finally:
            done.set()  # not cancelled: who has asked waits for the answer
            await task

    def _name(self, what: str) -> str:
        self._names.append(what)
        return f"{what} {len(self._names)}"

    async def ended(self, campaign_id: str, patience: float = PATIENCE) -> str:
        """Wait until the campaign has ended or halted and none of its devices is in flight; returns its state."""
        await self.until(
            f"{campaign_id} has ended",
            lambda: self.value(
                "SELECT c.state IN ('completed', 'halted', 'aborted') AND NOT EXISTS (SELECT 1 FROM assignment a"
                " WHERE a.campaign_no = c.campaign_no AND a.state = ANY($2)) FROM campaign c WHERE c.campaign_id = $1",
                campaign_id,
                ACTIVE,
            ),
            patience,
        )
        state: str = await self.value("SELECT state FROM campaign WHERE campaign_id = $1", campaign_id)
        return state

    @asynccontextmanager
    async def killing(
        self, roles: tuple[str, ...] = ROLES, pause: tuple[float, float] = (0.5, 3.0)
    ) -> AsyncIterator[None]:
        """SIGKILL ready roles that have work, at random times meanwhile. Several may be away at once; all are back at the end."""

        async def kill() -> None:
            while True:
                await asyncio.sleep(self.dice.uniform(*pause))
                role = self.dice.choice(roles)
                async with self._busy:
                    if self.system.role(role).state == "ready" and await self._has_work(role):
                        self.kills[f"{role} at random"] += 1
                        self.system.kill(role)

        async with _meanwhile(kill()):
            yield
        for role in roles:
            await asyncio.to_thread(self.system.wait_ready, role)

    async def server_dies(self, name: str, away: float = 1.0) -> None:
        """SIGKILL and restart PostgreSQL, the broker or Temporal."""
        async with self._busy:
            self.kills[name] += await self._has_work(name)
            await asyncio.to_thread(self.system.kill_server, name, away)

    @asynccontextmanager
    async def further_projector(self, number: int) -> AsyncIterator[asyncio.subprocess.Process]:
        """One more projector process, ready or not yet."""
        settings = self.settings.model_copy(update={"instance": f"projector-{number}"})
        async with running("projector", settings, self.system.logs / f"projector-{number}.log") as process:
            yield process

    async def started(self, campaign_id: str, devices: int) -> None:
        """Wait until that many devices of the campaign have been started."""
        await self.until(
            f"{devices} devices of {campaign_id} have started",
            lambda: self.value(
                "SELECT count(*) >= $2 FROM assignment JOIN campaign USING (campaign_no)"
                " WHERE campaign_id = $1 AND started_at IS NOT NULL",
                campaign_id,
                devices,
            ),
        )

    async def inject(self) -> int:
        """Say again, late and wrongly, what devices have said: straight into the topic. Returns how many records."""
        settings = self.settings
        return await injection.inject(settings.kafka_bootstrap, settings.device_events_topic, self.dice)

    # ---- the end

    async def judge(self) -> Verdict:
        """Switch the fleet off, let the projection catch up, and compare everything."""
        await asyncio.to_thread(self.system.stop_fleet)
        settings = self.settings
        records = await read_topic(settings.kafka_bootstrap, settings.device_events_topic)
        ends = {record.partition: record.offset + 1 for record in records}
        with suppress(AssertionError):  # what is missing is for the oracle to say
            await self.until("the projection has caught up", partial(self._caught_up, ends), CATCH_UP)
        flash = msgspec.json.decode(self.system.flash_file.read_bytes(), type=dict[str, Flash])
        verdict = judge(
            Evidence(
                tables=await read_tables(settings.database_url),
                records=records,
                truth=await asyncio.to_thread(Truth.read, self.system.truth_file),
                flash=flash,
                factory=FACTORY.version,
                told=self.desk.told,
            )
        )
        killed = dict(sorted((self.deaths + self.kills).items()))
        found = {"kills": killed, "findings": verdict.counts, "facts": verdict.facts}
        self._report({"defect": self._defect, **found})
        _say(f"seed {self.seed}, {sum(killed.values())} kills {killed}")
        _say(str(verdict))
        return verdict

    async def _caught_up(self, ends: Mapping[int, int]) -> bool:
        behind = await self.value(
            "SELECT count(*) FROM unnest($1::int[], $2::bigint[]) u(partition, after)"
            " LEFT JOIN projection_position p ON p.projection = 'fleet' AND p.topic = $3 AND p.partition = u.partition"
            " WHERE coalesce(p.next_offset, 0) < u.after",
            list(ends),
            list(ends.values()),
            self.settings.device_events_topic,
        )
        return behind == 0


def _say(line: str) -> None:
    sys.stdout.write(f"chaos: {line}\n")
    sys.stdout.flush()


@asynccontextmanager
async def _meanwhile(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
