"""Ports and interfaces that the ranks of several machines meet at."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import psutil

# Below the range that Linux gives to outgoing connections, which begins at 32768.
_FIRST_PORT, _NUM_PORTS = 20000, 12000
_MAX_CANDIDATES = 50


def ports_of(number: int, restart: int = 0) -> Iterator[int]:
    """Free ports of this machine, in an order that differs from job to job and start to start.

    What is yielded is free at that moment; another process may still be faster, so ask for the
    next then.

    Args:
        number: Of the job, or of the process that starts the ranks.
        restart: How often it was started before: ranks of an earlier start may still be dying.
    """
    first = number * 7 + restart
    for number in range(_MAX_CANDIDATES):
        # A large step: jobs with neighbouring numbers do not walk over each other's ports.
        port = _FIRST_PORT + (first + 997 * number) % _NUM_PORTS
        if is_free(port):
            yield port


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of this machine now."""
    for family in (socket.AF_INET6, socket.AF_INET):
        try:
            with socket.socket(family) as probe:
                # As the store's server does: what a dead one left behind is no hindrance.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", port))
        except OSError as error:
            # Anything else says that this machine does not speak the family.
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
    return True


def interface_towards(host: str) -> str | None:
    """The network interface through which this machine reaches another; None: not known."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # sends nothing: the kernel only chooses a route
            own = str(probe.getsockname()[0])
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == own for one in addresses):
            return str(name)
    return None
