"""The gateway's own interface, ``/device/v1/{deviceId}/health``: what hawkBit's has no words for.

``POST`` with the device's token (``Authorization: TargetToken …``) and one period of one signal::

    {"signal": "crash", "period": 17, "events": 2, "exposure_ms": 3600000}

- ``signal``: what is counted, a name of the operator's choice in lower case; halt rules name it.
- ``period``: an integer that no other period of this signal has: counted up in flash, or the time at which the period began.
- ``events``: how often it came in the period, from 0. A device that has nothing to tell says so: its time counts as well.
- ``exposure_ms``: how long the period was, as time that the device ran.

A period's own numbers and never running totals, so a client may repeat a report until it is answered 200, and send periods in any
order. 200 means stored: the broker has acknowledged it. 400 (``report.malformed``, ``report.invalid``) and 413 are final; 408, 429 and
5xx mean "later", 429 with ``Retry-After``. Unknown fields are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from api.devices.errors import InvalidReportError, MalformedReportError, MethodNotAllowedError, UnknownPathError
from api.devices.http import Answer, Request
from api.devices.reports import ReportWriter, taken
from api.devices.services import Device, GatewayServices
from schemas import device_events as d

SOURCE = "/gateway/native"
"""``source`` of the events that come in here."""


class HealthReports:
    """Takes reports on health."""

    def __init__(self, services: GatewayServices, writer: ReportWriter) -> None:
        self._services = services
        self._writer = writer

    async def handle(self, request: Request, device: Device, path: Sequence[str]) -> None:
        """Answer an authenticated device; ``path`` is what follows its id. Raises OtaError."""
        if list(path) != ["health"]:
            raise UnknownPathError
        if request.method != "POST":
            raise MethodNotAllowedError(f"{request.method} is not possible here.", allow="POST")
        await request.answer(await self._take(request, device))

    async def _take(self, request: Request, device: Device) -> Answer:
        with self._writer.slot():
            report = parse_health(await request.body(self._services.settings.max_report_bytes))
            event = d.DeviceEvent(
                id=d.health_id(device.device_id, report),
                source=SOURCE,
                type=d.HEALTH,
                subject=device.device_id,
                device_no=device.device_no,
                recorded_at=self._services.clock(),
                data=msgspec.Raw(d.encode(report)),
            )
            await self._writer.write(event)
        return taken(event)


def parse_health(body: bytes) -> d.Health:
    """Read a report's body.

    Raises:
        MalformedReportError: not JSON.
        InvalidReportError: not a report on health, or its numbers are beyond all sense.
    """
    try:
        return d.decode_health(body)
    except msgspec.ValidationError as error:
        raise InvalidReportError(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedReportError(str(error)) from error
