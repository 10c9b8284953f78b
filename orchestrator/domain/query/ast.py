"""What a selector is once it has been read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Operator(StrEnum):
    """Comparisons, as they are written."""

    EQUAL = "=="
    NOT_EQUAL = "!="
    IN = "=in="
    NOT_IN = "=out="
    LESS = "=lt="
    AT_MOST = "=le="
    MORE = "=gt="
    AT_LEAST = "=ge="
    EXISTS = "=exists="


ORDERED = frozenset({Operator.LESS, Operator.AT_MOST, Operator.MORE, Operator.AT_LEAST})


@dataclass(frozen=True, slots=True)
class Comparison:
    """One field against one value, or several for ``=in=`` and ``=out=``.

    In a pattern (``==`` and ``!=`` with an unquoted ``*``) the parts between the asterisks are kept apart: ``a*b`` is ``("a", "b")``.
    """

    field: str
    operator: Operator
    values: tuple[str, ...]
    pattern: bool = False


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Query, ...]


Query = Comparison | And | Or
