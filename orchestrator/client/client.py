"""The operator API, one method per thing that it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx
import msgspec

from orchestrator.client import models as m
from orchestrator.client.transport import Transport

PAGE: Final = 500
"""Items asked for at once."""

CHUNK: Final = 256 * 1024
"""Bytes of an upload sent at once."""


class OtaClient:
    """Synchronous; lists page by themselves, writes may be repeated without harm.

    Methods raise ApiError, ApiUnreachableError and NoApiKeyError.

    Args:
        base_url: such as ``http://127.0.0.1:8080``.
        api_key: ``ota_…``.
        transport: instead of the network, for tests.
        sleep: waits that many seconds between attempts.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = Transport(base_url, api_key, transport=transport, sleep=sleep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    @property
    def trace_id(self) -> str:
        """Under which everything that this client asked is found in traces and logs."""
        return self._transport.trace_id

    # ---- hardware models, artifacts, releases

    def create_hardware_model(self, name: str, profile: Mapping[str, Any]) -> m.HardwareModel:
        return self._post("/v1/hardware-models", {"name": name, "profile": dict(profile)})

    def hardware_models(self) -> Iterator[m.HardwareModel]:
        return self._list("/v1/hardware-models")

    def add_trusted_key(self, hardware_model: str, pem: str) -> m.TrustedKey:
        return self._post(f"/v1/hardware-models/{_part(hardware_model)}/keys", {"pem": pem})

    def upload_artifact(
        self, path: Path, hardware_model: str, progress: Callable[[int], None] = lambda _: None
    ) -> m.Artifact:
        """Upload an image for a hardware model; the same file again is the same artifact.

        Args:
            path: the signed image.
            hardware_model: whose trusted keys must have signed it.
            progress: is told the bytes sent so far.
        """
        size, digest = path.stat().st_size, sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)

        def chunks() -> Iterator[bytes]:
            sent = 0
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
                    sent += len(chunk)
                    progress(sent)

        answer = self._transport.request(
            "POST",
            "/v1/artifacts",
            query={"hardware_model": hardware_model, "filename": path.name, "sha256": digest.hexdigest()},
            content=chunks,
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
        )
        return msgspec.json.decode(answer.content)

    def register_release(
        self,
        name: str,
        version: str,
        artifacts: Mapping[str, str],
        components: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    ) -> m.Release:
        """``artifacts``: hardware model to sha256; ``components``: hardware model to name, kind, sha256 and after of each."""
        body: dict[str, Any] = {"name": name, "version": version, "artifacts": dict(artifacts)}
        if components:
            body["components"] = {model: list(found) for model, found in components.items()}
        return self._post("/v1/releases", body)

    def release(self, release_id: str) -> m.Release:
        return self._get(f"/v1/releases/{_part(release_id)}")

    def releases(self) -> Iterator[m.Release]:
        """The newest first."""
        return self._list("/v1/releases")

    # ---- devices

    def import_devices(
        self, devices: Sequence[m.NewDevice], *, issue_tokens: bool, idempotency_key: str | None = None
    ) -> list[m.ImportedDevice]:
        """Register all of them, none if one is wrong. Repeating it with its key completes what was interrupted."""
        body = {"devices": list(devices), "issue_tokens": issue_tokens}
        return self._post("/v1/devices/import", body, idempotency_key=idempotency_key)["devices"]

    def issue_token(self, device_id: str) -> m.DeviceToken:
        """Give a device a new token; the one before ends."""
        return self._post(f"/v1/devices/{_part(device_id)}/token")

    def devices(self, *, hardware_model: str | None = None, attributes: Sequence[str] = ()) -> Iterator[m.Device]:
        """In the order of registration; ``attributes`` are ``name:value``, all of which must be equal."""
        return self._list("/v1/devices", hardware_model=hardware_model, attribute=list(attributes))

    def device(self, device_id: str) -> m.DeviceDetail:
        return self._get(f"/v1/devices/{_part(device_id)}")

    def device_as_of(self, device_id: str, at: str) -> m.DeviceAsOf:
        """What a device was and ran at ``at`` (RFC 3339), from the logs alone."""
        return self._get(f"/v1/devices/{_part(device_id)}", as_of=at)

    def timeline(self, device_id: str) -> Iterator[m.TimelineEntry]:
        """What a device stated, the newest first."""
        return self._list(f"/v1/devices/{_part(device_id)}/timeline")

    def will(self, device_id: str) -> m.Will:
        """What the owner of a device wants; needs the scope ``device:will``."""
        return self._get(f"/v1/devices/{_part(device_id)}/will")

    def state_will(self, device_id: str, will: m.NewWill, *, version: int | None = None) -> m.Will:
        """State the whole will; what is left out is withdrawn. ``version``: refuse (412) unless that is the one that holds."""
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        path = f"/v1/devices/{_part(device_id)}/will"
        return msgspec.json.decode(self._transport.request("PUT", path, json=will, headers=headers).content)

    def why_device(self, device_id: str, campaign_id: str | None = None) -> m.DeviceWhy:
        """What holds a device in each campaign that is not over, or in one, or why it is no member."""
        return self._get(f"/v1/devices/{_part(device_id)}/why", campaign=campaign_id)

    # ---- campaigns

    def create_campaign(
        self, name: str, plan: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> m.CampaignDetail:
        return self._post("/v1/campaigns", {"name": name, "plan": dict(plan)}, idempotency_key=idempotency_key)

    def campaigns(self, *, state: str | None = None) -> Iterator[m.Campaign]:
        """The newest first."""
        return self._list("/v1/campaigns", state=state)

    def campaign(self, campaign_id: str) -> m.CampaignDetail:
        return self._get(f"/v1/campaigns/{_part(campaign_id)}")

    def preview(self, campaign_id: str) -> m.Preview:
        """What the plan means in devices and in failures; of a draft, for the fleet as it is now."""
        return self._get(f"/v1/campaigns/{_part(campaign_id)}/preview")

    def why(self, campaign_id: str) -> m.CampaignWhy:
        """What holds a campaign, first things first."""
        return self._get(f"/v1/campaigns/{_part(campaign_id)}/why")

    def eta(self, campaign_id: str) -> m.CampaignEta:
        """When a campaign will be done: at best, likely, at worst."""
        return self._get(f"/v1/campaigns/{_part(campaign_id)}/eta")

    def events(self, campaign_id: str) -> Iterator[m.CampaignEvent]:
        """What was decided about a campaign, the oldest first."""
        return self._list(f"/v1/campaigns/{_part(campaign_id)}/events")

    def act(
        self,
        campaign_id: str,
        action: str,
        body: Mapping[str, Any] | None = None,
        *,
        version: int | None = None,
        idempotency_key: str | None = None,
    ) -> m.CampaignDetail:
        """Submit, approve, launch, pause, resume, halt, abort, brake or revise.

        Args:
            campaign_id: the campaign.
            action: one of those.
            body: what the action needs.
            version: refuse (412) unless the campaign is still at this version, because the decision was made on it.
            idempotency_key: of a request that was sent before, by another process perhaps, and not answered.
        """
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        path = f"/v1/campaigns/{_part(campaign_id)}/{action}"
        return self._post(path, body, headers=headers, idempotency_key=idempotency_key)

    def remediate(
        self,
        campaign_id: str,
        *,
        kind: str | None = None,
        release: str | None = None,
        plan: Mapping[str, Any] | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> m.Remediation:
        """Draft campaigns that take the updated devices of a stopped one back; without a kind and a release, as its plan foresees."""
        asked = {"kind": kind, "release": release, "plan": None if plan is None else dict(plan), "name": name}
        body = {key: value for key, value in asked.items() if value is not None}
        return self._post(f"/v1/campaigns/{_part(campaign_id)}/remediate", body, idempotency_key=idempotency_key)

    def approve_phase(self, campaign_id: str, phase: int, digest: str) -> m.CampaignDetail:
        """Let a phase promote that waits for people; phases count from 0."""
        return self.act(campaign_id, f"phases/{phase}/approve", {"digest": digest})

    def give_verdict(
        self,
        campaign_id: str,
        phase: int,
        gate: str,
        verdict: str,
        reason: str,
        *,
        evidence_url: str | None = None,
        gate_epoch: int | None = None,
        idempotency_key: str | None = None,
    ) -> m.GivenVerdict:
        """Speak for an external gate: ``promote``, ``hold`` or ``halt``. Its last verdict counts while the phase is not promoted."""
        body = {"verdict": verdict, "reason": reason, "evidence_url": evidence_url, "gate_epoch": gate_epoch}
        path = f"/v1/campaigns/{_part(campaign_id)}/phases/{phase}/gates/{_part(gate)}"
        return self._post(path, body, idempotency_key=idempotency_key)

    def brake(
        self, campaign_id: str, reason: str, *, per_minute: int | None = None, max_in_flight: int | None = None
    ) -> m.CampaignDetail:
        """Lower the pace at once; a limit that is None stays as it is."""
        return self.act(campaign_id, "brake", _limits(reason, per_minute, max_in_flight))

    def release_brake(
        self, campaign_id: str, reason: str, *, per_minute: int | None = None, max_in_flight: int | None = None
    ) -> m.CampaignDetail:
        """Loosen the brake to these limits; a limit that is None is off."""
        return self.act(campaign_id, "brake/release", _limits(reason, per_minute, max_in_flight))

    def revise(self, campaign_id: str, changes: Mapping[str, Any], reason: str) -> m.CampaignDetail:
        """Propose another pace; it waits for an approval of ``revision.digest``."""
        return self.act(campaign_id, "revise", {"changes": changes, "reason": reason})

    def backtest(self, campaign_id: str, policy: Mapping[str, Any] | None = None) -> m.Backtest:
        """What the halt rules of ``policy`` would have done with what happened; None asks the plan's own rules."""
        return self._post(f"/v1/campaigns/{_part(campaign_id)}/backtest", {"policy": policy})

    # ---- webhooks

    def add_webhook(self, url: str, events: Sequence[str]) -> m.CreatedWebhook:
        """Tell ``url`` of these events from now on; the secret is in this answer only."""
        return self._post("/v1/webhooks", {"url": url, "events": list(events)})

    def webhooks(self) -> Iterator[m.Webhook]:
        """The newest first."""
        return self._list("/v1/webhooks")

    def remove_webhook(self, webhook_id: str) -> None:
        self._transport.request("DELETE", f"/v1/webhooks/{_part(webhook_id)}")

    def test_webhook(self, webhook_id: str) -> m.Delivery:
        """Send a notification without meaning."""
        return self._post(f"/v1/webhooks/{_part(webhook_id)}/test")

    def webhook_deliveries(self, webhook_id: str) -> Iterator[m.Delivery]:
        """What it was told and what became of it, the newest first."""
        return self._list(f"/v1/webhooks/{_part(webhook_id)}/deliveries")

    # ---- plumbing

    def _get(self, path: str, **query: Any) -> Any:
        return msgspec.json.decode(self._transport.request("GET", path, query=query).content)

    # ---- the whole fleet

    def fleet(self) -> m.Fleet:
        return self._get("/v1/fleet")

    def fleet_as_of(self, at: str) -> m.FleetAsOf:
        """What ran where at ``at`` (RFC 3339), in counts, from the logs alone."""
        return self._get("/v1/fleet/as-of", at=at)

    def stop_fleet(self, reason: str) -> m.Fleet:
        return self._post("/v1/fleet/stop", {"reason": reason})

    def release_fleet(self, reason: str) -> m.Fleet:
        return self._post("/v1/fleet/release", {"reason": reason})

    def _post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        answer = self._transport.request("POST", path, json=body, headers=headers, idempotency_key=idempotency_key)
        return msgspec.json.decode(answer.content) if answer.content else {}

    def _list(self, path: str, **query: Any) -> Iterator[Any]:
        cursor: str | None = None
        while True:
            page = self._get(path, limit=PAGE, cursor=cursor, **query)
            yield from page["items"]
            cursor = page.get("next")
            if cursor is None:
                return


def _part(text: str) -> str:
    """One segment of a path."""
    return quote(text, safe="")


def _limits(reason: str, per_minute: int | None, max_in_flight: int | None) -> dict[str, Any]:
    limits = {"per_minute": per_minute, "max_in_flight": max_in_flight}
    return {"reason": reason} | {name: limit for name, limit in limits.items() if limit is not None}
