"""Answers to "why does it not move, and when will it be done", as they travel over the operator API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.operator.models import Time

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Output(BaseModel):
    model_config = ConfigDict(from_attributes=True)


def _moments(data: Any) -> Any:
    """The data with moments in writing: those under names that end in ``_at``."""
    match data:
        case dict():
            return {key: _moment(value) if str(key).endswith("_at") else _moments(value) for key, value in data.items()}
        case list() | tuple():
            return [_moments(each) for each in data]
        case _:
            return data


def _moment(value: Any) -> Any:
    if not isinstance(value, int):
        return value
    text = (_EPOCH + timedelta(milliseconds=value)).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class Condition(Output):
    code: str = Field(description="Stays; the page `deploy/docs/why.md` lists all.")
    detail: str
    data: Annotated[dict[str, Any], BeforeValidator(_moments)] = Field(description="The numbers behind it.")
    remedy: str | None = Field(description="What people can do; null where waiting is all there is.")
    until: Time | None = Field(description="When it ends by itself, if that can be known.")


class Sample(Output):
    confirmed: int = Field(description="Confirmed devices that were measured, from offer to confirmation.")
    low: int = Field(description="Milliseconds; a tenth took no longer.")
    median: int
    high: int = Field(description="Nine tenths took no longer.")


class PhaseEta(Output):
    phase: int
    name: str
    remaining: int = Field(description="Devices that wait for an offer.")
    under_way: int
    low: Time
    likely: Time
    high: Time
    open_ended: list[str] = Field(description="Whom it waits for: then the times are the earliest ones.")


class Eta(Output):
    none_because: str | None = Field(description="Why there is no estimate.")
    low: Time | None
    likely: Time | None
    high: Time | None
    open_ended: list[str]
    phases: list[PhaseEta]
    basis: str
    sample: Sample


class CampaignWhy(Output):
    campaign_id: str
    state: str
    phase: int
    at: Time
    why: Condition = Field(description="The first condition that holds it.")
    further: list[Condition] = Field(description="What would hold next.")
    eta: Eta


class CampaignEta(Output):
    campaign_id: str
    state: str
    at: Time
    eta: Eta


class Place(Output):
    campaign_id: str
    state: str = Field(description="The campaign's.")
    member: bool
    why: Condition
    further: list[Condition]


class DeviceWhy(Output):
    device_id: str
    last_seen_at: Time | None
    at: Time
    campaigns: list[Place] = Field(
        description="Those that are not over, or the one that was asked for; the newest first."
    )
