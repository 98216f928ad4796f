"""TCP ports of this machine: which are free, and who has those that are not."""

from __future__ import annotations

import random
import socket

import psutil

_OWN = range(20_000, 30_000)
"""Below the ports that Linux and macOS give to outgoing connections, one of which would else take
a port between the time that it was found free and its use; above those of Ray's workers."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment, each another.

    Raises:
        OSError: fewer are free.
    """
    found: list[int] = []
    for port in random.sample(_OWN, len(_OWN)):
        if len(found) == count:
            return found
        if is_free(port, ""):
            found.append(port)
    raise OSError(
        f"of the ports {_OWN.start} to {_OWN.stop - 1}, {len(found)} are free, not {count}"
    )


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def owner(port: int) -> str:
    """Who listens on the port, as far as this user may know."""
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN
        if listens and connection.laddr and connection.laddr.port == port and connection.pid:
            return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another process"
