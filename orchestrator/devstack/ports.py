"""Ports on the loopback interface that stay the same while a component is restarted.

They are chosen below the range from which the kernel takes the local ports of outgoing connections (32768 on Linux,
49152 elsewhere): otherwise any of the thousands of connections of a simulated fleet could take a component's port
while it restarts.
"""

from __future__ import annotations

import random
import socket
from contextlib import closing
from pathlib import Path

HOST = "127.0.0.1"

#: First and last port to choose from: above the well-known services, below every kernel's range for outgoing
#: connections.
FIRST_PORT = 20_000
LAST_PORT = 31_999

# Not the module's functions: a test run seeds those, and then all its processes would try the same ports.
_random = random.SystemRandom()


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with closing(socket.socket()) as probe:
        # As servers do: connections of a dead predecessor in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> tuple[int, ...]:
    """Return that many different free ports."""
    found: list[int] = []
    while len(found) < count:
        port = _random.randint(FIRST_PORT, LAST_PORT)
        if port not in found and is_free(port):
            found.append(port)
    return tuple(found)


class KeptPorts:
    """A component's ports in a file of its folder: each is kept for as long as nobody else has taken it."""

    def __init__(self, file: Path, count: int = 1) -> None:
        self._file = file
        self._count = count

    def read(self) -> tuple[int, ...]:
        """Return the ports last claimed.

        Raises:
            FileNotFoundError: none were.
        """
        return tuple(int(word) for word in self._file.read_text(encoding="ascii").split())

    def claim(self) -> tuple[int, ...]:
        """Return the kept ports, new ones in the place of those that are not free; they are kept from now on.

        One by one: the port of a page that nobody serves is taken sooner or later, and the server's must not move with it.
        """
        try:
            kept = self.read()
        except FileNotFoundError:
            kept = ()
        if len(kept) != self._count:
            kept = free_ports(self._count)
        chosen = tuple(port if is_free(port) else free_ports(1)[0] for port in kept)
        self._file.write_text(" ".join(map(str, chosen)) + "\n", encoding="ascii")
        return chosen
