"""TCP ports of this machine: which are free, and who has those that are not."""

from __future__ import annotations

import os
import random
import socket

import psutil

from ray_pipeline.errors import UsageError

_OWN = range(20_000, 30_000)
"""Below the ports that Linux and macOS give to outgoing connections, one of which would else take
a port between the time that it was found free and its use; above those of Ray's workers."""
_VARIABLE = "RAY_PIPELINE_PORTS"
_given: set[int] = set()
"""What this process was told are free, and has perhaps not used yet."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment, each another, and none that this process was
    given before as long as there are others.

    They are from 20000 to 29999, or as the environment's `RAY_PIPELINE_PORTS` says, such as
    `21000-21999`: processes that start clusters at the same time are best told of different ones.

    Raises:
        UsageError: the variable is not two numbers.
        OSError: fewer are free.
    """
    own, found = _own(), list[int]()
    for port in sorted(random.sample(own, len(own)), key=_given.__contains__):
        if len(found) == count:
            break
        if is_free(port, ""):
            found.append(port)
    if len(found) < count:
        raise OSError(
            f"of the ports {own.start} to {own.stop - 1}, {len(found)} are free, not {count}"
        )
    _given.update(found)
    return found


def free_block(count: int, within: range) -> range:
    """One of the blocks of `count` ports in `within` in which nobody listens, by chance.

    Raises:
        OSError: somebody listens in each.
    """
    blocks = [within[at : at + count] for at in range(0, len(within) - count + 1, count)]
    random.shuffle(blocks)
    for block in blocks:
        if all(is_free(port, "") for port in block):
            return block
    raise OSError(f"of the ports {within.start} to {within.stop - 1}, no {count} in a row are free")


def _own() -> range:
    told = os.environ.get(_VARIABLE)
    if told is None:
        return _OWN
    first, _, last = told.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 2**16):
        raise UsageError(
            f"`{told}` is not a range of ports",
            where=f"{_VARIABLE} in the environment",
            expected="the first and the last one, such as 21000-21999",
        )
    return range(int(first), int(last) + 1)


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
