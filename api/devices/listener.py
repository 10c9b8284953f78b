"""The gateway's listening socket: bound by us, so that the queue in front of it can be seen.

A server that accepts one connection at a time between its other work never looks late to itself: in a storm all waiting is done in the
kernel's queue, and what does not fit there is dropped and tried again by the client's kernel after one, three and seven seconds.
"""

from __future__ import annotations

import resource
import socket
import struct
import sys
from typing import Final

MOST_DESCRIPTORS: Final = 65_536
"""Descriptors that a gateway asks for, if it may: most systems start a process with 1,024, and every connection takes one."""

_QUEUED: Final = struct.Struct("=24xI")
"""``tcpi_unacked`` of ``struct tcp_info`` in <linux/tcp.h>: of a listening socket, the connections that were not accepted yet."""


def bind(host: str, port: int) -> socket.socket:
    """A socket that does not listen yet. Raises OSError: the address is taken, or not ours."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def queued(listener: socket.socket) -> int:
    """Connections that wait to be accepted; 0 where the system does not tell, and once the socket is closed."""
    if sys.platform != "linux":
        return 0
    try:
        return _QUEUED.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUED.size))[0]
    except OSError:
        return 0


def raise_descriptor_limit() -> int:
    """Take as many descriptors as this process may have, up to ``MOST_DESCRIPTORS``; how many there are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
