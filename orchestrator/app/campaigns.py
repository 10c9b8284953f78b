"""What people do to campaigns: create, submit, approve, launch, pause, resume, halt, abort; and a preview of what a plan means.

Each is one command in one transaction of the store, and exactly once under its command id. What a command is decided on (state, ledger
position) is read inside that transaction; only a submission counts the fleet before it, because that takes long.

Not here: who may do it (scopes belong to the API; the four-eyes rule to the domain), starting workflows (the relay follows the log).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.app.inspection import NOTHING_FOUND, Inspection, Inspector
from orchestrator.app.ports import CampaignStore, Executed, Meta, Standing
from orchestrator.app.preview import Preview, breaker_preview, remediation_preview, retries, revision_preview, summarize
from orchestrator.app.registry import NewId, Release, ReleaseNotFoundError, Traceparent, untraced
from orchestrator.domain import campaign as c
from orchestrator.domain.dossier import Dossier, dossier_digest, freeze, validate_against
from orchestrator.domain.plan import Plan, parse_plan
from orchestrator.domain.plan_fields import PlanError, Problem
from orchestrator.domain.selection import Target, models
from orchestrator.errors import InvalidInputError, NotFoundError
from schemas.campaign_events import CampaignCreated, CampaignHalted

MAX_NAME: Final = 128
"""Characters of a campaign's name."""

MAX_REASON: Final = 1_000
"""Characters of the reason that a person gives."""


class CampaignNameError(InvalidInputError):
    """The campaign needs another name."""

    code = "campaign.name"


class ReasonError(InvalidInputError):
    """A reason is needed."""

    code = "campaign.reason"
    remedy = f"Say in a sentence of at most {MAX_REASON} characters why; it is kept in the log."


# --------------------------------------------------------------------------- ports


class Counted(Struct, frozen=True, kw_only=True):
    """A fleet, counted in one snapshot."""

    strata: dict[str, int]
    """Devices by stratum."""
    named: dict[int, dict[str, int]] = {}
    """Those of them that phases take by name, by phase and stratum."""
    at: int
    """Time of the last event in that snapshot, ms: whatever was registered later was not counted."""
    budget: tuple[dict[str, int], ...] = ()
    """Devices of the whole fleet by value, for each label of the plan's budget."""


class Cohorts(Inspector, Protocol):
    """The fleet, as a plan divides it."""

    async def count(self, plan: Plan, target: Target) -> Counted:
        """The devices of the cohort, holdback included: what ``selection.select`` gives over the fleet, counted.

        Beside them the whole fleet by ``budget.value_of`` each label of the plan's budget.
        """
        ...

    async def withheld(self, plan: Plan, target: Target, *, release_id: str, campaign_id: str) -> dict[str, int]:
        """Devices of the cohort that ``owner.withheld`` keeps from the campaign now, counted by reason."""
        ...


class ReleaseReader(Protocol):
    async def release(self, release_id: str) -> Release:
        """Raises ReleaseNotFoundError."""
        ...


# --------------------------------------------------------------------------- use cases


class Campaigns:
    """Commands of people. Each raises the errors of ``domain.campaign`` and ``domain.approval``, NotFoundError, VersionConflictError.

    Args:
        store: the campaigns' streams.
        cohorts: counts the fleet.
        releases: what there is to roll out.
        new_id: makes campaign ids.
        known_zone: whether there is a time zone of that name.
        traceparent: the current span's context, kept with the events.
    """

    def __init__(
        self,
        store: CampaignStore,
        cohorts: Cohorts,
        releases: ReleaseReader,
        *,
        new_id: NewId,
        known_zone: Callable[[str], bool],
        traceparent: Traceparent = untraced,
    ) -> None:
        self._store = store
        self._cohorts = cohorts
        self._releases = releases
        self._new_id = new_id
        self._known_zone = known_zone
        self._traceparent = traceparent

    async def create(self, name: str, plan: object, *, actor: str, command_id: str) -> Executed:
        """Create a draft. Raises PlanError with everything that is wrong with the plan."""
        name = self.named(name)
        parsed, release = await self.check(plan)
        campaign_id = self._new_id("cmp")
        number = await self._store.next_campaign_no()

        def build(_: c.Campaign, __: Standing) -> c.Command:
            return c.Create(
                campaign_id=campaign_id,
                campaign_no=number,
                name=name,
                release_id=release.release_id,
                plan=parsed.canonical(),
                actor=actor,
            )

        done = await self._store.execute(campaign_id, build, command_id=command_id, meta=self._meta(actor))
        made = done.events[0].event
        if isinstance(made, CampaignCreated) and made.campaign_id != campaign_id:
            # The command had taken effect before, under the id it was given then.
            return Executed(campaign=await self._store.load(made.campaign_id), events=done.events)
        return done

    @staticmethod
    def named(name: str) -> str:
        """The name, if a campaign can have it. Raises CampaignNameError."""
        if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name.isspace():
            raise CampaignNameError(f"A name has 1 to {MAX_NAME} printable characters.")
        return name

    async def check(self, plan: object) -> tuple[Plan, Release]:
        """The plan and its release, as far as they can be right without a fleet. Raises PlanError with everything that is wrong."""
        parsed = parse_plan(plan)
        unknown = sorted(zone for zone in parsed.schedule.zones if not self._known_zone(zone))
        if unknown:
            raise PlanError([Problem("/schedule", "plan.timezone", f"There is no time zone {unknown[0]!r}.")])
        release = await self._release("/release", parsed.release)
        wanted = models(parsed, release.artifacts)
        if parsed.remediation.release is not None:
            fallback = await self._release("/remediation/release", parsed.remediation.release)
            if missing := sorted(set(wanted) - set(fallback.artifacts)):
                detail = f"The fallback has no image for {', '.join(missing)}."
                raise PlanError([Problem("/remediation/release", "plan.remediation.hardware_model", detail)])
        if parsed.cohort.updated_by is not None:
            await self._check_updater(parsed, parsed.cohort.updated_by)
        return parsed, release

    async def _release(self, pointer: str, release_id: str) -> Release:
        try:
            return await self._releases.release(release_id)
        except ReleaseNotFoundError as why:
            detail = f"There is no release {release_id!r}."
            raise PlanError([Problem(pointer, "plan.release.unknown", detail)]) from why

    async def _check_updater(self, plan: Plan, campaign_id: str) -> None:
        """The campaign whose devices the plan takes must be there and have brought something else."""
        try:
            other = await self._store.load(campaign_id)
        except NotFoundError as why:
            detail = f"There is no campaign {campaign_id!r}."
            raise PlanError([Problem("/cohort/updated_by", "plan.cohort.updated_by", detail)]) from why
        if other.release_id == plan.release:
            detail = f"Campaign {campaign_id} brought this very release."
            raise PlanError([Problem("/cohort/updated_by", "plan.cohort.updated_by", detail)])
        if plan.cohort.previously is not None:
            await self._release("/cohort/previously", plan.cohort.previously)

    async def submit(
        self, campaign_id: str, *, actor: str, command_id: str, expected_version: int | None = None
    ) -> Executed:
        """Count the fleet, freeze every number into the dossier, and ask for approval. Raises PlanError if the plan does not fit."""
        campaign = await self._store.load(campaign_id)
        digest, frozen, counted_at = "", dict[str, Any](), None
        if campaign.state is c.CampaignState.DRAFT:
            counted, dossier = await self._resolve(parse_plan(campaign.plan))
            counted_at = counted.at
            if not isinstance(dossier, Dossier):
                raise PlanError(dossier)
            digest, frozen = dossier_digest(dossier), dossier.canonical()

        def build(_: c.Campaign, __: Standing) -> c.Command:
            return c.Submit(actor=actor, digest=digest, dossier=frozen, counted_at=counted_at)

        return await self._store.execute(
            campaign_id, build, command_id=command_id, meta=self._meta(actor), expected_version=expected_version
        )

    async def approve(
        self, campaign_id: str, digest: str, *, actor: str, command_id: str, expected_version: int | None = None
    ) -> Executed:
        """Approve a submitted plan, a revision that waits, or the resume of a halted campaign; ``digest`` says what was reviewed."""

        def build(_: c.Campaign, standing: Standing) -> c.Command:
            return c.Approve(
                actor=actor,
                digest=digest,
                release_halts=standing.release_halts,
                ledger_position=standing.ledger_position,
            )

        return await self._store.execute(
            campaign_id, build, command_id=command_id, meta=self._meta(actor), expected_version=expected_version
        )

    async def approve_phase(
        self,
        campaign_id: str,
        phase: int,
        digest: str,
        *,
        actor: str,
        command_id: str,
        expected_version: int | None = None,
    ) -> Executed:
        """Let a phase promote that waits for people. Phases count from 0."""

        def build(_: c.Campaign, __: Standing) -> c.Command:
            return c.ApprovePhase(actor=actor, phase=phase, digest=digest)

        return await self._store.execute(
            campaign_id, build, command_id=command_id, meta=self._meta(actor), expected_version=expected_version
        )

    async def launch(
        self, campaign_id: str, *, actor: str, command_id: str, expected_version: int | None = None
    ) -> Executed:
        """Start an approved campaign. Raises ReleaseQuarantinedError if its release was halted elsewhere after the approval."""

        def build(_: c.Campaign, standing: Standing) -> c.Command:
            return c.Launch(actor=actor, ledger_position=standing.ledger_position, release_halts=standing.release_halts)

        return await self._store.execute(
            campaign_id, build, command_id=command_id, meta=self._meta(actor), expected_version=expected_version
        )

    async def pause(
        self, campaign_id: str, reason: str, *, actor: str, command_id: str, expected_version: int | None = None
    ) -> Executed:
        """Hold offers; devices that started go on."""
        require_reason(reason)

        def build(_: c.Campaign, standing: Standing) -> c.Command:
            return c.Pause(actor=actor, reason=reason, ledger_position=standing.ledger_position)

        meta = self._meta(actor, reason)
        return await self._store.execute(
            campaign_id, build, command_id=command_id, meta=meta, expected_version=expected_version
        )

    async def resume(
        self, campaign_id: str, reason: str, *, actor: str, command_id: str, expected_version: int | None = None
    ) -> Executed:
        """Go on after a pause, or after a halt that somebody else has approved to end."""
        require_reason(reason)

        def build(_: c.Campaign, standing: Standing) -> c.Command:
            return c.Resume(actor=actor, reason=reason, ledger_position=standing.ledger_position, at=standing.now)

        meta = self._meta(actor, reason)
        return await self._store.execute(
            campaign_id, build, command_id=command_id, meta=meta, expected_version=expected_version
        )

    async def halt(self, campaign_id: str, reason: str, *, actor: str, command_id: str) -> Executed:
        """Stop offers at this commit, and ask started devices to cancel. Never refused for being stale."""
        require_reason(reason)

        def build(campaign: c.Campaign, standing: Standing) -> c.Command:
            return c.Halt(
                event=CampaignHalted(
                    by=actor,
                    reason=reason,
                    phase=campaign.phase if campaign.phase >= 0 else None,
                    gate_epoch=campaign.gate_epoch,
                    ledger_position=standing.ledger_position,
                )
            )

        return await self._store.execute(campaign_id, build, command_id=command_id, meta=self._meta(actor, reason))

    async def abort(
        self, campaign_id: str, reason: str, *, actor: str, command_id: str, expected_version: int | None = None
    ) -> Executed:
        """End the campaign for good."""
        require_reason(reason)

        def build(_: c.Campaign, standing: Standing) -> c.Command:
            return c.Abort(actor=actor, reason=reason, ledger_position=standing.ledger_position)

        meta = self._meta(actor, reason)
        return await self._store.execute(
            campaign_id, build, command_id=command_id, meta=meta, expected_version=expected_version
        )

    async def preview(self, campaign_id: str) -> Preview:
        """What the campaign's plan means: of a draft for the fleet as it is now, otherwise as it was submitted."""
        campaign = await self._store.load(campaign_id)
        found = await self._preview(campaign)
        if campaign.state not in {c.CampaignState.DRAFT, c.CampaignState.SUBMITTED, c.CampaignState.APPROVED}:
            return found
        plan = parse_plan(campaign.plan)
        release = await self._releases.release(campaign.release_id)
        withheld = await self._cohorts.withheld(
            plan,
            Target(release.version, release.artifacts),
            release_id=release.release_id,
            campaign_id=campaign_id,
        )
        return replace(found, withheld=withheld)

    async def _preview(self, campaign: c.Campaign) -> Preview:
        if campaign.digest is not None:
            dossier = Dossier.model_validate(campaign.dossier)
            before_launch = campaign.state in {c.CampaignState.SUBMITTED, c.CampaignState.APPROVED}
            found = await self._inspect(campaign, dossier.plan) if before_launch else NOTHING_FOUND
            return replace(
                summarize(dossier, digest=campaign.digest, frozen=True, found=found),
                revision=revision_preview(campaign),
            )
        plan = parse_plan(campaign.plan)
        (counted, resolved), found = await asyncio.gather(self._resolve(plan), self._inspect(campaign, plan))
        strata = counted.strata
        if isinstance(resolved, Dossier):
            return summarize(resolved, digest=dossier_digest(resolved), frozen=False, found=found)
        return Preview(
            digest=None,
            frozen=False,
            devices=sum(strata.values()),
            holdback=plan.holdback_count(sum(strata.values())),
            strata=strata,
            phases=[],
            rules=[],
            retries=retries(plan),
            breaker=breaker_preview(plan),
            budget=[],
            health=[],
            remediation=remediation_preview(plan),
            problems=resolved,
            conflicts=found.conflicts,
            not_applicable=found.not_applicable,
        )

    async def _inspect(self, campaign: c.Campaign, plan: Plan) -> Inspection:
        release = await self._releases.release(plan.release)
        target = Target(release.version, release.artifacts)
        return await self._cohorts.inspect(plan, target, campaign.campaign_no)

    async def _resolve(self, plan: Plan) -> tuple[Counted, Dossier | list[Problem]]:
        """The cohort, counted, and the plan's dossier for the fleet as it is now, or what keeps it from having one."""
        release = await self._releases.release(plan.release)
        counted = await self._cohorts.count(plan, Target(release.version, release.artifacts))
        problems = validate_against(
            plan,
            strata_sizes=counted.strata,
            named=counted.named,
            release_models=list(release.artifacts),
            budget=counted.budget,
        )
        if problems:
            return counted, problems
        # A million devices take about a second per rule: not on the event loop.
        return counted, await asyncio.to_thread(
            freeze,
            plan,
            strata_sizes=counted.strata,
            named=counted.named,
            release_digest=release.digest,
            budget=counted.budget,
        )

    def _meta(self, actor: str, reason: str | None = None) -> Meta:
        return Meta(actor=actor, reason=reason, traceparent=self._traceparent())


def require_reason(reason: str) -> None:
    if not reason.strip() or len(reason) > MAX_REASON:
        raise ReasonError
