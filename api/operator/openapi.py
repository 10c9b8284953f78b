"""The description of the API: every answer that is no success is a problem, so it is stated once per operation as ``default``."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.operator.models import Problem
from api.problems import MEDIA_TYPE

_REPLACED: Final = ("HTTPValidationError", "ValidationError")


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the app, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, definitions = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
        schemas: dict[str, Any] = document["components"]["schemas"]
        for name in _REPLACED:
            schemas.pop(name, None)
        schemas.update(definitions["$defs"])
        problem = {
            "description": "Anything else: a problem with a stable `code` (RFC 9457).",
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = problem
        app.openapi_schema = document
    return app.openapi_schema
