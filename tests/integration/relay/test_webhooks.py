"""Webhooks from the log to a real receiver, on the real database: late, repeated, refused, killed in between."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from orchestrator.adapters.clock import new_id, now_ms
from orchestrator.adapters.sql.campaigns import SqlCampaignStore
from orchestrator.adapters.sql.engine import driver
from orchestrator.adapters.sql.event_log import SqlEventLog
from orchestrator.adapters.sql.relay import SqlBookmarks, SqlLeadership, SqlLogReader
from orchestrator.adapters.sql.webhooks import SqlWebhooks
from orchestrator.adapters.webhook_http import HttpPoster
from orchestrator.app.deliveries import WebhookConsumer, WebhookSender
from orchestrator.app.ports import Meta
from orchestrator.app.relay import Relay
from orchestrator.app.verdicts import ExternalVerdicts
from orchestrator.app.webhooks import Webhooks
from orchestrator.domain import campaign as c
from schemas.fleet_events import FleetReleased, FleetStopped
from tests.support.receiver import Receiver
from tests.support.waiting import until
from tests.support.world import T0, World

PUBLIC = "https://ota.example"
LONG_MS = 2 * 86_400_000
"""Longer than any pause between two attempts."""


@dataclass
class Clock:
    ahead: int = 0

    def __call__(self) -> int:
        return now_ms() + self.ahead


class Post:
    """Everything between the log and the receivers."""

    def __init__(self, engine):
        self.engine = engine
        self.clock = Clock()
        self.queue = SqlWebhooks(engine)
        verdicts = ExternalVerdicts(SqlCampaignStore(engine))
        self.webhooks = Webhooks(self.queue, verdicts, now=self.clock, new_id=new_id)
        self.consumer = WebhookConsumer(self.queue, PUBLIC)
        self.log = SqlEventLog(engine)
        self.counted: list[tuple[str, str]] = []

    async def add(self, receiver, *events):
        return await self.webhooks.add(receiver.url, events, actor="ann", command_id=uuid4().hex)

    async def stop_fleet(self, reason="recall", kind=FleetStopped):
        version = len(await self.log.read_stream("fleet"))
        event = kind(actor="ann", reason=reason, ledger_position=7)
        await self.log.append("fleet", version, [event], command_id=uuid4().hex, meta=Meta(actor="ann"))

    async def hand_over(self):
        await self.consumer.deliver(await self.log.read_all(0, 1_000))

    async def deliveries(self, webhook):
        return (await self.webhooks.deliveries(webhook.webhook_id, 100, None)).items

    async def states(self, webhook):
        return [each.state for each in await self.deliveries(webhook)]

    @asynccontextmanager
    async def sending(self, refused="", seconds=5.0):
        async with HttpPoster(seconds, refused) as poster:
            sender = WebhookSender(
                self.queue,
                poster,
                now=self.clock,
                dice=lambda: 0.5,
                counted=lambda *what: self.counted.append(what),
                poll_ms=10,
            )
            task = asyncio.create_task(sender.run())
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def post(engine):
    return Post(engine)


@pytest.fixture
async def receiver():
    async with Receiver() as receiving:
        yield receiving


async def test_what_fails_first_arrives_later_under_the_same_id_and_signed(post, receiver):
    receiver.answers = [500, 302, 404]
    receiver.extra = f"Location: {receiver.url}/elsewhere\r\n"
    webhook = await post.add(receiver, "fleet.stopped")
    await post.stop_fleet()
    await post.stop_fleet(kind=FleetReleased)
    await post.hand_over()
    async with post.sending():
        for attempts in (1, 2, 3):
            await until(lambda n=attempts: len(receiver.got) == n)

            async def recorded(n=attempts):
                (delivery,) = await post.deliveries(webhook)
                return delivery.attempts == n and delivery.state == "pending"

            await until(recorded)
            post.clock.ahead += LONG_MS

        async def settled():
            return await post.states(webhook) == ["delivered"]

        await until(settled)
    assert len({got.id for got in receiver.got}) == 1
    assert len({got.body for got in receiver.got}) == 1
    assert {got.path for got in receiver.got} == {"/hook?of=us"}, "a redirect is not followed"
    assert all(got.signed_by(webhook.secret) for got in receiver.got)
    message = receiver.got[-1].message
    assert message["type"] == "fleet.stopped"
    assert message["timestamp"].endswith("Z")
    assert message["data"] == {"position": 2, "actor": "ann", "reason": "recall", "ledger_position": 7}
    (delivery,) = await post.deliveries(webhook)
    assert (delivery.attempts, delivery.status, delivery.next_at) == (4, 204, None)
    assert post.counted == [("fleet.stopped", result) for result in ("failed", "failed", "failed", "delivered")]


async def test_what_nobody_takes_is_dead_after_three_days_and_visible(post, receiver):
    receiver.answers = [503] * 20
    webhook = await post.add(receiver, "fleet.stopped")
    await post.stop_fleet()
    await post.hand_over()
    async with post.sending():
        for attempts in range(1, 11):

            async def recorded(n=attempts):
                (delivery,) = await post.deliveries(webhook)
                return delivery.attempts == n

            await until(recorded)
            post.clock.ahead += LONG_MS
    (dead,) = await post.deliveries(webhook)
    assert (dead.state, dead.attempts, dead.status) == ("dead", 10, 503)
    assert post.counted[-1] == ("fleet.stopped", "dead")
    assert len(receiver.got) == 10
    assert await post.queue.forget(dead.settled_at + 1) == 1


async def test_an_endpoint_that_hangs_delays_no_other_one(post, receiver):
    async with Receiver(answers=[0] * 5) as hanging:
        slow = await post.add(hanging, "fleet.stopped")
        quick = await post.add(receiver, "fleet.stopped")
        await post.stop_fleet()
        await post.stop_fleet("again")
        await post.hand_over()
        async with post.sending(seconds=60.0):
            await until(lambda: len(hanging.got) == 1)

            async def settled():
                return await post.states(quick) == ["delivered", "delivered"]

            await until(settled)
            assert await post.states(slow) == ["pending", "pending"]
    assert [got.message["data"]["reason"] for got in receiver.got] == ["recall", "again"], "in the order of the log"


async def test_an_endpoint_that_is_away_or_refused_is_a_failed_attempt(post, receiver):
    webhook = await post.add(receiver, "fleet.stopped")
    await post.stop_fleet()
    await post.hand_over()

    async def failed():
        (delivery,) = await post.deliveries(webhook)
        return delivery.attempts == 1

    async with post.sending(refused="127.0.0.0/8"):
        await until(failed)
    (delivery,) = await post.deliveries(webhook)
    assert (delivery.state, delivery.status) == ("pending", None)
    assert "where nothing is sent to" in delivery.error
    assert receiver.got == []
    async with HttpPoster(5.0, "") as poster:
        attempt = await poster.post("http://127.0.0.1:1/", {}, b"{}")
        assert (attempt.taken, attempt.status) == (False, None)
        assert attempt.error
        unknown = await poster.post("https://nowhere.invalid/", {}, b"{}")
        assert (unknown.taken, unknown.status) == (False, None)
    async with Receiver(answers=[0]) as hanging, HttpPoster(0.2, "") as poster:
        assert (await poster.post(hanging.url, {}, b"{}")).error == "No answer within 0.2 s."


def certified(folder, name) -> Path:
    """A key and a certificate of its own for this name, in one file."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / f"{name}.pem"
    file.write_bytes(pem + certificate.public_bytes(Encoding.PEM))
    return file


@pytest.mark.parametrize(("name", "taken"), [("localhost", True), ("other.example", False)])
async def test_over_tls_the_certificate_must_be_of_the_name_that_was_registered(tmp_path, name, taken):
    file = certified(tmp_path, name)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(file)
    trusting = ssl.create_default_context(cafile=str(file))
    async with Receiver(tls=serving) as receiving, HttpPoster(10.0, "", trusting) as poster:
        attempt = await poster.post(f"https://localhost:{receiving.port}/hook", {}, b"{}")
    assert attempt.taken is taken, attempt
    assert [got.headers["host"] for got in receiving.got] == [f"localhost:{receiving.port}"] * taken


async def test_events_from_before_it_was_added_or_not_asked_for_are_not_told_and_none_twice(post, receiver):
    await post.stop_fleet()
    webhook = await post.add(receiver, "fleet.released", "campaign.halted")
    other = await post.add(receiver, "fleet.stopped")
    await post.stop_fleet(kind=FleetReleased)
    await post.webhooks.test(webhook.webhook_id, actor="ann", command_id=uuid4().hex)
    for _ in range(2):
        await post.hand_over()
    assert [each.kind for each in await post.deliveries(webhook)] == ["webhook.test", "fleet.released"]
    assert await post.deliveries(other) == []
    await post.webhooks.remove(webhook.webhook_id, actor="ann", command_id=uuid4().hex)
    await post.hand_over()
    async with driver(post.engine) as conn:
        assert await conn.fetchval("SELECT count(*) FROM webhook_delivery") == 0


async def test_the_relay_tells_of_a_campaign_and_says_where_to_answer(post, receiver, engine):
    world = World(engine)
    await world.setup()
    webhook = await post.add(receiver, "approval.wanted", "phase.awaiting_verdict", "campaign.halted")
    phases = [{"name": "all", "percent": 100.0, "soak": "1s", "external": [{"name": "lab"}]}]
    campaign = await world.launch(phases=phases)
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.command(campaign.campaign_id, lambda *_: c.StartSoak(phase=0, at=T0))
    await post.webhooks._verdicts.give(
        campaign.campaign_id, 0, "lab", "halt", "it burns", actor="bench", command_id="run-7"
    )
    relay = Relay(
        SqlLogReader(engine), SqlBookmarks(engine), SqlLeadership(engine), [post.consumer], poll_ms=10, election_ms=20
    )
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    async with post.sending():

        async def settled():
            return await post.states(webhook) == ["delivered"] * 3

        await until(settled)
    stop.set()
    await running
    wanted, asked, halted = (got.message for got in receiver.got)
    assert (wanted["type"], wanted["data"]["campaign_id"]) == ("approval.wanted", campaign.campaign_id)
    assert "dossier" not in wanted["data"]
    assert asked["data"]["external"] == ["lab"]
    assert asked["data"]["gate_epoch"] == 1
    assert asked["data"]["answer_url"] == f"{PUBLIC}/v1/webhook-answers?webhook={webhook.webhook_id}"
    assert (halted["data"]["name"], halted["data"]["by"], halted["data"]["reason"]) == ("test", "lab", "it burns")
    assert all(got.signed_by(webhook.secret) for got in receiver.got)


async def test_a_sender_killed_between_sending_and_recording_sends_again_under_the_same_id(
    post, receiver, database_url, tmp_path
):
    webhook = await post.add(receiver, "fleet.stopped")
    for reason in ("one", "two", "three"):
        await post.stop_fleet(reason)
    await post.hand_over()
    log = tmp_path / "deaths"
    log.touch()
    env = {**os.environ, "OTA_FAILPOINTS": "webhook.before_record:1:1", "OTA_FAILPOINT_LOG": str(log)}

    async def start():
        return await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.support.sender", database_url, env=env)

    first = await start()
    assert await first.wait() == -signal.SIGKILL
    assert [got.message["data"]["reason"] for got in receiver.got] == ["one"]
    assert await post.states(webhook) == ["pending"] * 3
    second = await start()
    try:

        async def settled():
            return await post.states(webhook) == ["delivered"] * 3

        await until(settled)
    finally:
        second.terminate()
        await second.wait()
    assert [got.message["data"]["reason"] for got in receiver.got] == ["one", "one", "two", "three"]
    assert receiver.got[0].id == receiver.got[1].id
    assert len({got.id for got in receiver.got}) == 3
