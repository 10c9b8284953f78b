"""Taking updated devices back: drafts of campaigns that bring them to a fallback, or each to the release that it ran before.

One command makes one set of drafts, in one transaction with an event in the stopped campaign's stream that names them, and what of the
updated devices no draft is for. Nothing is decided by it: each draft is counted, submitted, approved and launched like any campaign,
with gates and an alpha of its own.

Not here: who counts as updated (``domain.remediation``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from msgspec import Struct

from orchestrator.app.campaigns import MAX_NAME, Campaigns
from orchestrator.app.ports import CampaignStore, Meta
from orchestrator.app.registry import Artifact, NewId, Release, Traceparent, untraced
from orchestrator.domain import campaign as c
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.remediation import derived_plan
from orchestrator.errors import ConflictError, InvalidInputError
from schemas.campaign_events import RemediationDraft, RemediationDrafted, RemediationGap

SAMPLES: Final = 5
"""Ids that are named of devices that no draft is for."""


class RemediationKindError(InvalidInputError):
    """It is not said to what the devices are to be taken back."""

    code = "remediation.kind"
    remedy = "Name a fallback release, or ask for a revert to what each device ran before."


class NothingToRemediateError(ConflictError):
    """No device runs what the campaign brought, or others have been confirmed on all of them since."""

    code = "remediation.nobody"
    remedy = "`ota campaign show` says what became of its devices."


class NotRemediableError(ConflictError):
    """None of the updated devices can be taken back in this way."""

    code = "remediation.impossible"
    remedy = "Release a correction, with a security counter that is not lower, and name it as the fallback."


class Updated(Struct, frozen=True, kw_only=True):
    """Devices that a campaign updated, counted."""

    previously: str | None
    """The release that they had confirmed before; None if they never confirmed one here."""
    hardware_model: str
    silent: bool
    """They fell silent with the image in their slot: nothing may be offered to them."""
    devices: int


class RemediationStore(Protocol):
    """What devices run, and the drafts."""

    async def drafted(self, command_id: str) -> RemediationDrafted | None:
        """What the command has done, if it has taken effect."""
        ...

    async def survey(self, campaign_id: str) -> Sequence[Updated]:
        """The devices that the campaign updated."""
        ...

    async def samples(self, campaign_id: str, of: Updated, *, whatever_before: bool) -> list[str]:
        """Ids of some of these devices; of all alike but for what they ran before, if ``whatever_before``."""
        ...

    async def draft(
        self, campaign_id: str, event: RemediationDrafted, drafts: Sequence[c.Create], *, command_id: str, meta: Meta
    ) -> RemediationDrafted:
        """Append the event and create the drafts, in one transaction; a command that has taken effect gives its first event."""
        ...


class Releases(Protocol):
    """``orchestrator.app.registry.Registry`` has these."""

    async def release(self, release_id: str) -> Release:
        """Raises ReleaseNotFoundError."""
        ...

    async def artifact(self, sha256: str, hardware_model: str) -> Artifact | None: ...


class _Group(Struct):
    """Devices that one draft is for."""

    release: Release
    models: dict[str, int]
    """Hardware model to devices."""


class Remediations:
    """The command. Its errors are those of ``Campaigns.create`` for a plan that was handed in, and those above."""

    def __init__(
        self,
        store: CampaignStore,
        remediations: RemediationStore,
        campaigns: Campaigns,
        releases: Releases,
        *,
        new_id: NewId,
        traceparent: Traceparent = untraced,
    ) -> None:
        self._store = store
        self._remediations = remediations
        self._campaigns = campaigns
        self._releases = releases
        self._new_id = new_id
        self._traceparent = traceparent

    async def draft(
        self,
        campaign_id: str,
        *,
        actor: str,
        command_id: str,
        kind: str | None = None,
        release_id: str | None = None,
        plan: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> RemediationDrafted:
        """Draft what takes the campaign's updated devices back.

        Args:
            campaign_id: a campaign that is halted, aborted or completed.
            actor: the drafts' author, who may not approve them.
            command_id: repeated, it gives the same drafts.
            kind: ``revert`` or ``fallback``; without one, and without a release, what the campaign's plan foresees.
            release_id: of a fallback.
            plan: instead of one derived from the campaign's; release and cohort membership are set in it.
            name: what people call the drafts.
        """
        if done := await self._remediations.drafted(command_id):
            return done
        parent = await self._store.load(campaign_id)
        kind, release_id = _asked(parent, kind, release_id)
        c.decide(parent, c.DraftRemediation(event=RemediationDrafted(actor=actor, kind=kind, drafts=[], gaps=[])))
        found = await self._remediations.survey(campaign_id)
        if not found:
            raise NothingToRemediateError(f"No device runs what campaign {campaign_id} brought.")
        groups, gaps = await self._divide(parent, found, release_id)
        if not groups:
            reasons = ", ".join(f"{gap.devices} devices ({gap.hardware_model}): {gap.reason}" for gap in gaps)
            raise NotRemediableError(f"None of the updated devices can be taken back: {reasons}.")
        drafts: list[RemediationDraft] = []
        creates: list[c.Create] = []
        for group in groups:
            previously = None if release_id is not None else group.release.release_id
            create = await self._create(parent, group, previously, plan, name, actor)
            creates.append(create)
            drafts.append(
                RemediationDraft(
                    campaign_id=create.campaign_id,
                    release_id=create.release_id,
                    devices=sum(group.models.values()),
                    previously=previously,
                )
            )
        event = RemediationDrafted(actor=actor, kind=kind, drafts=drafts, gaps=gaps)
        meta = Meta(actor=actor, traceparent=self._traceparent())
        return await self._remediations.draft(campaign_id, event, creates, command_id=command_id, meta=meta)

    async def _divide(
        self, parent: c.Campaign, found: Sequence[Updated], fallback: str | None
    ) -> tuple[list[_Group], list[RemediationGap]]:
        """Devices by the release that they are to get, and those for which there is none."""
        brought = await self._releases.release(parent.release_id)
        counted: defaultdict[tuple[str | None, bool, str], int] = defaultdict(int)
        for each in found:
            counted[None if fallback else each.previously, each.silent, each.hardware_model] += each.devices
        groups: dict[str, _Group] = {}
        gaps: list[RemediationGap] = []
        for (previously, silent, model), devices in counted.items():
            target = fallback or previously
            release = None if target is None else await self._releases.release(target)
            reason = "silent" if silent else await self._obstacle(brought, release, model)
            if reason is not None:
                alike = Updated(previously=previously, silent=silent, hardware_model=model, devices=devices)
                named = await self._remediations.samples(
                    parent.campaign_id, alike, whatever_before=fallback is not None
                )
                gaps.append(
                    RemediationGap(
                        reason=reason, hardware_model=model, devices=devices, samples=named, release_id=target
                    )
                )
            elif release is not None:
                groups.setdefault(release.release_id, _Group(release, {})).models[model] = devices
        return list(groups.values()), gaps

    async def _obstacle(self, brought: Release, target: Release | None, model: str) -> str | None:
        """Why devices of the model cannot get ``target`` after ``brought``; None if nothing is known against it."""
        if target is None:
            return "unknown_release"
        if model not in target.artifacts:
            return "hardware_model"
        runs, offered = await self._counters(brought, model), await self._counters(target, model)
        for part, counter in runs.items():
            if counter is not None and part in offered and (offered[part] is None or offered[part] < counter):
                return "security_counter"
        return None

    async def _counters(self, release: Release, model: str) -> dict[str, Any]:
        """Component to the security counter of its image; a release of one artifact has one component without a name."""
        parts = {part.name: part.sha256 for part in release.components.get(model, [])}
        found: dict[str, Any] = {}
        for name, sha256 in (parts or {"": release.artifacts[model]}).items():
            artifact = await self._releases.artifact(sha256, model)
            found[name] = None if artifact is None else artifact.image.get("security_counter")
        return found

    async def _create(
        self,
        parent: c.Campaign,
        group: _Group,
        previously: str | None,
        plan: Mapping[str, Any] | None,
        name: str | None,
        actor: str,
    ) -> c.Create:
        whole: dict[str, Any] = dict(plan or derived_plan(parent.plan, sum(group.models.values())))
        cohort: Mapping[str, Any] = whole.get("cohort") or {}
        members = {
            "hardware_models": sorted(group.models),
            "updated_by": parent.campaign_id,
            "previously": previously,
        }
        whole |= {"release": group.release.release_id, "cohort": {**cohort, **members}}
        parsed, release = await self._campaigns.check(whole)
        called = name or f"{parent.name[: MAX_NAME // 2]}: back to {release.name[:24]} {release.version[:24]}"
        return c.Create(
            campaign_id=self._new_id("cmp"),
            campaign_no=await self._store.next_campaign_no(),
            name=self._campaigns.named(called),
            release_id=release.release_id,
            plan=parsed.canonical(),
            actor=actor,
        )


def _asked(parent: c.Campaign, kind: str | None, release_id: str | None) -> tuple[str, str | None]:
    """(kind, fallback release) of what is asked, or foreseen."""
    foreseen = parse_plan(parent.plan).remediation
    if release_id is None and kind in {None, foreseen.kind}:
        kind, release_id = foreseen.kind, foreseen.release
    elif kind is None:
        kind = "fallback"
    if kind not in {"revert", "fallback"} or (kind == "fallback") != (release_id is not None):
        raise RemediationKindError
    if release_id == parent.release_id:
        raise RemediationKindError(f"Release {release_id} is what campaign {parent.campaign_id} brought.")
    return kind, release_id
