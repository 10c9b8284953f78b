"""The topics, declared once, and the command that makes a cluster have them.

They are created here and nowhere else: the partition count of a keyed topic is for life (a device's facts stay in one
partition), so a topic with another count is refused, never repaired. What is truth is kept for ever, and a topic that would
forget is refused too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from orchestrator.adapters.kafka.topic_ids import TopicIdentity, topic_ids
from orchestrator.errors import ConflictError, UnavailableError

REPLICAS: Final = 3
"""Copies of each record where the cluster has as many brokers."""

REQUEST_TIMEOUT_MS: Final = 15_000
"""For each request to the brokers: creating 64 partitions takes a loaded broker about a second."""

LEADER_TIMEOUT: Final = 30.0
"""Seconds until every partition must have a leader; a broker answers the creation before that, and produces fail until then."""

LEADER_POLL: Final = 0.05
"""Seconds between two looks."""

_log = structlog.get_logger(__name__)


class TopicMismatchError(ConflictError):
    """A topic exists, but not as declared."""

    code = "kafka.topic_mismatch"
    remedy = "Use another OTA_TOPIC_PREFIX, or move the records to a topic as declared; it is never changed in place."


class TopicRefusedError(ConflictError):
    """The cluster refused to create a topic."""

    code = "kafka.topic_refused"
    remedy = "Look at the broker's reason; usually the principal may not create topics."


_KEPT: Final = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "compression.type": "producer",
    "message.timestamp.type": "CreateTime",
    "unclean.leader.election.enable": "false",
}
"""Nothing is deleted, and no record that was acknowledged is given up for availability."""

_GUARDED: Final = ("cleanup.policy", "retention.ms", "retention.bytes", "unclean.leader.election.enable")
"""What an existing topic is checked for: with other values it loses records. The rest is the operator's to tune."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A declared topic; ``name`` is without the deployment's prefix."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=lambda: _KEPT)


DEVICE_EVENTS: Final = Topic("ota.device-events.v1", 64)
"""Facts that devices state, keyed by device id."""

CAMPAIGN_EVENTS: Final = Topic("ota.campaign-events.v1", 8)
"""The published copy of ``event_log``, keyed by stream."""

DEAD_LETTERS: Final = Topic("ota.dead-letter.v1", 8)
"""The published copy of ``dead_letter``."""

TOPICS: Final = (DEVICE_EVENTS, CAMPAIGN_EVENTS, DEAD_LETTERS)


@dataclass(frozen=True, slots=True)
class Applied:
    """What ``apply`` found and did; names are full names."""

    cluster_id: str
    replicas: int
    created: tuple[str, ...]
    present: tuple[str, ...]


async def apply(bootstrap: str, prefix: str = "", topics: Sequence[Topic] = TOPICS) -> Applied:
    """Create the topics that are missing, check those that are there, and return when all can be written to.

    Args:
        bootstrap: ``host:port[,host:port…]`` of the brokers.
        prefix: put before every name.
        topics: what to have.

    Raises:
        TopicMismatchError: a topic exists with other partitions, or with a configuration that loses records.
        TopicRefusedError: the cluster does not let us create one.
        UnavailableError: the brokers do not answer, or a partition gets no leader.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        await admin.start()
        return await _apply(admin, {prefix + topic.name: topic for topic in topics})
    except (KafkaError, OSError, TimeoutError) as error:
        raise UnavailableError(f"Kafka at {bootstrap} does not answer: {error!r}.") from error
    finally:
        await admin.close()


async def _apply(admin: AIOKafkaAdminClient, wanted: Mapping[str, Topic]) -> Applied:
    client = admin._client  # noqa: SLF001 (aiokafka is pinned; a contract test covers this)
    cluster_id, found = await topic_ids(client, list(wanted))
    brokers = len(client.cluster.brokers())
    replicas = max(1, min(REPLICAS, brokers))
    missing = [name for name in wanted if name not in found]
    await _create(admin, {name: wanted[name] for name in missing}, replicas)
    found = await _led(admin, list(wanted))
    for name, topic in wanted.items():
        if found[name].partitions != topic.partitions:
            raise TopicMismatchError(
                f"{name} has {found[name].partitions} partitions, declared are {topic.partitions}."
            )
    await _check_configs(admin, wanted)
    present = tuple(name for name in wanted if name not in missing)
    _log.info("kafka.topics_applied", created=missing, present=present, replicas=replicas, cluster_id=cluster_id)
    return Applied(cluster_id, replicas, tuple(missing), present)


async def _create(admin: AIOKafkaAdminClient, topics: Mapping[str, Topic], replicas: int) -> None:
    if not topics:
        return
    # One copy may be down while writes go on; with a single broker there is no copy to spare.
    min_isr = str(max(1, replicas - 1))
    new = [
        NewTopic(name, topic.partitions, replicas, topic_configs={**topic.config, "min.insync.replicas": min_isr})
        for name, topic in topics.items()
    ]
    answer: Any = await admin.create_topics(new)
    for name, code, *message in answer.topic_errors:
        error = for_code(code)
        # Somebody else may have created it between the look and the request; it is checked like any other.
        if code and error is not TopicAlreadyExistsError:
            raise TopicRefusedError(f"{name}: {error.__name__} {' '.join(text for text in message if text)}".rstrip())


async def _led(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, TopicIdentity]:
    deadline = asyncio.get_running_loop().time() + LEADER_TIMEOUT
    while True:
        _, found = await topic_ids(admin._client, names)  # noqa: SLF001
        waiting = [name for name in names if name not in found or found[name].leaders < found[name].partitions]
        if not waiting:
            return found
        if asyncio.get_running_loop().time() > deadline:
            raise UnavailableError(
                f"No leader for all partitions of {', '.join(waiting)} after {LEADER_TIMEOUT:.0f} s."
            )
        await asyncio.sleep(LEADER_POLL)


async def _check_configs(admin: AIOKafkaAdminClient, wanted: Mapping[str, Topic]) -> None:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(_GUARDED)) for name in wanted]
    answers: list[Any] = await admin.describe_configs(resources)
    for answer in answers:
        for code, message, _, name, entries in answer.resources:
            if code:
                raise TopicRefusedError(
                    f"{name}: its configuration cannot be read: {message or for_code(code).__name__}."
                )
            has = {entry[0]: entry[1] for entry in entries}
            for key in _GUARDED:
                if has.get(key) != wanted[name].config[key]:
                    raise TopicMismatchError(
                        f"{name} has {key}={has.get(key)}, declared is {wanted[name].config[key]}."
                    )
