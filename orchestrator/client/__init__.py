"""A thin, typed, synchronous client of the operator API, on ``httpx``."""

from orchestrator.client.client import OtaClient
from orchestrator.client.errors import ApiError, ApiUnreachableError

__all__ = ["ApiError", "ApiUnreachableError", "OtaClient"]
