"""``orchestrator.app.deliveries.Poster`` with httpx.

One request per attempt: no redirects, because the address that was registered is the one that is told; no proxies and no credentials
from the environment; of the answer only the status is read, so neither a long body nor one that drips costs anything, and nobody can
read through us what an address inside says. Addresses in refused networks are refused after the name was resolved, and the connection
goes to the address that was looked at.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from types import TracebackType
from typing import Any, Final, Self

import httpx

from orchestrator.app.deliveries import Attempt

MAX_ERROR: Final = 300
"""Characters of an error that are kept."""


class HttpPoster:
    """One client for all endpoints.

    Args:
        timeout: seconds of an attempt, name and connection included.
        refused: networks that nothing is sent to, comma separated.
        tls: whom to trust; without it the system's certificates.
    """

    def __init__(self, timeout: float, refused: str, tls: ssl.SSLContext | None = None) -> None:
        self._timeout = timeout
        self._refused: Sequence[IPv4Network | IPv6Network] = [
            ip_network(each.strip()) for each in refused.split(",") if each.strip()
        ]
        # The system's certificates, and SSL_CERT_FILE, so that receivers on premises may have theirs from an authority of the house.
        self._client = httpx.AsyncClient(
            follow_redirects=False, trust_env=False, timeout=timeout, verify=tls or ssl.create_default_context()
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        try:
            async with asyncio.timeout(self._timeout):
                target = httpx.URL(url)
                *others, last = await self._resolve(target)
                for address in others:
                    try:
                        return await self._send(target, address, headers, body)
                    except httpx.ConnectError:
                        continue  # nothing was sent
                return await self._send(target, last, headers, body)
        except TimeoutError:
            return Attempt(error=f"No answer within {self._timeout:g} s.")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, ValueError) as error:
            return Attempt(error=repr(error).replace("\0", "")[:MAX_ERROR])

    async def _send(self, target: httpx.URL, address: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        """To this address, as the host that the name says: also the certificate must be the name's."""
        request = self._client.build_request(
            "POST",
            target.copy_with(host=address),
            headers={**headers, "host": target.netloc.decode("ascii")},
            content=body,
            extensions={"sni_hostname": target.host},
        )
        answer = await self._client.send(request, stream=True)
        await answer.aclose()
        return Attempt(status=answer.status_code)

    async def _resolve(self, target: httpx.URL) -> list[str]:
        """The addresses of the name, each once. Raises ValueError if one of them is in a refused network."""
        found: Any = await asyncio.get_running_loop().getaddrinfo(
            target.host, target.port or (443 if target.scheme == "https" else 80), type=socket.SOCK_STREAM
        )
        addresses = [ip_address(str(item[4][0]).partition("%")[0]) for item in found]
        for address in addresses:
            plain = getattr(address, "ipv4_mapped", None) or address
            if any(plain in network for network in self._refused if network.version == plain.version):
                raise ValueError(f"{target.host} is at {address}, where nothing is sent to.")
        return list(dict.fromkeys(map(str, addresses)))
