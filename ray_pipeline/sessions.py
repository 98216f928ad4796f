"""Processes that were started together, found and ended by the session that they share (setsid)."""

from __future__ import annotations

import contextlib
import os
import time

import psutil

_ASKED_S = 0.5


def members(leader: int, variable: str, mark: str) -> list[psutil.Process]:
    """The living processes of the session that the process `leader` began; empty once it ended.

    A process number may be used again after a restart of the machine, so that one of them at
    least must have `mark` as the value of `variable` in its environment.
    """
    found = _of(leader)
    return found if any(_has(process, variable, mark) for process in found) else []


def end(leader: int) -> None:
    """End every process of a session: asked first, killed after half a second."""
    asked_until = time.monotonic() + _ASKED_S
    for process in _of(leader):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    while time.monotonic() < asked_until and (left := _of(leader)):
        psutil.wait_procs(left, timeout=0.1)
    kill(leader)


def kill(leader: int) -> None:
    """End every process of a session at once, as a power cut would."""
    # One of them may still start others while it ends, so look again until nobody is there.
    while left := _of(leader):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=0.1)


def _of(leader: int) -> list[psutil.Process]:
    if leader <= 0:  # in a container, the session of all that was started from outside of it
        return []
    return [process for process in psutil.process_iter() if _session(process) == leader]


def _session(process: psutil.Process) -> int | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return os.getsid(process.pid)
    except (ProcessLookupError, PermissionError, psutil.Error):
        return None


def _has(process: psutil.Process, variable: str, mark: str) -> bool:
    try:
        return process.environ().get(variable) == mark
    except (psutil.Error, OSError):
        return False
