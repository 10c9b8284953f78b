"""The peer of ``ingest``: a Faust agent as its documentation shows it, writing the same assignment rows.

``take``: ``take(1000)`` and one statement per batch; ``event``: one statement per event. Both decode with ``faust.Record``,
commit Kafka offsets, and do nothing else: no position in the database, no counters, no verdict, no timeline. Its consumer
fetches as the projector's does, its connection has the same pinned plans, its event loop is the same.

Run as ``python -m tests.bench.vanilla MODE BOOTSTRAP TOPIC DATABASE_URL FOLDER``; the count of written events is in
``FOLDER/count``, 8 bytes.
"""

# Faust's own annotations are wrong about topics and agents.
# pyright: reportArgumentType=false

from __future__ import annotations

import mmap
import sys
import time
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import asyncpg  # noqa: E402 - Faust's imports warn
import faust  # noqa: E402
import uvloop  # noqa: E402
from faust.transport.drivers import aiokafka as base  # noqa: E402
from yarl import URL  # noqa: E402

from orchestrator.adapters.sql.engine import _HOT_PLANS  # noqa: E402
from orchestrator.stream.transport import FetchSettings  # noqa: E402
from schemas import device_events as d  # noqa: E402

TAKE = 1_000
WITHIN = 0.05
"""Seconds ``take`` waits for a fuller batch: as long as the projector does."""

ONE = """UPDATE assignment SET state = $4, progress = $4, changed_at = $5, started_at = coalesce(started_at, $5),
    first_started_at = coalesce(first_started_at, $5), first_started_epoch = coalesce(first_started_epoch, gate_epoch)
WHERE device_no = $1 AND campaign_no = $2 AND action_id = $3 AND changed_at <= $5"""
MANY = """UPDATE assignment a SET state = u.state, progress = u.state, changed_at = u.at, started_at = coalesce(a.started_at, u.at),
    first_started_at = coalesce(a.first_started_at, u.at), first_started_epoch = coalesce(a.first_started_epoch, a.gate_epoch)
FROM unnest($1::int[], $2::int[], $3::bigint[], $4::text[], $5::bigint[]) u(device_no, campaign_no, action_id, state, at)
WHERE a.device_no = u.device_no AND a.campaign_no = u.campaign_no AND a.action_id = u.action_id AND a.changed_at <= u.at"""


class Event(faust.Record, serializer="json"):
    id: str
    source: str
    type: str
    subject: str
    device_no: int
    recorded_at: int
    data: dict[str, Any]


class _Thread(base.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        settings = FetchSettings()
        consumer._fetch_min_bytes = settings.min_bytes
        consumer._fetch_max_bytes = settings.max_bytes
        consumer._fetch_max_wait_ms = settings.wait_ms
        return consumer


class _Consumer(base.Consumer):
    def _new_consumer_thread(self) -> Any:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class _Transport(base.Transport):
    Consumer = _Consumer


def row(event: Event) -> tuple[int, int, int, str, int]:
    state = d.UPDATE_STATES[event.type]
    return event.device_no, 1, event.data["action_id"], state, event.recorded_at


def main(mode: str, bootstrap: str, topic_name: str, url: str, folder: Path) -> None:
    uvloop.install()  # as the projector does
    broker = f"kafka://{bootstrap}"
    app = faust.App(
        f"vanilla-{mode}-{time.time_ns()}",
        broker=broker,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4 << 20,
        broker_max_poll_records=FetchSettings().max_records,
        broker_session_timeout=10.0,
        broker_heartbeat_interval=1.0,
        stream_buffer_maxsize=4_096,
        stream_wait_empty=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        reply_create_topic=False,
        producer_threaded=False,
        web_enabled=False,
        datadir=str(folder),
    )
    app.transport = _Transport([URL(broker)], app)
    topic = app.topic(topic_name, key_type=bytes, value_type=Event)
    count = folder / "count"
    count.write_bytes(bytes(8))
    written = 0
    with count.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 8)

        def add(events: int) -> None:
            nonlocal written
            written += events
            shared[:] = written.to_bytes(8, "little")

        async def taking(stream: Any) -> None:
            conn = await asyncpg.connect(url, server_settings=_HOT_PLANS)
            async for events in stream.take(TAKE, within=WITHIN):
                latest = {event.device_no: row(event) for event in events}
                columns = zip(*(latest[device] for device in sorted(latest)), strict=True)
                await conn.execute(MANY, *map(list, columns))
                add(len(events))

        async def one_by_one(stream: Any) -> None:
            conn = await asyncpg.connect(url, server_settings=_HOT_PLANS)
            async for event in stream:
                await conn.execute(ONE, *row(event))
                add(1)

        app.agent(topic)(taking if mode == "take" else one_by_one)
        faust.Worker(app, loglevel="error", quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], Path(sys.argv[5]))
