from __future__ import annotations

import pytest

from tests.bench.common import (
    ProcessTimes,
    machine_seconds,
    parse_stat,
    per_unit,
    percentile,
    ratio,
    stride,
    tree_seconds,
)
from tests.bench.load import action_of
from tests.bench.profiled import step_of


def test_a_percentile_is_a_value_that_was_seen():
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile(values, 1.0) == 100
    assert percentile([7.0], 0.01) == 7


def test_the_99th_percentile_of_a_few_values_is_the_largest():
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.5)])
def test_a_percentile_of_nothing_is_refused(values, share):
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, share)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 64, 5_000, 100_000, 1_000_000])
def test_a_stride_visits_every_place_once(count):
    step = stride(count)
    assert len({number * step % count for number in range(count)}) == count


def test_neighbours_in_the_log_are_far_apart_in_the_tables():
    assert 500 < stride(1_000) < 700


def test_cpu_of_a_process_counts_what_it_has_reaped_and_survives_odd_names():
    line = "42 (post (gres) 7) S 17 42 42 0 -1 4194560 1 2 3 4 100 50 30 20 20 0 1 0 99 1 1"
    times = parse_stat(line)
    assert times.parent == 17
    assert times.seconds == pytest.approx(2.0)  # 200 ticks of 10 ms


def test_cpu_of_a_tree_is_that_of_all_its_descendants_and_of_nobody_else():
    found = {
        1: ProcessTimes(0, 100.0),
        10: ProcessTimes(1, 1.0),
        11: ProcessTimes(10, 2.0),
        12: ProcessTimes(11, 4.0),
        20: ProcessTimes(1, 8.0),
    }
    assert tree_seconds(10, found) == 7.0
    assert tree_seconds(99, found) == 0.0


def test_what_the_machine_used_leaves_out_idling_and_waiting_for_disks():
    used, there_was = machine_seconds("cpu  100 20 30 800 50 5 6 7 99 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert (used, there_was) == (pytest.approx(1.68), pytest.approx(10.18))


def test_cpu_per_unit_adds_up():
    assert per_unit({"gateway": 0.5, "kafka": 1.5}, 1_000) == {"gateway": 500.0, "kafka": 1500.0, "all": 2000.0}


def test_nothing_is_a_multiple_of_nothing():
    assert ratio(10, 4) == 2.5
    assert ratio(10, 0) is None


def test_a_poll_names_the_action_of_its_link():
    link = b'{"_links":{"deploymentBase":{"href":"http://g/default/controller/v1/d/deploymentBase/1000001?c=7"}}}'
    assert action_of(link) == 1_000_001
    assert action_of(b'{"config":{}}') is None


@pytest.mark.parametrize(
    ("frames", "step"),
    [
        ([("/v/uvloop/__init__.py", "run"), ("/r/tests/bench/profiled.py", "main")], "driver"),
        ([("/lib/json.py", "loads"), ("/v/uvloop/__init__.py", "run")], "other"),
        ([("/r/orchestrator/adapters/sql/rows.py", "lock")], "read"),
        ([("/v/asyncpg/connection.py", "fetch"), ("/r/orchestrator/adapters/sql/rows.py", "lock")], "driver"),
        ([("/r/schemas/x.py", "f"), ("/r/orchestrator/adapters/sql/fact_batch.py", "read_batch")], "decode"),
        ([("/v/aiokafka/consumer/fetcher.py", "getone")], "fetch"),
        ([("/lib/json.py", "loads")], "other"),
    ],
)
def test_the_innermost_frame_that_is_known_says_what_a_stack_is_doing(frames, step):
    assert step_of("projector", frames) == step
