"""What the owner of a device wants, and whether a campaign may offer to the device now.

An owner may opt out, postpone, and agree to a release or a campaign. A plan says whether it needs the owner's consent and whether it
overrides an opt-out or a postponement, which takes a reason; it may also ask for what a device last reported, such as its battery.
Whatever the plan does not override is honoured: no time limit ends it.

Invariants
- ``decide`` and ``evolve`` are pure; stating the same will again gives no event.
- A device that is withheld is neither offered nor started; what has started goes on, because interrupting it could leave no way back.
- What was not reported is not met (:mod:`orchestrator.domain.query`).

Not here: when a will is asked (at the offer, at the poll and at the start) and what becomes of devices that stay withheld
(:mod:`orchestrator.app.process`).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Literal, Self

from msgspec import Struct
from pydantic import model_validator
from pydantic_core import PydanticCustomError

from orchestrator.domain.plan_fields import Deadline, PlanModel, Text
from orchestrator.errors import InvalidInputError
from schemas.owner_events import Consent, OwnerWillStated

MAX_CONSENTS: Final = 100
"""Consents of a device: those that have served are left out of the next statement."""

DEFAULT_PATIENCE_MS: Final = 14 * 86_400_000
"""How long a campaign waits for devices that are withheld, after its last phase: owners look at their mail every week or two."""

LOOK_AGAIN_MS: Final = 900_000
"""A device that does not meet the preconditions is looked at again after this long: power and people come and go within the hour."""

WILL_LOOK_AGAIN_MS: Final = 3_600_000
"""One that is withheld by its owner's word is looked at after this long; a new word brings it forward."""


class WillError(InvalidInputError):
    """The will cannot be stated like this."""

    code = "owner.will"


class PostponementError(WillError):
    """An update cannot be postponed to that time."""

    code = "owner.postponed_until"
    remedy = (
        "Name a later time, within the longest postponement (`max_postponement_days`); who never wants it opts out."
    )


class OwnerPolicy(PlanModel):
    """What a plan asks of owners and what it overrides."""

    consent: Literal["required", "not_required"] = "not_required"
    opt_out: Literal["honoured", "overridden"] = "honoured"
    postpone: Literal["honoured", "overridden"] = "honoured"
    reason: Text | None = None
    """Why something is overridden; approvers read it."""
    patience: Deadline = DEFAULT_PATIENCE_MS
    """How long the campaign waits for devices that are withheld, once its last phase is promoted."""

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if self.reason is None and "overridden" in {self.opt_out, self.postpone}:
            raise PydanticCustomError("plan.owner.reason", "Overriding what owners want needs a 'reason'.")
        return self


class Will(Struct, frozen=True, kw_only=True):
    """What an owner wants, after ``version`` statements."""

    version: int = 0
    opted_out: bool = False
    postponed_until: int | None = None
    consents: tuple[Consent, ...] = ()


NOTHING_SAID: Final = Will()


class StateWill(Struct, frozen=True, kw_only=True):
    """The whole will, as somebody states it at ``at`` (ms)."""

    device_no: int
    device_id: str
    opted_out: bool
    postponed_until: int | None
    consents: tuple[Consent, ...]
    reason: str
    on_behalf_of: str | None
    actor: str
    at: int


def decide(will: Will, command: StateWill, longest_ms: int) -> list[OwnerWillStated]:
    """The event that the command causes; none if that is what holds already.

    Args:
        will: before the command.
        command: the new will.
        longest_ms: how far from now an update may be postponed.

    Raises:
        PostponementError: it is postponed to the past, or too far.
        WillError: a consent names not exactly one thing, one thing is named twice, or there are too many.
    """
    consents = _in_order(command.consents)
    said = will.opted_out, will.postponed_until, will.consents
    if said == (command.opted_out, command.postponed_until, consents):
        return []
    until = command.postponed_until
    if until is not None and until != will.postponed_until and not command.at < until <= command.at + longest_ms:
        raise PostponementError(f"An update is postponed to within {longest_ms // 86_400_000} days from now.")
    return [
        OwnerWillStated(
            device_no=command.device_no,
            device_id=command.device_id,
            opted_out=command.opted_out,
            postponed_until=until,
            consents=list(consents),
            reason=command.reason,
            on_behalf_of=command.on_behalf_of,
            at=command.at,
            actor=command.actor,
        )
    ]


def evolve(will: Will, event: OwnerWillStated) -> Will:
    """The will after ``event``."""
    return Will(
        version=will.version + 1,
        opted_out=event.opted_out,
        postponed_until=event.postponed_until,
        consents=tuple(event.consents),
    )


def fold(events: Sequence[OwnerWillStated]) -> Will:
    """The will after all ``events``, oldest first."""
    will = NOTHING_SAID
    for event in events:
        will = evolve(will, event)
    return will


def _in_order(consents: Sequence[Consent]) -> tuple[Consent, ...]:
    if len(consents) > MAX_CONSENTS:
        raise WillError(f"{len(consents)} consents are more than {MAX_CONSENTS}; leave out those that have served.")
    if any((consent.release_id is None) == (consent.campaign_id is None) for consent in consents):
        raise WillError("A consent names a release or a campaign.")
    ordered = sorted(consents, key=lambda consent: (consent.release_id or "", consent.campaign_id or ""))
    if len({(consent.release_id, consent.campaign_id) for consent in ordered}) < len(ordered):
        raise WillError("A release or campaign is named twice.")
    return tuple(ordered)


# --------------------------------------------------------------------------- the rule


class Reason(StrEnum):
    """Why a device is withheld; of several the first one is named."""

    OPTED_OUT = "opted_out"
    POSTPONED = "postponed"
    CONSENT = "consent"
    """The plan needs the owner's consent, and there is none, or none that still counts."""
    PRECONDITIONS = "preconditions"


class Withheld(Struct, frozen=True):
    """A device is not offered and not started."""

    why: Reason
    until: int | None
    """When the reason ends by itself (ms); None if it needs another word or report."""

    def look_again(self, now: int) -> int:
        """When to look at the device again, ms."""
        if self.until is not None:
            return self.until
        return now + (LOOK_AGAIN_MS if self.why is Reason.PRECONDITIONS else WILL_LOOK_AGAIN_MS)


def withheld(
    policy: OwnerPolicy, will: Will, release_id: str, campaign_id: str, *, meets_preconditions: bool, now: int
) -> Withheld | None:
    """Why a campaign may not offer to a device, nor let it start, at ``now`` (ms); None if it may.

    Args:
        policy: of the campaign's plan.
        will: of the device's owner.
        release_id: what the campaign rolls out.
        campaign_id: the campaign.
        meets_preconditions: whether what the device last reported matches the plan's preconditions.
        now: ms.
    """
    if will.opted_out and policy.opt_out == "honoured":
        return Withheld(Reason.OPTED_OUT, None)
    until = will.postponed_until
    if until is not None and now < until and policy.postpone == "honoured":
        return Withheld(Reason.POSTPONED, until)
    if policy.consent == "required" and not _consents(will, release_id, campaign_id, now):
        return Withheld(Reason.CONSENT, None)
    if not meets_preconditions:
        return Withheld(Reason.PRECONDITIONS, None)
    return None


def _consents(will: Will, release_id: str, campaign_id: str, now: int) -> bool:
    return any(
        (consent.release_id == release_id or consent.campaign_id == campaign_id)
        and (consent.until is None or now < consent.until)
        for consent in will.consents
    )
