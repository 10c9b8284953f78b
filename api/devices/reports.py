"""What every report goes through, whatever language it was made in: a bounded number in hand, and the broker's acknowledgement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from api.devices.errors import OverloadedError
from api.devices.http import Answer, Headers
from api.devices.services import MAX_REPORTS_IN_HAND, GatewayServices
from orchestrator import failpoints
from schemas import device_events as d

EVENT_ID: Final = b"ota-event-id"
"""Header in which a report's answer says under which id it is stored."""


class ReportWriter:
    """Writes reports to the log of facts; one for all interfaces of a gateway, because they share its memory."""

    def __init__(self, services: GatewayServices) -> None:
        self._services = services
        self._in_hand = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """A report being read or written. Raises OverloadedError."""
        if self._in_hand >= MAX_REPORTS_IN_HAND:
            raise OverloadedError
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1

    async def write(self, event: d.DeviceEvent) -> tuple[int, int]:
        """Partition and offset, once the broker has acknowledged the event."""
        failpoints.hit("gateway.before_send")
        written = await self._services.facts.send(event, self._services.traceparent())
        failpoints.hit("gateway.after_ack")
        self._services.ingested(event.type)
        return written


def taken(event: d.DeviceEvent) -> Answer:
    """The answer to a report that is stored: 200 with a length, never 201, 202 or 204, which common clients take for failure."""
    headers: Headers = [(EVENT_ID, event.id.encode())]
    return Answer(headers=headers)
