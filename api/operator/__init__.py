"""The operator API."""

from __future__ import annotations

from api.operator.app import create_app
from api.operator.services import OperatorServices

__all__ = ["OperatorServices", "create_app"]
