"""Another machine of a cluster, on this one: a raylet of its own, which can be lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ray_pipeline import sessions
from ray_pipeline.deploy import fast_path, ports


@dataclass
class Machine:
    """Its processes, which share a session."""

    head: subprocess.Popen[bytes]

    def has(self, process: psutil.Process) -> bool:
        """Whether a process is of this machine."""
        try:
            return os.getsid(process.pid) == self.head.pid
        except ProcessLookupError:
            return False

    def kill(self) -> None:
        """End all of them at once, as a power cut would."""
        sessions.kill(self.head.pid)


@contextmanager
def another_machine(
    home: Path, running: dict[str, Any], environment: Mapping[str, str] = os.environ, cpus: int = 2
) -> Iterator[Machine]:
    """A second node of the cluster with that record, until the block ends."""
    folder = home / "machine"
    folder.mkdir()
    agent, own = ports.free_ports(2)
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": running["token"]}
    environment = {
        **environment,
        **fast_path.environment(folder),
        **access,
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(own),
    }
    ray_ = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
    command = [ray_, "start", f"--address={running['address']}", f"--num-cpus={cpus}", "--block"]
    command += [f"--dashboard-agent-listen-port={agent}", "--disable-usage-stats"]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--include-log-monitor=false"]
    with (folder / "log").open("wb") as log:
        head = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    machine = Machine(head)
    try:
        until = time.monotonic() + 60
        while "Ray runtime started" not in (told := (folder / "log").read_text()):
            if head.poll() is not None or time.monotonic() > until:
                sys.exit(f"no second machine:\n{told[-2000:]}")
            time.sleep(0.2)
        yield machine
    finally:
        machine.kill()
        head.wait()
