"""A rebuild that dies anywhere, or whose database does, goes on where it was and ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from orchestrator.adapters.kafka import topics
from orchestrator.adapters.kafka.topic_ids import topic_ids
from orchestrator.adapters.sql import rebuild
from orchestrator.adapters.sql.engine import make_engine
from orchestrator.adapters.sql.facts import Delivery
from orchestrator.adapters.sql.migrations import migrate
from orchestrator.adapters.sql.positions import LogDamageError, LogIdentity
from orchestrator.adapters.sql.shadow import OtherShadowError
from orchestrator.config import Settings
from orchestrator.devstack.stack import DevStack
from orchestrator.failpoints import deaths
from tests.integration.rebuild.conftest import MemoryFacts, Story
from tests.support.role import environment
from tests.support.world import World

ANYWHERE = ",".join(
    f"{place}:0.15" for place in ("projector.after_position", "projector.before_commit", "projector.after_commit")
)
RUNS = (
    "rebuild.before_commit:1",
    "projector.after_position:1",
    "projector.before_commit:1",
    "projector.after_commit:1",
    # Where none of them fires there is nothing left to read.
    f"{ANYWHERE},rebuild.before_switch:1",
    f"{ANYWHERE},rebuild.before_switch:1",
    f"{ANYWHERE},rebuild.before_switch:1",
    "rebuild.before_switch:1",
    "rebuild.after_switch:1",
)
"""Failpoints of one run after the other; each of them kills it."""
LEFT = (
    "SELECT (SELECT events FROM rebuild.checkpoint) AS events, (SELECT decisions FROM rebuild.checkpoint) AS decisions,"
    " (SELECT coalesce(sum(next_offset), 0)::bigint FROM rebuild.projection_position) AS facts"
)
DEADLINES = "SELECT due_at, campaign_no, device_no, attempt, what FROM due_queue ORDER BY 1, 2, 3, 4, 5"
ROWS = "SELECT device_no, campaign_no, state, changed_at FROM assignment ORDER BY 1, 2"


async def on_kafka(story: Story, bootstrap: str) -> None:
    """Put the story's log into a topic, as if it had been read from there."""
    settings = story.settings = story.settings.model_copy(
        update={"kafka_bootstrap": bootstrap, "topic_prefix": f"{uuid4().hex[:8]}.", "rebuild_batch": 40}
    )
    topic = settings.device_events_topic
    await topics.apply(bootstrap, settings.topic_prefix)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        for partition, records in story.world.log.items():
            for record in records:
                await producer.send(topic, record.value, key=record.key, partition=partition)
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        cluster, found = await topic_ids(consumer._client, [topic])
    finally:
        await consumer.stop()
    await story.world.rows(
        "UPDATE projection_position SET topic = $1, topic_id = $2, cluster_id = $3 RETURNING 1",
        *(topic, found[topic].topic_id, cluster),
    )
    await story.world.rows("UPDATE dead_letter SET topic = $1 RETURNING 1", topic)


async def run(story: Story, *words: str, **variables: str) -> tuple[int, bytes, bytes]:
    """`ota projection …` in a process of its own."""
    code = "from orchestrator.cli.main import run; run()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "projection", *words),
        env=environment(story.settings) | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out, err


@pytest.mark.timeout(300)  # eleven processes, one after the other
async def test_killed_anywhere_it_goes_on_where_it_was(story: Story, kafka, tmp_path):
    await story.live(100)
    await on_kafka(story, kafka)
    before = await story.world.rows(ROWS)
    deadlines = await story.world.rows(DEADLINES)
    log = tmp_path / "deaths"
    log.touch()
    reached = {"events": 0, "decisions": 0, "facts": 0}
    for number, places in enumerate(RUNS):
        variables = {"OTA_FAILPOINTS": places, "OTA_FAILPOINT_LOG": str(log), "OTA_FAILPOINT_SEED": str(number)}
        code, _, err = await run(story, "rebuild", "--yes", **variables)
        assert code == -signal.SIGKILL, err.decode()
        if "rebuild.after_switch" not in deaths(log):
            (left,) = await story.world.rows(LEFT)
            assert all(left[name] >= reached[name] for name in reached), (left, reached)
            reached = left
    assert deaths(log).total() == len(RUNS)
    assert len(deaths(log)) == 6
    code, out, err = await run(story, "rebuild", "--yes", "--json")
    assert (code, json.loads(out)["resumed"]) == (0, True), err.decode()
    assert await story.world.rows(ROWS) == before
    filed = await story.world.rows(DEADLINES)
    assert [each for each in deadlines if each not in filed] == []
    assert await story.world.value("SELECT to_regnamespace('rebuild')") is None
    code, out, err = await run(story, "verify", "--json")
    assert (code, json.loads(out)) == (0, {"equal": True, "differences": []}), err.decode()


# --------------------------------------------------------------------------- a database that goes down


class Interrupted(MemoryFacts):
    """Kills the database while facts are being read."""

    stack: DevStack
    kills = 0

    async def read(self, spans: Mapping[int, tuple[int, int]], most: int) -> AsyncIterator[list[Delivery]]:
        async for deliveries in super().read(spans, most):
            yield deliveries
            if Interrupted.kills:
                Interrupted.kills -= 1
                # In a thread to its end, although this reader is cancelled as soon as the other lane notices.
                await asyncio.to_thread(self._bounce)

    def _bounce(self) -> None:
        self.stack.kill("postgres")
        self.stack.restart("postgres")


@pytest.fixture
async def own_postgres(request) -> AsyncIterator[DevStack]:
    folder = Path(tempfile.mkdtemp(prefix="bellwether-rebuild-"))
    stack = DevStack(folder, kafka=False, temporal=False, environ={})
    try:
        await asyncio.to_thread(stack.up)
        yield stack
    finally:
        await asyncio.to_thread(stack.down)
        shutil.rmtree(folder, ignore_errors=True)


async def test_it_outlives_the_database_which_forgets_the_last_commits(own_postgres: DevStack, tmp_path):
    url = own_postgres.env()["OTA_DATABASE_URL"]
    await migrate(url)
    engine = make_engine(url, pool_size=8)
    story = Story(World(engine, devices=120), Settings(database_url=url, state_dir=tmp_path, rebuild_batch=10))
    await story.begin()
    await story.live(60)
    before = await story.world.rows(ROWS)
    await engine.dispose()
    Interrupted.stack, Interrupted.kills = own_postgres, 3
    done = await rebuild.rebuild(story.settings, sources=lambda: [Interrupted(story.world) for _ in range(2)])
    assert (Interrupted.kills, done.resumed) == (0, True)
    assert await story.world.rows(ROWS) == before
    assert await story.verify() == []
    await engine.dispose()


# --------------------------------------------------------------------------- what is not continued


async def unfinished(story: Story) -> None:
    """Leave a rebuild that has found a difference."""
    await story.live(60)
    await story.world.rows("UPDATE device SET version = 'x' WHERE device_no = 1 RETURNING 1")
    with pytest.raises(rebuild.DifferentError):
        await story.rebuild()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE rebuild.checkpoint SET code = 'older'", "another version"),
        ("UPDATE rebuild.checkpoint SET event_hash = 'x'", "another event log"),
        ("UPDATE rebuild.checkpoint SET decisions = decisions + 1", "another decision ledger"),
        ("UPDATE rebuild.checkpoint SET topic = 'other'", "topic other"),
        ("UPDATE rebuild.projection_position SET topic_id = 'other'", "with id other"),
    ],
)
async def test_what_other_code_or_other_logs_made_is_refused_and_thrown_away_on_request(story: Story, change, named):
    await unfinished(story)
    await story.world.rows(change + " RETURNING 1")
    with pytest.raises(OtherShadowError, match=named) as refused:
        await story.rebuild()
    assert "--restart" in refused.value.remedy
    (found,) = await story.verify(restart=True)
    assert found.key == {"device_no": 1}


async def test_of_two_at_once_the_second_is_refused(story: Story, monkeypatch):
    monkeypatch.setattr(rebuild, "OTHER_MS", 50)
    await unfinished(story)
    entered, leave = asyncio.Event(), asyncio.Event()

    class Slow(MemoryFacts):
        async def read(self, spans, most):
            entered.set()
            await leave.wait()
            async for deliveries in super().read(spans, most):
                yield deliveries

    slow = rebuild.verify(story.settings, sources=lambda: [Slow(story.world) for _ in range(2)], restart=True)
    first = asyncio.create_task(slow)
    await entered.wait()
    with pytest.raises(rebuild.RebuildRunningError):
        await story.rebuild()
    leave.set()
    assert len(await first) == 1


async def test_a_log_that_does_not_hold_all_facts_is_named(story: Story):
    await story.live(40)
    partition, records = max(story.world.log.items(), key=lambda item: len(item[1]))
    lost = records.pop()
    with pytest.raises(LogDamageError, match=f"/{partition}: the log ends at {lost.offset}"):
        await story.verify()
    records.append(lost)
    story.identity = LogIdentity(cluster_id="cluster", topic_id="made anew")
    with pytest.raises(LogDamageError, match="made anew"):
        await story.verify()


async def test_a_broker_that_stays_away_ends_it_with_a_remedy_and_it_goes_on_later(story: Story, kafka):
    await story.live(40)
    await on_kafka(story, kafka)
    there = story.settings
    story.settings = there.model_copy(update={"kafka_bootstrap": "127.0.0.1:1", "rebuild_patience_s": 1})
    code, _, err = await run(story, "rebuild", "--yes")
    assert (code, b"rebuild.gave_up" in err) == (8, True), err.decode()
    story.settings = there
    code, out, _ = await run(story, "rebuild", "--yes", "--json")
    assert (code, json.loads(out)["resumed"]) == (0, True)
