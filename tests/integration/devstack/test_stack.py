import asyncio
import io
import os
import subprocess
import sys
import textwrap
import time

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from rich.console import Console

from orchestrator.devstack import commands, temporal
from orchestrator.devstack.process import ComponentError
from orchestrator.devstack.stack import DevStack, UnknownComponentError


def states(stack):
    return {status.name: status.state for status in stack.status()}


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def in_another_process(script, **values):
    source = "from pathlib import Path\nfrom orchestrator.devstack.stack import DevStack\n" + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", source.format(**{name: repr(str(value)) for name, value in values.items()})],
        env={name: value for name, value in os.environ.items() if not name.startswith("OTA_")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_three_serve_at_the_addresses_in_the_environment(own_stack):
    assert states(own_stack) == {"postgres": "running", "kafka": "running", "temporal": "running"}
    assert own_stack.env().keys() == {"OTA_DATABASE_URL", "OTA_KAFKA_BOOTSTRAP", "OTA_TEMPORAL_ADDRESS"}
    assert {status.address for status in own_stack.status()} == set(own_stack.env().values())


async def test_postgres_is_durable_and_lets_nobody_in_without_the_password(own_stack):
    url = own_stack.env()["OTA_DATABASE_URL"]
    connection = await asyncpg.connect(url)
    names = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "jit", "TimeZone")
    assert [await connection.fetchval("SELECT current_setting($1)", name) for name in names] == [
        *("on", "on", "on", "512MB", "off", "UTC")
    ]
    assert await connection.fetchval("SELECT current_database() || ' ' || current_user") == "ota ota"
    await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url, password="guessed")


async def test_a_killed_database_comes_back_with_every_committed_row(own_stack):
    url = own_stack.env()["OTA_DATABASE_URL"]
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
    before = own_stack.pids()["postgres"]
    await asyncio.to_thread(own_stack.kill, "postgres")
    assert await asyncio.to_thread(states, own_stack) == {
        "postgres": "stopped",
        "kafka": "running",
        "temporal": "running",
    }
    connection.terminate()

    await asyncio.to_thread(own_stack.restart, "postgres")

    assert own_stack.env()["OTA_DATABASE_URL"] == url
    assert own_stack.pids()["postgres"] != before
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT n FROM kept") == 7
    await connection.execute("DROP TABLE kept")
    await connection.close()


async def test_a_killed_broker_comes_back_with_every_acknowledged_record(own_stack):
    bootstrap = own_stack.env()["OTA_KAFKA_BOOTSTRAP"]
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic("kept", 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    await producer.send_and_wait("kept", b"seven")
    await producer.stop()

    await asyncio.to_thread(own_stack.kill, "kafka")
    assert (await asyncio.to_thread(states, own_stack))["kafka"] == "stopped"
    await asyncio.to_thread(own_stack.restart, "kafka")

    assert own_stack.env()["OTA_KAFKA_BOOTSTRAP"] == bootstrap
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition("kept", 0)])
    record = await asyncio.wait_for(consumer.getone(), 20)
    await consumer.stop()
    assert record.value == b"seven"


def test_temporal_is_restarted_in_order_and_knows_the_search_attributes(own_stack):
    address = own_stack.env()["OTA_TEMPORAL_ADDRESS"]
    said = []
    own_stack.restart("temporal", lambda name, line: said.append(f"{name} {line}"))
    assert [line for line in said if line.startswith("temporal stopped")]
    assert own_stack.env()["OTA_TEMPORAL_ADDRESS"] == address
    listed = subprocess.run(
        [temporal._program(), "operator", "search-attribute", "list", "--address", address],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert set(temporal.SEARCH_ATTRIBUTES) <= set(listed.split())


def test_up_leaves_alone_what_already_runs(own_stack):
    before = own_stack.pids()
    own_stack.up()
    assert own_stack.pids() == before


def test_another_process_sees_the_stack_and_shows_no_password(own_stack):
    console = Console(width=200, file=io.StringIO())
    assert commands.status(own_stack.state_dir, console=console)
    shown = console.file.getvalue()
    password = own_stack.env()["OTA_DATABASE_URL"].split(":")[2].split("@")[0]
    assert password not in shown
    assert all(str(pid) in shown for pid in own_stack.pids().values())


def test_servers_of_the_callers_choice_are_used_and_never_stopped(own_stack, tmp_path):
    stack = DevStack(tmp_path, environ=own_stack.env())
    with stack:
        assert set(states(stack).values()) == {"external"}
        assert stack.env() == own_stack.env()
        assert stack.pids() == {}
        with pytest.raises(UnknownComponentError):
            stack.kill("postgres")
    assert set(states(own_stack).values()) == {"running"}


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("OTA_DATABASE_URL", "postgresql://ota@127.0.0.1:1/ota"),
        ("OTA_KAFKA_BOOTSTRAP", "127.0.0.1:1"),
        ("OTA_TEMPORAL_ADDRESS", "127.0.0.1:1"),
    ],
)
def test_a_dead_server_of_the_callers_choice_is_named_by_its_variable(own_stack, tmp_path, variable, address):
    stack = DevStack(tmp_path, environ={**own_stack.env(), variable: address})
    with pytest.raises(ComponentError, match=variable):
        stack.up()


def test_if_one_component_fails_the_others_are_stopped_and_its_log_is_shown(tmp_path, monkeypatch):
    broken = tmp_path / "temporal"
    broken.write_text("#!/bin/sh\necho the disk is on fire\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("OTA_TEMPORAL_BIN", str(broken))
    stack = DevStack(tmp_path / "state", kafka=False, environ={})
    with pytest.raises(ComponentError, match="the disk is on fire"):
        stack.up()
    assert stack.pids() == {}
    assert set(states(stack).values()) == {"stopped"}


def test_a_stack_outlives_its_starter_and_is_stopped_from_elsewhere(own_stack, tmp_path):
    in_another_process("DevStack(Path({state}), kafka=False, detach=True).up()", state=tmp_path)
    here = DevStack(tmp_path, kafka=False, environ={})
    assert set(states(here).values()) == {"running"}
    pids = here.pids().values()

    in_another_process("DevStack(Path({state})).down()", state=tmp_path)

    assert all(gone(pid) for pid in pids)
    assert set(states(here).values()) == {"stopped"}
    assert set(states(own_stack).values()) == {"running"}


def test_data_and_addresses_outlast_down_and_up(tmp_path):
    stack = DevStack(tmp_path, kafka=False, temporal=False, environ={})
    with stack:
        first = stack.env()
        asyncio.run(_execute(first["OTA_DATABASE_URL"], "CREATE TABLE kept (n int)"))
    with stack:
        assert stack.env() == first
        asyncio.run(_execute(first["OTA_DATABASE_URL"], "SELECT n FROM kept"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent has died")
def test_an_attached_stack_ends_with_its_killed_starter(tmp_path):
    script = f"""
        import time
        from pathlib import Path
        from orchestrator.devstack.stack import DevStack
        stack = DevStack(Path({str(tmp_path)!r}), kafka=False, environ={{}})
        stack.up()
        print(*stack.pids().values(), flush=True)
        time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout
        pids = [int(word) for word in starter.stdout.readline().split()]
        assert len(pids) == 2
        starter.kill()
    eventually(lambda: all(gone(pid) for pid in pids))


async def _execute(url, statement):
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
