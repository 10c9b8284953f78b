"""What a damaged log is, and what it says about the way out."""

from __future__ import annotations

import pytest

from orchestrator.domain.log_loss import (
    Bookmark,
    LogDamageError,
    LogIdentity,
    LogState,
    LossKind,
    find_loss,
    find_losses,
)

TOPIC = "ota.device-events.v1"
NOW = LogIdentity(cluster_id="cluster", topic_id="now")
BEFORE = LogIdentity(cluster_id="cluster", topic_id="before")


def found(next_offset: int, bounds: tuple[int, int], identity: LogIdentity = NOW):
    return find_loss(TOPIC, 0, Bookmark(identity, next_offset), LogState(NOW, {0: bounds}))


@pytest.mark.parametrize("bounds", [(0, 10), (0, 12), (10, 10), (10, 12)])
def test_nothing_is_lost_while_the_log_holds_the_next_fact_or_ends_before_it(bounds):
    assert found(10, bounds) is None


@pytest.mark.parametrize(
    ("bounds", "identity", "kind", "end"),
    [
        ((11, 20), NOW, LossKind.FORGOTTEN, 11),
        ((20, 20), NOW, LossKind.FORGOTTEN, 20),
        ((0, 9), NOW, LossKind.REWOUND, 9),
        ((0, 0), BEFORE, LossKind.RECREATED, 0),
        ((3, 40), BEFORE, LossKind.RECREATED, 3),
        ((0, 40), LogIdentity(cluster_id="other", topic_id="now"), LossKind.RECREATED, 0),
    ],
)
def test_what_is_lost_and_where_reading_can_go_on(bounds, identity, kind, end):
    loss = found(10, bounds, identity)
    assert loss is not None
    assert (loss.kind, loss.start, loss.end) == (kind, 10, end)
    assert f"--topic {TOPIC} --partition 0 --from 10 --to {end} " in loss.command


def test_each_kind_says_what_is_wrong():
    said = [str(found(10, bounds, identity)) for bounds, identity in (((11, 20), NOW), ((0, 9), NOW), ((0, 9), BEFORE))]
    assert said == [
        f"{TOPIC}/0: the log starts at 11, unread events begin at 10.",
        f"{TOPIC}/0: the log ends at 9, the position is 10.",
        f"{TOPIC}/0: the position 10 belongs to topic id before of cluster cluster, the broker has now of cluster.",
    ]


def test_a_partition_that_was_never_read_must_begin_at_offset_0():
    log = LogState(NOW, {0: (0, 5), 1: (2, 5)})
    (loss,) = find_losses(TOPIC, {}, log)
    assert (loss.partition, loss.kind, loss.start, loss.end) == (1, LossKind.FORGOTTEN, 0, 2)


def test_an_error_names_the_first_losses_with_their_commands_and_counts_the_others():
    log = LogState(NOW, dict.fromkeys(range(5), (0, 0)))
    losses = find_losses(TOPIC, dict.fromkeys(range(5), Bookmark(BEFORE, 7)), log)
    error = LogDamageError.of(losses)
    assert [f"{TOPIC}/{p}:" in error.detail for p in range(5)] == [True, True, True, False, False]
    assert "in 2 more partitions" in error.detail
    assert [loss.command in error.remedy for loss in losses] == [True, True, True, False, False]
    assert "ota projection status" in error.remedy
    few = LogDamageError.of(losses[:1])
    assert "more" not in few.detail
    assert "status" not in few.remedy
