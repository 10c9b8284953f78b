"""Which incarnation of a topic this is: its id (KIP-516) and the cluster's, over aiokafka's own connections, so TLS and SASL apply.

A topic that was deleted and created again has the same name and another id; a read position is worth something only together with
both ids. aiokafka 0.14 stops at version 5 of the Metadata request, ids came with version 10. Format of version 12:
https://kafka.apache.org/protocol#The_Messages_Metadata.

A fetch names the topic, not its incarnation (ids came with version 13 of Fetch). So a reader that was behind when the topic was made
anew goes on in the new one as soon as that has grown past its position, and nothing in the records says so. Whoever asks for the
incarnation after a fetch knows: if it is the one that the position belongs to, so are the records.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import BrokerNotAvailableError, KafkaError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
    UnsignedVarInt32,
)

from orchestrator.domain.log_loss import LogIdentity

UNKNOWN_TOPIC: Final = 3
"""Error code UNKNOWN_TOPIC_OR_PARTITION."""

_NO_ID: Final = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class TopicIdentity:
    """A topic as the cluster knows it."""

    topic_id: str
    partitions: int
    leaders: int
    """How many partitions have a leader: the topic can be written to when all have."""


class _Uuid(AbstractType[uuid.UUID]):
    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> uuid.UUID:
        return uuid.UUID(bytes=data.read(16))

    @classmethod
    def repr(cls, value: uuid.UUID) -> str:
        return str(value)


_Text = CompactString("utf-8")


_BROKERS = CompactArray(("node_id", Int32), ("host", _Text), ("port", Int32), ("rack", _Text), ("tags", TaggedFields))


class _FirstTopic(AbstractType[tuple[int, uuid.UUID] | None]):
    """Error code and id of the first topic of an answer; the rest, partitions above all, is passed over."""

    @classmethod
    def encode(cls, value: tuple[int, uuid.UUID] | None) -> bytes:
        raise NotImplementedError(value)

    @classmethod
    def decode(cls, data: BytesIO) -> tuple[int, uuid.UUID] | None:
        found = None
        if UnsignedVarInt32.decode(data) > 1:  # the number of topics plus one
            code = Int16.decode(data)
            _Text.decode(data)
            found = code, _Uuid.decode(data)
        data.read()
        return found

    @classmethod
    def repr(cls, value: tuple[int, uuid.UUID] | None) -> str:
        return str(value)


class _IdentityResponse(Response):
    API_KEY = 3  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    API_VERSION = 12  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", _BROKERS),
        ("cluster_id", _Text),
        ("controller_id", Int32),
        ("topic", _FirstTopic),
    )


class _MetadataResponse(Response):
    API_KEY = 3  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    API_VERSION = 12  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", _BROKERS),
        ("cluster_id", _Text),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _Text),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _MetadataStruct(RequestStruct):
    API_KEY = 3
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", _Text), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataStruct]):
    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_MetadataStruct]) -> _MetadataStruct:
        # A topic is asked for by name when its id is zero; topics are never created in passing.
        return request_struct_class([(_NO_ID, topic, {}) for topic in self._topics], False, False, {})


class _IdentityStruct(_MetadataStruct):
    RESPONSE_TYPE = _IdentityResponse


class _IdentityRequest(Request[_IdentityStruct]):
    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_IdentityStruct]) -> _IdentityStruct:
        return request_struct_class([(_NO_ID, self._topic, {})], False, False, {})


class Incarnation:
    """Asks which incarnation a topic is now, over a connection that it keeps; connects again after an error."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._client: AIOKafkaClient | None = None

    async def now(self) -> LogIdentity | None:
        """None if there is no such topic. Raises KafkaError, OSError or TimeoutError: the broker does not answer."""
        try:
            return await self._ask()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Disconnect; the next question connects again."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(KafkaError, OSError):
                await client.close()

    async def _ask(self) -> LogIdentity | None:
        if self._client is None:
            self._client = AIOKafkaClient(bootstrap_servers=self._bootstrap)
            await self._client.bootstrap()
        node = self._client.get_random_node()
        if node is None:
            raise BrokerNotAvailableError
        answer: Any = await self._client.send(node, _IdentityRequest(self._topic))
        code, topic_id = answer.topic or (UNKNOWN_TOPIC, _NO_ID)
        if code == UNKNOWN_TOPIC:
            return None
        if code:
            raise for_code(code)(self._topic)
        return LogIdentity(cluster_id=answer.cluster_id, topic_id=str(topic_id))


async def topic_ids(client: AIOKafkaClient, topics: Sequence[str]) -> tuple[str, dict[str, TopicIdentity]]:
    """The cluster's id and the identity of each topic; a topic that does not exist is absent.

    Args:
        client: a started client: ``AIOKafkaProducer.client``, ``AIOKafkaConsumer._client``, ``AIOKafkaAdminClient._client``.
        topics: full names.

    Raises:
        aiokafka.errors.KafkaError: the broker does not answer, or refuses.
    """
    node = client.get_random_node()
    if node is None:
        raise BrokerNotAvailableError
    answer: Any = await client.send(node, _MetadataRequest(topics))
    found: dict[str, TopicIdentity] = {}
    for error_code, name, topic_id, _, partitions, _, _ in answer.topics:
        if error_code == UNKNOWN_TOPIC:
            continue
        if error_code:
            raise for_code(error_code)(name)
        led = sum(leader >= 0 for _, _, leader, *_ in partitions)
        found[name] = TopicIdentity(str(topic_id), len(partitions), led)
    return answer.cluster_id, found
