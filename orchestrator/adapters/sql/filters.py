"""Selectors as SQL over ``device``: what ``domain.query.matches`` says, in the database.

Every comparison comes out true or false, never null. Values and names of attributes are parameters; nothing of a selector becomes part
of the statement's text.
"""

from __future__ import annotations

from typing import Any, Final

from orchestrator.domain.query import And, Comparison, Operator, Or, Query

_LIKE: Final = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_"})
_SIGNS: Final = {Operator.LESS: "<", Operator.AT_MOST: "<=", Operator.MORE: ">", Operator.AT_LEAST: ">="}
_NUMBER: Final = r"^-?[0-9]{1,15}(\.[0-9]{1,15})?$"
_VERSION: Final = r"^[0-9]{1,9}(\.[0-9]{1,9}){0,7}$"


def compile_query(query: Query, first: int) -> tuple[str, list[Any]]:
    """A condition on the columns of ``device``, and its parameters, numbered from ``first`` on."""
    parameters: list[Any] = []

    def parameter(value: Any, kind: str = "text") -> str:
        parameters.append(value)
        return f"${first + len(parameters) - 1}::{kind}"

    def condition(part: Query) -> str:
        match part:
            case And():
                return "(" + " AND ".join(map(condition, part.parts)) + ")"
            case Or():
                return "(" + " OR ".join(map(condition, part.parts)) + ")"
            case Comparison():
                return comparison(part)

    def comparison(part: Comparison) -> str:
        column = part.field
        if column.startswith("attribute."):
            column = f"(attributes ->> {parameter(column.removeprefix('attribute.'))})"
        match part.operator:
            case Operator.EXISTS:
                return f"({column} IS {'NOT ' if part.values[0] == 'true' else ''}NULL)"
            case Operator.EQUAL | Operator.NOT_EQUAL:
                if part.pattern:
                    pattern = "%".join(value.translate(_LIKE) for value in part.values)
                    found = f"coalesce({column} LIKE {parameter(pattern)}, false)"
                else:
                    found = f"coalesce({column} = {parameter(part.values[0])}, false)"
                return found if part.operator is Operator.EQUAL else f"(NOT {found})"
            case Operator.IN | Operator.NOT_IN:
                found = f"coalesce({column} = ANY({parameter(list(part.values), 'text[]')}), false)"
                return found if part.operator is Operator.IN else f"(NOT {found})"
            case _:
                return ordered(part, column)

    def ordered(part: Comparison, column: str) -> str:
        sign, wanted = _SIGNS[part.operator], parameter(part.values[0])
        # CASE, because PostgreSQL may look at the cast before it looks at the pattern.
        if part.field == "version":
            compared = f"string_to_array({column}, '.')::int[] {sign} string_to_array({wanted}, '.')::int[]"
            return f"(CASE WHEN {column} ~ '{_VERSION}' THEN {compared} ELSE false END)"
        compared = f"{column}::numeric {sign} {wanted}::numeric"
        return f"(CASE WHEN {column} ~ '{_NUMBER}' THEN {compared} ELSE false END)"

    return condition(query), parameters
