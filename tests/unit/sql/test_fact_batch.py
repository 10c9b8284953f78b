"""Reading a record in one pass gives what reading it step by step gives."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.adapters.sql import fact_batch
from orchestrator.adapters.sql.actions import ActionRange, ActionRanges
from schemas import device_events as d

DEVICE, ACTION = 7, 1_000

GOOD: dict[str, Any] = {
    "id": "e",
    "source": "/gateway",
    "type": d.CONFIRMED,
    "subject": "dev-7",
    "device_no": DEVICE,
    "recorded_at": 5,
    "data": {"action_id": ACTION},
}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 2**54)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "a\0b", "x" * 70]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=3,
)
reports = st.fixed_dictionaries(
    {},
    optional={
        "action_id": st.sampled_from([ACTION, ACTION + 1, 0, 5, 2**40]) | values,
        "class": st.sampled_from(["boot", "transport"]) | values,
        "reason": values,
        "detail": values,
        "other": values,
    },
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "id": values,
        "type": st.sampled_from([*sorted(d.TYPES), "device.update.exploded"]) | values,
        "device_no": st.sampled_from([DEVICE, 8, 0, 2**40]) | values,
        "recorded_at": st.sampled_from([0, 1, 2**60]) | values,
        "v": st.sampled_from([1, 2]) | values,
        "time": values,
        "source": values,
        "specversion": values,
        "data": reports | values,
    },
)


@dataclass(frozen=True)
class LogRecord:
    value: bytes | None
    offset: int = 3
    key: bytes | None = b"k"
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int = 1


class Known(ActionRanges):
    """Two devices got an offer; the ledger has no other."""

    def known(self, action_id: int) -> ActionRange | None:
        given = ActionRange(ACTION, 1, 1, 1, array("i", [DEVICE, 8]))
        return given if given.device(action_id) is not None else None

    async def find(self, conn: Any, action_id: int) -> ActionRange | None:
        del conn
        return self.known(action_id)


async def read(value: bytes | None) -> fact_batch.FactBatch:
    conn: Any = None
    return await fact_batch.read_batch(conn, Known(), "t", {0: [LogRecord(value)]}, 9)


async def agree(value: bytes | None) -> None:
    whole = await read(value)
    one_pass, fact_batch._update = fact_batch._update, lambda _: None
    try:
        assert await read(value) == whole
    finally:
        fact_batch._update = one_pass


@given(changes, st.sets(st.sampled_from(sorted(GOOD)), max_size=1))
@example({}, set())
async def test_any_change_to_a_sound_event_is_read_alike_both_ways(change, without):
    event = {key: value for key, value in {**GOOD, **change}.items() if key not in without}
    await agree(msgspec.json.encode(event))


@given(st.data())
async def test_damaged_bytes_are_read_alike_both_ways(data):
    sound = msgspec.json.encode(GOOD)
    at = data.draw(st.integers(0, len(sound)))
    await agree(sound[:at] + data.draw(st.binary(max_size=3)) + sound[at + data.draw(st.integers(0, 3)) :])


async def test_no_value_and_too_large_a_value_are_read_alike_both_ways():
    await agree(None)
    await agree(b" " * fact_batch.MAX_RECORD + msgspec.json.encode(GOOD))


async def test_a_sound_event_is_read_in_one_pass_into_a_fact_and_its_line_of_the_timeline():
    batch = await read(msgspec.json.encode(GOOD))
    assert [seen.observation.state for seen in batch.seen[DEVICE, 1]] == ["confirmed"]
    assert batch.timeline == [(0, 3, DEVICE, 1, 1, "e", d.CONFIRMED, 5, None, None, None, None, None, None)]
    assert not batch.dead
