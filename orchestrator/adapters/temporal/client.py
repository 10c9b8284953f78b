"""The connection to Temporal, the same for starters and workers."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.contrib.pydantic import pydantic_data_converter

from orchestrator.config import Settings
from workflows.messages import SEARCH_ATTRIBUTES

RPC_TIMEOUT: Final = timedelta(seconds=5)
"""For one request: a server that takes longer is treated as down, and the request is made again."""


async def connect(settings: Settings, *, lazy: bool = True) -> Client:
    """A client of the settings' server. A lazy one connects with its first request; a worker needs one that is connected.

    The tracing interceptor belongs here only: workers take it from their client.
    """
    return await Client.connect(
        settings.temporal_address,
        namespace=settings.temporal_namespace,
        data_converter=pydantic_data_converter,
        interceptors=[TracingInterceptor()],
        lazy=lazy,
    )


async def register_search_attributes(client: Client) -> None:
    """Register what the workflows upsert, where it is missing; a worker must not start before that."""
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace), timeout=RPC_TIMEOUT
    )
    missing = {
        key.name: IndexedValueType.ValueType(key.indexed_value_type)
        for key in SEARCH_ATTRIBUTES
        if key.name not in known.custom_attributes
    }
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing), timeout=RPC_TIMEOUT
        )
