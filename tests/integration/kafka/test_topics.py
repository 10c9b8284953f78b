from __future__ import annotations

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from orchestrator.adapters.kafka import topics
from orchestrator.adapters.kafka.topic_ids import topic_ids
from orchestrator.adapters.kafka.topics import Topic, TopicMismatchError
from orchestrator.config import Settings
from orchestrator.errors import UnavailableError

SMALL = (Topic("facts", 3), Topic("letters", 1))


async def test_applying_creates_what_is_missing_and_changes_nothing_the_second_time(bootstrap: str, prefix: str):
    first = await topics.apply(bootstrap, prefix, SMALL)
    second = await topics.apply(bootstrap, prefix, SMALL)
    assert (first.created, first.present) == ((f"{prefix}facts", f"{prefix}letters"), ())
    assert (second.created, second.present) == ((), (f"{prefix}facts", f"{prefix}letters"))
    assert first.replicas == 1
    assert first.cluster_id == second.cluster_id


async def test_two_that_apply_at_once_both_succeed(bootstrap: str, prefix: str):
    both = await asyncio.gather(topics.apply(bootstrap, prefix, SMALL), topics.apply(bootstrap, prefix, SMALL))
    third = await topics.apply(bootstrap, prefix, SMALL)
    assert {name for applied in both for name in applied.created} == {f"{prefix}facts", f"{prefix}letters"}
    assert third.created == ()


async def test_all_declared_topics_are_created_with_their_partitions_and_names(bootstrap: str, prefix: str):
    settings = Settings(topic_prefix=prefix)
    await topics.apply(bootstrap, prefix)
    async with _admin(bootstrap) as admin:
        _, found = await topic_ids(
            admin._client,
            [settings.device_events_topic, settings.campaign_events_topic, settings.dead_letter_topic],
        )
    assert {name.removeprefix(prefix): (topic.partitions, topic.leaders) for name, topic in found.items()} == {
        "ota.device-events.v1": (64, 64),
        "ota.campaign-events.v1": (8, 8),
        "ota.dead-letter.v1": (8, 8),
    }


async def test_a_topic_with_other_partitions_is_refused(bootstrap: str, prefix: str):
    await topics.apply(bootstrap, prefix, (Topic("facts", 2),))
    with pytest.raises(TopicMismatchError, match="has 2 partitions, declared are 3"):
        await topics.apply(bootstrap, prefix, SMALL)


async def test_a_topic_that_would_forget_is_refused(bootstrap: str, prefix: str):
    async with _admin(bootstrap) as admin:
        week = {"retention.ms": str(7 * 24 * 3600 * 1000)}
        await admin.create_topics([NewTopic(f"{prefix}facts", 3, 1, topic_configs=week)])
    with pytest.raises(TopicMismatchError, match=r"retention\.ms=604800000, declared is -1"):
        await topics.apply(bootstrap, prefix, SMALL)


async def test_a_topic_created_anew_has_another_id(bootstrap: str, prefix: str):
    name = f"{prefix}facts"
    async with _admin(bootstrap) as admin:
        await topics.apply(bootstrap, prefix, SMALL)
        cluster, before = await topic_ids(admin._client, [name])
        await admin.delete_topics([name])
        while (await topic_ids(admin._client, [name]))[1]:  # noqa: ASYNC110 (deletion has no event)
            await asyncio.sleep(0.02)
        await topics.apply(bootstrap, prefix, SMALL)
        same_cluster, after = await topic_ids(admin._client, [name])
    assert cluster == same_cluster
    assert before[name].topic_id != after[name].topic_id


async def test_a_topic_that_does_not_exist_has_no_id(bootstrap: str, prefix: str):
    async with _admin(bootstrap) as admin:
        cluster, found = await topic_ids(admin._client, [f"{prefix}nothing"])
    assert cluster
    assert found == {}


async def test_brokers_that_do_not_answer_are_an_error_that_says_so(unused_tcp_port: int):
    with pytest.raises(UnavailableError, match="does not answer"):
        await topics.apply(f"127.0.0.1:{unused_tcp_port}")


class _admin:  # noqa: N801 (used like a function)
    def __init__(self, bootstrap: str) -> None:
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)

    async def __aenter__(self) -> AIOKafkaAdminClient:
        await self._admin.start()
        return self._admin

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()
