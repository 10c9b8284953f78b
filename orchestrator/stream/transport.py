"""Faust transport in which one Faust event is one fetched partition batch, and the database owns the read position.

Overrides private hooks of faust-streaming 0.15.3 and aiokafka 0.14.0, which are pinned exactly;
``tests/contract/test_faust_hooks.py`` fails when one of them changes underneath. Why each exists:

- ``_getmany``, ``_to_message`` and :class:`BatchSchema` carry a whole batch through Faust, which costs 60 µs an event otherwise.
- ``_getmany`` also outwaits ``NoOffsetForPartitionError``: Faust may fetch from a partition that it was just given before it has
  sought, and without a committed offset there is nowhere to fetch from yet. ``OffsetOutOfRangeError`` still ends the process.
- ``seek_to_committed`` claims positions from the database and checks them against the log; Faust calls it twice per rebalance.
- ``_add_gap``, ``_new_offset``: Faust keeps account of single offsets, in a tree where it saw no message: all but one of
  each batch here. What it commits serves nobody but who looks at the group's lag, so the last acknowledged offset will do.
- ``wait_first``: Faust makes four tasks per message, so that a rebalance can wake who waits for room. With room nobody waits.
- ``sleep``: Faust sleeps a whole second when back-pressure has paused every partition.
- ``auto_offset_reset='none'``: with ``earliest`` a log that lost unread events is skipped without a sign.
"""

# Faust's own annotations do not know that an app has more than its base class, nor that a value may be an object.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import faust
from aiokafka.errors import NoOffsetForPartitionError
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as base
from faust.types import TP, ConsumerMessage

from orchestrator.adapters.sql.facts import Delivery

_NOTHING = 2**63
"""Predecessor of a batch that was fetched before any claim: it follows no position, so it can never be applied."""


class Claimer(Protocol):
    """Owns the positions."""

    async def claim(self, bounds: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        """Take over partitions, given log start and end of each; returns where to read from."""
        ...


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """Broker-side waiting: Faust hard-codes 1 byte and 1,500 ms, which makes a batch a record at low rates."""

    min_bytes: int = 65_536
    wait_ms: int = 25
    max_bytes: int = 16 << 20
    """Most bytes of an answer: aiokafka keeps one that is being read and the next one."""
    max_records: int = 1_000
    """Most records taken over at once; while catching up all of them may be of one partition."""


class BatchApp(faust.App):
    """A Faust app with what the transport needs."""

    claimer: Claimer
    fetch_settings: FetchSettings
    inlet: Any = None
    """Queue of the agent's stream, once it runs."""


class _Thread(base.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        settings: FetchSettings = self.app.fetch_settings
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        consumer._fetch_min_bytes = settings.min_bytes  # noqa: SLF001
        consumer._fetch_max_bytes = settings.max_bytes  # noqa: SLF001
        consumer._fetch_max_wait_ms = settings.wait_ms  # noqa: SLF001
        return consumer


class BatchConsumer(base.Consumer):
    """Delivers ``Delivery`` objects in the order of the log, chained from the claimed position."""

    consumer_thread_class = _Thread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._chain: dict[TP, int] = {}

    def _new_consumer_thread(self) -> Any:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        try:
            fetched = await super()._getmany(active_partitions, timeout)
        except NoOffsetForPartitionError:
            return {}  # raised only when nothing was fetched, so no record is dropped with it
        batches: dict[TP, list[Delivery]] = {}
        for key, records in fetched.items():
            if not records:
                continue
            tp = ensure_TP(key)
            previous = self._chain.get(tp, _NOTHING)
            batch = Delivery(partition=tp.partition, records=records, previous=previous)
            self._chain[tp] = batch.next_offset
            batches[tp] = [batch]
        return batches

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        batch: Delivery = record
        last: Any = batch.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000.0,
            last.timestamp_type,
            (),
            None,
            batch,
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        pass

    def _new_offset(self, tp: TP) -> int | None:
        acked = self._acked[tp]
        if not acked:
            return None
        last = max(acked)
        acked.clear()
        self._acked_index[tp].clear()
        return last + 1

    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:
        inlet = self.app.inlet
        if inlet is None or inlet.full() or not self.app.flow_control.is_active():
            return await super().wait_first(*coros, timeout=timeout)
        handing_in, woken = coros
        woken.close()
        await handing_in
        return None

    async def sleep(self, n: float) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        await super().sleep(0.005 if n == 1 else n)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        assigned = sorted(self.assignment())
        if not assigned:
            return {}
        starts = await self.earliest_offsets(*assigned)
        ends = await self.highwaters(*assigned)
        bounds = {tp.partition: (starts[tp] or 0, ends[tp] or 0) for tp in assigned}
        claimed = await self.app.claimer.claim(bounds)
        sought = {tp: claimed[tp.partition] for tp in assigned}
        await self.seek_wait(sought)
        self._chain = dict(sought)
        return sought


class BatchTransport(base.Transport):
    Consumer = BatchConsumer


class BatchSchema(faust.Schema):
    """Passes the batch through undecoded."""

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        app: Any,
        *,
        on_key_decode_error: Any = None,  # noqa: ARG002
        on_value_decode_error: Any = None,  # noqa: ARG002
        default_propagate: bool = False,  # noqa: ARG002
    ) -> Callable[..., Awaitable[Any]]:
        create = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG001
            return create(None, message.value, {}, message)

        return decode
