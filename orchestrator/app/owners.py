"""What owners of devices want, as people and portals pass it on: one command that states the whole will, in force at its commit.

Not here: who may pass it on (the scope ``device:will``), and who the owner is: that is the portal's knowledge, the log keeps a
reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from orchestrator.app.campaigns import ReleaseReader, require_reason
from orchestrator.app.ports import CampaignStore, Meta
from orchestrator.app.registry import Traceparent, untraced
from orchestrator.domain.owner import StateWill, WillError
from orchestrator.errors import NotFoundError
from schemas.owner_events import Consent

MAX_ON_BEHALF_OF: Final = 256
"""Characters of the reference to whom a will is passed on for."""

DAY_MS: Final = 86_400_000

BuildWill = Callable[[int, int], StateWill]
"""Makes the command of (device number, time in ms)."""


class WillStatus(Struct, frozen=True, kw_only=True):
    """What the owner of a device wants. Version 0: nothing was ever said."""

    device_id: str
    version: int = 0
    opted_out: bool = False
    postponed_until: int | None = None
    consents: list[Consent] = []
    stated_at: int | None = None
    actor: str | None = None
    on_behalf_of: str | None = None
    reason: str | None = None


class Wills(Protocol):
    """Where wills are kept."""

    async def read(self, device_id: str) -> WillStatus:
        """Raises DeviceNotFoundError."""
        ...

    async def state(
        self,
        device_id: str,
        build: BuildWill,
        *,
        longest_ms: int,
        command_id: str,
        meta: Meta,
        expected_version: int | None = None,
    ) -> WillStatus:
        """Decide and append, once for a command id; from the commit on no start of the device commits against it.

        Raises DeviceNotFoundError, WillError, VersionConflictError.
        """
        ...


class OwnerWills:
    """Commands of people, and of portals that owners use.

    Args:
        wills: where they are kept.
        campaigns: the campaigns that a consent may name.
        releases: the releases that a consent may name.
        max_postponement_days: how far an update may be postponed.
        traceparent: the current span's context.
    """

    def __init__(
        self,
        wills: Wills,
        campaigns: CampaignStore,
        releases: ReleaseReader,
        *,
        max_postponement_days: int,
        traceparent: Traceparent = untraced,
    ) -> None:
        self._wills = wills
        self._campaigns = campaigns
        self._releases = releases
        self._longest_ms = max_postponement_days * DAY_MS
        self._traceparent = traceparent

    async def read(self, device_id: str) -> WillStatus:
        """Raises DeviceNotFoundError."""
        return await self._wills.read(device_id)

    async def state(
        self,
        device_id: str,
        *,
        opted_out: bool,
        postponed_until: int | None,
        consents: Sequence[Consent],
        reason: str,
        on_behalf_of: str | None,
        actor: str,
        command_id: str,
        expected_version: int | None = None,
    ) -> WillStatus:
        """State the whole will; what is left out is withdrawn. Stating what holds already changes nothing.

        Raises DeviceNotFoundError, WillError, VersionConflictError, ReasonError.
        """
        require_reason(reason)
        if on_behalf_of is not None and not (0 < len(on_behalf_of) <= MAX_ON_BEHALF_OF and on_behalf_of.isprintable()):
            raise WillError(f"'on_behalf_of' takes 1 to {MAX_ON_BEHALF_OF} printable characters.")
        await self._check(consents, (await self._wills.read(device_id)).consents)

        def build(device_no: int, now: int) -> StateWill:
            return StateWill(
                device_no=device_no,
                device_id=device_id,
                opted_out=opted_out,
                postponed_until=postponed_until,
                consents=tuple(consents),
                reason=reason,
                on_behalf_of=on_behalf_of,
                actor=actor,
                at=now,
            )

        return await self._wills.state(
            device_id,
            build,
            longest_ms=self._longest_ms,
            command_id=command_id,
            meta=Meta(actor=actor, reason=reason, traceparent=self._traceparent()),
            expected_version=expected_version,
        )

    async def _check(self, consents: Sequence[Consent], known: Sequence[Consent]) -> None:
        """What is newly consented to must exist: a consent to a misspelt release would never count."""
        errors: list[Mapping[str, str]] = []
        for index, consent in enumerate(consents):
            if consent in known:
                continue
            try:
                if consent.release_id is not None:
                    await self._releases.release(consent.release_id)
                elif consent.campaign_id is not None:
                    await self._campaigns.load(consent.campaign_id)
            except NotFoundError as why:
                errors.append({"pointer": f"/consents/{index}", "code": why.code, "detail": why.detail})
        if errors:
            raise WillError(errors[0]["detail"], errors=errors)
