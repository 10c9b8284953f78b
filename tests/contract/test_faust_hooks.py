"""The hooks of Faust and aiokafka that the batch transport overrides are the ones it was written against.

After an upgrade read the new source of a hook, change the override or find that it still fits, and only then change the digest.
"""

from __future__ import annotations

import inspect
from hashlib import sha256
from importlib.metadata import version

import faust
import pytest
from aiokafka import AIOKafkaConsumer
from faust.transport.drivers import aiokafka as driver

from orchestrator.stream import transport

HOOKS = {
    (driver.Consumer, "_getmany"): "f9d47aa9010b5ff2",
    (driver.Consumer, "_to_message"): "7c24f6511b2fcef7",
    (driver.Consumer, "_new_consumer_thread"): "0870ec53dea75083",
    (driver.Consumer, "_add_gap"): "4df2573ded7c1c2c",
    (driver.Consumer, "_new_offset"): "1d2c7ea89a7ad4f1",
    (driver.Consumer, "wait_first"): "feade6a31f8a6789",
    (driver.Consumer, "_drain_messages"): "44a2500309e83c63",
    (driver.Consumer, "seek_to_committed"): "f1d483b861b0328b",
    (driver.Consumer, "perform_seek"): "0e8c130ff4b0afd8",
    (driver.AIOKafkaConsumerThread, "_create_worker_consumer"): "c2701bfc3e6f6cad",
    (faust.Schema, "compile"): "d46eec5ce3195b2c",
}


def test_the_pinned_versions_are_installed():
    assert (version("faust-streaming"), version("aiokafka")) == ("0.15.3", "0.14.0")


@pytest.mark.parametrize(("hook", "digest"), HOOKS.items(), ids=[name for _, name in HOOKS])
def test_a_hook_is_the_one_that_was_read(hook, digest):
    owner, name = hook
    assert sha256(inspect.getsource(getattr(owner, name)).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    "name",
    [
        "_getmany",
        "_to_message",
        "_new_consumer_thread",
        "_add_gap",
        "_new_offset",
        "wait_first",
        "seek_to_committed",
        "sleep",
    ],
)
def test_the_transport_overrides_what_faust_calls(name):
    assert name in vars(transport.BatchConsumer)
    assert callable(getattr(driver.Consumer, name))


async def test_the_consumers_settings_that_faust_does_not_pass_on_are_where_they_are_set():
    consumer = AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")
    assert {"_isolation_level", "_fetch_min_bytes", "_fetch_max_bytes", "_fetch_max_wait_ms"} <= vars(consumer).keys()
    await consumer.stop()
