"""One local Ray cluster: started with Serve's fast path, recorded, found again, stopped whole.

It outlives the command that started it. All its processes share one session (setsid), which is
how `down` finds exactly them, whoever became their parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from ray_pipeline import sessions
from ray_pipeline.deploy import fast_path, ports
from ray_pipeline.errors import ClusterError
from ray_pipeline.files import state_folder, write_private

_MARK = "RAY_PIPELINE_CLUSTER"
_LOCAL = "127.0.0.1"
ENVIRONMENT = {
    "MIMALLOC_PURGE_DELAY": "1000",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**29),
}
"""Of all processes. Arrow's allocator gives back memory that has been free for a second, not 10 ms:
the tables of a stage follow each other sooner, and would each be mapped and cleared again. So would
numpy's arrays, which the C library maps one by one where nobody says otherwise."""
_STARTS_WITHIN_S = 180
"""On a machine that is busy; Ray's own bound for its page is less."""
WARMED = 64
"""Most workers that `warm` asks for."""


def up(port: int | None = None, cpus: int | None = None, *, jobs: bool = False) -> dict[str, Any]:
    """The record of this user's local cluster, started if it is not running.

    Args:
        port: where Ray's head listens, on the loopback interface; a free one if not given.
        cpus: cores it may plan with; all of the machine's if not given.
        jobs: start Ray's page and its Jobs API too, for `submit`.

    Raises:
        ClusterError: it does not start, the port is taken, or the running one is of another
            version of Ray or Python, or takes no jobs.
    """
    with _lock():
        running = record()
        if running is not None:
            _check_versions(running)
            if jobs and not running.get("jobs"):
                raise ClusterError(
                    "the local cluster was started without its Jobs API",
                    where=running["address"],
                    hint="`ray-pipeline down` stops it, and the endpoints on it; then try again",
                )
            return running
        if port is not None and not ports.is_free(port):
            raise ClusterError(
                f"port {port} is taken by {ports.owner(port)}",
                expected="a free port",
                hint="stop that process, or choose another port",
            )
        return _started(port or ports.free_ports(1)[0], cpus, jobs)


def down() -> bool:
    """Stop the local cluster with every process of it, HAProxy included; False if none runs."""
    with _lock():
        running = record()
        if running is not None:
            _stop(running)
            shutil.rmtree(_temporary(running["mark"]), ignore_errors=True)
        _record_path().unlink(missing_ok=True)
        return running is not None


def record() -> dict[str, Any] | None:
    """The record of the local cluster, or None if none was started or it has ended."""
    try:
        found: dict[str, Any] = json.loads(_record_path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ClusterError(
            "not a cluster's record",
            where=str(_record_path()),
            hint="remove the file; end a cluster that still runs by hand",
        ) from error
    return found if processes(found) else None


def connect(start: bool = True) -> None:
    """Connect this process to Ray: to `RAY_ADDRESS` if set, else to the local cluster.

    Args:
        start: start a local cluster if none runs.

    Raises:
        ClusterError: nothing runs and nothing may be started, or it cannot be reached.
    """
    import ray

    if ray.is_initialized():
        return
    # Without a mode Ray decides by the files it finds in the home folder.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Ray Data would count for its makers what is run: by an actor, and a thread that asks a server.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        running = up() if start else record()
        if running is None:
            raise ClusterError(
                "no local cluster is running",
                hint="start one with `ray-pipeline up`, or set RAY_ADDRESS to one that runs",
            )
        _check_versions(running)
        _let_in(running)
        address = running["address"]
    try:
        ray.init(
            address,
            namespace="ray_pipeline",
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"cannot be reached: {str(error).splitlines()[0]}",
            where=address,
            hint="`ray-pipeline down` and `ray-pipeline up` start afresh; see cluster.log in "
            f"{state_folder()}",
        ) from error


def warm() -> None:
    """Have workers import what the first stages need, while this process goes on importing.

    They are as many as the cluster's CPUs, but no more than a local one's machine has cores.
    """
    import ray

    cores = WARMED if os.environ.get("RAY_ADDRESS") else os.cpu_count() or 1
    workers = min(int(ray.cluster_resources().get("CPU", 1)), cores, WARMED)  # type: ignore[no-untyped-call]
    importing = ray.remote(importlib.import_module)
    for _ in range(workers):
        importing.remote("ray_pipeline.data.clean")


def _started(port: int, cpus: int | None, jobs: bool) -> dict[str, Any]:
    begun = time.monotonic()
    mark, token = secrets.token_hex(4), state_folder() / "ray_token"
    write_private(token, secrets.token_hex(32))
    access = _access({"token": str(token)})
    folder = _temporary(mark)
    serving = fast_path.environment(folder)
    environment = {**ENVIRONMENT, **os.environ, **serving, **access, _MARK: mark}
    environment.pop("RAY_ADDRESS", None)
    # A submitted job is begun with `python`: this one, whether or not its folder is on the path.
    binaries = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
    environment["PATH"] = os.pathsep.join(binaries)
    environment.setdefault("RAY_DASHBOARD_STARTUP_TIMEOUT_S", str(_STARTS_WITHIN_S))
    page = ports.free_ports(1)[0] if jobs else None
    log = state_folder() / "cluster.log"
    with log.open("wb") as output:
        head = subprocess.Popen(  # noqa: S603 - our own arguments
            _command(port, cpus, page, folder),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code = _exit_code(head, _STARTS_WITHIN_S)
    made = {
        "address": f"{_LOCAL}:{port}",
        "pid": head.pid,
        "mark": mark,
        "token": str(token),
        "jobs": f"http://{_LOCAL}:{page}" if page else None,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begun, 2),
        **_versions(),
    }
    if code != 0:
        _stop(made)
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
        raise ClusterError(
            "Ray did not start:\n" + "\n".join(last),
            where=str(log),
            hint=f"the log has all of it; those of Ray's processes are in {folder}",
        )
    write_private(_record_path(), json.dumps(made, indent=2) + "\n")
    return made


def _command(port: int, cpus: int | None, page: int | None, folder: Path) -> list[str]:
    agent, client = ports.free_ports(2)
    options = {
        "port": port,
        "dashboard-agent-listen-port": agent,
        # Ray's default range may be taken by another cluster; 0 lets the system choose.
        "min-worker-port": 0,
        "max-worker-port": 0,
        "ray-client-server-port": client,
        # Ray keeps there the address at which a submitted job finds its cluster.
        "temp-dir": folder,
        # Its ten processes cost 4 seconds and a gigabyte; the Jobs API and Ray's page go with it.
        "include-dashboard": "false" if page is None else "true",
        "include-log-monitor": "false",
        "labels": f"{fast_path.ALONE}=true",
    }
    if page is not None:
        options |= {"dashboard-host": _LOCAL, "dashboard-port": page}
    if cpus is not None:
        options["num-cpus"] = cpus
    ray = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [ray, "start", "--head", "--disable-usage-stats", *flags]


def _temporary(mark: str) -> Path:
    """A cluster's logs and sockets. Short, for a socket's path may have 107 characters."""
    folder = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / f"rp_{os.getuid()}"  # noqa: S108
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ClusterError("the folder is another user's", where=str(folder), hint="remove it")
    return folder / mark


def _access(running: dict[str, Any]) -> dict[str, str]:
    """What a process needs in its environment to be let into the cluster."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": running["token"]}


def _let_in(running: dict[str, Any]) -> None:
    """Make this process, and those it starts, show the cluster's token."""
    from ray import _raylet

    os.environ.update(_access(running))
    # Ray read its settings when it was imported; these are the two calls by which it reads them
    # again itself.
    _raylet.Config.initialize("")  # type: ignore[attr-defined]
    _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


def _exit_code(head: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return head.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def processes(running: dict[str, Any]) -> list[psutil.Process]:
    """The processes of a recorded cluster; empty once it has ended."""
    return sessions.members(running["pid"], _MARK, running["mark"])


def _stop(running: dict[str, Any]) -> None:
    """End every process of the cluster."""
    if processes(running):
        sessions.end(running["pid"])


def _versions() -> dict[str, str]:
    return {"ray": version("ray"), "python": platform.python_version()}


def _check_versions(running: dict[str, Any]) -> None:
    for name, mine in _versions().items():
        if running[name] != mine:
            raise ClusterError(
                f"the local cluster runs {name} {running[name]}, this command {mine}",
                where=running["address"],
                hint="`ray-pipeline down` stops it, and the endpoints on it; then try again",
            )


def _record_path() -> Path:
    return state_folder() / "cluster.json"


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Two commands at once would start two clusters, and lose sight of one."""
    with (state_folder() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
