"""How many devices a phase offers a minute: a steady rate, or one that grows with what has gone well.

The growing rate is AWS IoT Jobs' exponential rollout (https://docs.aws.amazon.com/iot/latest/developerguide/jobs-configurations-details.html):
``base`` devices a minute, times ``factor`` for every ``every`` devices that were confirmed, or offered, in the phase.
"""

from __future__ import annotations

from math import floor, log
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.domain.plan_fields import MAX_COUNT, Integer, Number, PlanModel, between

MAX_FACTOR: Final = 10.0
"""Largest factor of one step: a rate that grows faster is no ramp."""

PerMinute = Annotated[Integer, between("plan.field.value", 1, MAX_COUNT)]


def _factor(value: float) -> float:
    if not 1.0 < value <= MAX_FACTOR:
        raise PydanticCustomError(
            "plan.rate.factor", "A growth factor lies above 1, at most {most}.", {"most": MAX_FACTOR}
        )
    return value


class Exponential(PlanModel):
    """``min(maximum, base * factor ** floor(progress / every))`` devices a minute."""

    base: PerMinute
    factor: Annotated[Number, AfterValidator(_factor)]
    every: PerMinute
    """Devices until the next step."""
    of: Literal["confirmed", "offered"] = "confirmed"
    """What counts as progress in the phase. ``offered`` grows without waiting for any answer."""
    maximum: PerMinute

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.maximum < self.base:
            raise PydanticCustomError("plan.rate.maximum", "The maximum rate is below the rate at the beginning.")
        return self


class Pace(PlanModel):
    """Devices offered per minute at most: steady or exponential."""

    per_minute: PerMinute | None = None
    exponential: Exponential | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.per_minute is None) == (self.exponential is None):
            raise PydanticCustomError("plan.rate.kind", "A rate has exactly one of 'per_minute' and 'exponential'.")
        return self

    def now(self, *, confirmed: int, offered: int) -> int:
        """Devices a minute after so many of the phase were confirmed and offered."""
        if self.exponential is None:
            assert self.per_minute is not None
            return self.per_minute
        ramp = self.exponential
        steps = (confirmed if ramp.of == "confirmed" else offered) // ramp.every
        if steps * log(ramp.factor) >= log(ramp.maximum / ramp.base):
            return ramp.maximum  # before the power overflows
        return min(ramp.maximum, floor(ramp.base * ramp.factor**steps))
