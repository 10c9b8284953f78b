"""A thin, typed, synchronous client of the operator API, on ``httpx``."""

from orchestrator.client.client import OtaClient
from orchestrator.client.errors import ApiAddressError, ApiError, ApiUnreachableError, NoApiKeyError

__all__ = ["ApiAddressError", "ApiError", "ApiUnreachableError", "NoApiKeyError", "OtaClient"]
