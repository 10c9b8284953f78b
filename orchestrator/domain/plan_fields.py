"""The kinds of values that a plan is made of, and what it says of one that is wrong.

All problems are collected; nobody corrects a plan one error at a time. Not here: which fields there are
(:mod:`orchestrator.domain.plan` and the modules of its parts).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, LiteralString

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from orchestrator.domain.durations import DurationError, parse_duration
from orchestrator.errors import InvalidInputError

RATE_STEP: Final = 1e-6
"""Closest that a rate may come to 0 or 1. Beyond it a promote test would need millions of clean devices."""

MAX_COUNT: Final = 10_000_000
"""Upper end of every count of devices in a plan: ten times the fleet this is built for."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a plan: where (a JSON pointer), which kind, and a sentence."""

    pointer: str
    code: str
    detail: str


class PlanError(InvalidInputError):
    """The plan is not valid."""

    code = "plan.invalid"
    remedy = "Correct the plan at the given pointers and send it again."

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Take all problems; if they are of one kind, its code is the error's code."""
        found = list(problems)
        self.errors = [asdict(problem) for problem in found]
        super().__init__(" ".join(problem.detail for problem in found[:3]), errors=self.errors)
        kinds = {problem.code for problem in found}
        if len(kinds) == 1:
            self.code = kinds.pop()


def _rate(value: float) -> float:
    if not RATE_STEP <= value <= 1.0 - RATE_STEP:
        raise PydanticCustomError(
            "plan.rate.range", "A rate lies strictly between 0 and 1, got {value}.", {"value": value}
        )
    return value


def _percent(value: float) -> float:
    if not 0.0 < value <= 100.0:
        raise PydanticCustomError("plan.phase.size", "A percentage lies in (0, 100], got {value}.", {"value": value})
    return value


def _duration(value: object) -> int:
    try:
        return parse_duration(value)
    except DurationError as error:
        text = f"{error.detail} {error.remedy}"
        raise PydanticCustomError("plan.duration", "{text}", {"text": text}) from error


def _positive(value: int) -> int:
    if value < 1:
        raise PydanticCustomError("plan.duration.range", "This duration must be longer than zero.")
    return value


def between(code: LiteralString, low: int, high: int) -> AfterValidator:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise PydanticCustomError(
                code,
                "A whole number from {low} to {high} is needed, got {value}.",
                {"low": low, "high": high, "value": value},
            )
        return value

    return AfterValidator(check)


def filled(value: tuple[Any, ...]) -> tuple[Any, ...]:
    # Not a minimum length of the field: that also counts entries that are there and wrong as missing.
    if not value:
        raise PydanticCustomError("plan.field.value", "At least one entry is needed.")
    return value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Integer = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1, max_length=2_000, pattern=r"^[^\x00]*$")]
Line = Annotated[str, Field(strict=True, min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]*$")]
Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Dimension = Annotated[str, Field(strict=True, pattern=r"^(hardware_model|attribute\.[A-Za-z0-9_.-]{1,64})$")]
Percent = Annotated[Number, AfterValidator(_percent)]
Rate = Annotated[Number, AfterValidator(_rate)]
Count = Annotated[Integer, between("plan.phase.size", 1, MAX_COUNT)]
InFlightCap = Annotated[Integer, between("plan.in_flight.range", 1, MAX_COUNT)]
Duration = Annotated[int, BeforeValidator(_duration, json_schema_input_type=str | int)]
Deadline = Annotated[Duration, AfterValidator(_positive)]
Scope = Literal["campaign", "phase", "stratum"]
"""What a halt rule counts in: everything, or each phase or stratum by itself."""


class PlanModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def pointer_part(name: object) -> str:
    """A member's name, or an index, as it stands in a JSON pointer."""
    return str(name).replace("~", "~0").replace("/", "~1")


def exact(value: float) -> Fraction:
    """The decimal number that was written: 0.006 + 0.002 + 0.002 must not exceed 0.01."""
    return Fraction(repr(value))
