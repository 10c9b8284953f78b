"""One Apache Kafka broker in KRaft mode: a single JVM that is broker and controller, without ZooKeeper or a container.

It keeps every record for ever and never creates a topic by itself, like the clusters the product is meant for. Kafka
does not fsync: a killed broker loses nothing, a power cut on this single node may.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import struct
import uuid
from pathlib import Path

from orchestrator.devstack.component import Say
from orchestrator.devstack.kafka_jars import class_archive, class_path, ensure_jars, find_java, publish_archive
from orchestrator.devstack.ports import HOST, KeptPorts
from orchestrator.devstack.process import Command, run

KIB = 1024
MIB = 1024 * KIB

#: Seconds for formatting a data folder, which takes 0.6 s on an idle machine.
FORMAT_TIMEOUT = 60.0
#: Seconds until one probe of the broker counts as "no".
PROBE_TIMEOUT = 0.5

#: Broker settings and why they differ from the defaults.
SETTINGS: dict[str, str | int] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # One node: three replicas could never be satisfied, and 50 partitions are 50 folders with mapped index files.
    "default.replication.factor": 1,
    "min.insync.replicas": 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    # A misspelt topic must fail; clients ask for creation in passing.
    "auto.create.topics.enable": "false",
    "num.partitions": 4,
    # 3 s for each empty group otherwise.
    "group.initial.rebalance.delay.ms": 0,
    # Tests use shorter sessions than the default minimum of 6 s.
    "group.min.session.timeout.ms": 2_000,
    # The log is the truth: nothing is deleted unless a topic says so, also when a laptop sleeps for weeks (10 years).
    "log.retention.ms": -1,
    "offsets.retention.minutes": 10 * 365 * 24 * 60,
    # Disk and heap for a laptop: index files of 10 MiB per segment and a cleaner buffer of 128 MiB heap otherwise.
    "log.segment.bytes": 64 * MIB,
    "log.index.size.max.bytes": 256 * KIB,
    "log.cleaner.dedupe.buffer.size": 8 * MIB,
    "log.cleaner.io.buffer.size": 64 * KIB,
    "metadata.log.segment.bytes": 8 * MIB,
    "metadata.max.idle.interval.ms": 5_000,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
    "num.recovery.threads.per.data.dir": 2,
    "group.coordinator.threads": 1,
    "group.coordinator.background.threads": 1,
    "log.initial.task.delay.ms": 30_000,
    # An election with one voter has nothing to wait for.
    "controller.quorum.election.timeout.ms": 200,
    "controller.quorum.election.backoff.max.ms": 200,
    "controller.quorum.fetch.timeout.ms": 500,
    # A restart after a kill waits this long (default 9 s): until then the old registration keeps the new broker out.
    "broker.session.timeout.ms": 3_000,
    "broker.heartbeat.interval.ms": 500,
    "initial.broker.registration.timeout.ms": 30_000,
}

_QUIET = ("-Dlog4j2.StatusLogger.level=OFF", "-Dorg.slf4j.simpleLogger.showDateTime=true")
# The first compiler only and the small collector: a third of the CPU and half the memory of the stock start.
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true", *_QUIET)
_BROKER_JVM = (
    *("-Xms128m", "-Xmx256m", "-XX:MaxMetaspaceSize=128m", "-XX:+ExitOnOutOfMemoryError", "-Xshare:auto"),
    *("-Djava.net.preferIPv4Stack=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"),
)
_FORMAT_JVM = ("-Xmx64m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error")


class Kafka:
    """One broker with its data in ``folder``."""

    name = "kafka"
    variable = "OTA_KAFKA_BOOTSTRAP"
    start_timeout = 60.0
    stop_signal = signal.SIGTERM
    stop_timeout = 20.0

    def __init__(self, folder: Path, log: Path) -> None:
        self.log = log
        self._folder = folder
        self._data = folder / "data"
        self._config = folder / "server.properties"
        # Written by a broker that ends for the first time; becomes everybody's archive once it is complete.
        self._new_archive = folder / "classes.jsa"
        self._ports = KeptPorts(folder / "ports", 2)

    @property
    def address(self) -> str:
        return f"{HOST}:{self._ports.read()[0]}"

    def prepare(self, say: Say) -> None:
        find_java()
        ensure_jars(say)
        self._folder.mkdir(parents=True, exist_ok=True)
        port, controller_port = self._ports.claim()
        settings = {
            **SETTINGS,
            "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
            "controller.quorum.voters": f"{SETTINGS['node.id']}@{HOST}:{controller_port}",
            "log.dirs": self._data,
        }
        lines = "".join(f"{name}={value}\n" for name, value in settings.items())
        self._config.write_text(lines, encoding="utf-8")
        # A broker that was killed while writing it left half an archive.
        self._new_archive.unlink(missing_ok=True)
        if not (self._data / "meta.properties").exists():
            say("formatting the data folder")
            run(self._format(), timeout=FORMAT_TIMEOUT)

    def command(self) -> Command:
        java, version = find_java()
        archive = class_archive(ensure_jars(_say_nothing), version)
        # Java 17 cannot keep the archive up to date by itself, so the first broker that ends in order writes it.
        read, write = f"-XX:SharedArchiveFile={archive}", f"-XX:ArchiveClassesAtExit={self._new_archive}"
        options = (*_BROKER_JVM, read if archive.exists() else write)
        return self._java(java, "Kafka", options, "kafka.Kafka", str(self._config))

    def ready(self) -> bool:
        return reachable(self.address)

    def ended(self) -> None:
        if self._new_archive.exists():
            _, version = find_java()
            publish_archive(self._new_archive, class_archive(ensure_jars(_say_nothing), version))

    def _format(self) -> Command:
        java, _ = find_java()
        # The tool takes a leading "-" for an option, and one random id in 64 has it.
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        arguments = ("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(self._config))
        return self._java(java, "Kafka's format tool", _FORMAT_JVM, *arguments)

    def _java(self, java: str, name: str, options: tuple[str, ...], *arguments: str) -> Command:
        jars = ensure_jars(_say_nothing)
        return Command(
            name=name,
            argv=(java, *_JVM, *options, "-cp", class_path(jars), *arguments),
            log=self.log,
            env=dict(os.environ),
            cwd=self._folder,
        )


def reachable(bootstrap: str) -> bool:
    """Whether one of the brokers in ``host:port[,host:port...]`` answers; without TLS."""
    return any(_answers(server.strip()) for server in bootstrap.split(","))


def _answers(server: str) -> bool:
    # ApiVersions, version 0: the only request that every broker answers to everybody. A broker that is starting accepts
    # connections, but answers none before it is registered. Format: https://kafka.apache.org/protocol#protocol_messages
    host, _, port = server.rpartition(":")
    client = b"up"
    body = struct.pack(">hhih", 18, 0, 7, len(client)) + client
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT) as connection:
            connection.settimeout(PROBE_TIMEOUT)
            connection.sendall(struct.pack(">i", len(body)) + body)
            return len(connection.recv(8)) == 8
    except (OSError, ValueError):
        return False


def _say_nothing(line: str) -> None:
    del line
