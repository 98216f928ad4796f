"""Machines of a cluster, on this one: each a home folder, and cluster.yaml's commands in it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from ray.util import get_node_ip_address

from ray_pipeline import sessions
from ray_pipeline.deploy import fast_path
from ray_pipeline.deploy.ports import free_ports

ROOT = Path(__file__).parents[1]
TOKEN = "0123456789abcdef" * 4


def cluster_file() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


class Node:
    """A machine of the cluster whose head listens on `port`: the head itself, or a worker.

    What is the machine's there (ports, folders of its root) gets a value of its own here.
    """

    def __init__(
        self, home: Path, port: int, *, cpus: int | None, variables: Mapping[str, str] | None
    ) -> None:
        self.home, self.address = home, f"{get_node_ip_address()}:{port}"
        self.serves = free_ports(1)[0]
        (home / "ray_pipeline").mkdir()
        (home / ".ray").mkdir()
        (home / "ray_pipeline" / "environment.sh").symlink_to(ROOT / "clusters" / "environment.sh")
        (home / ".ray" / "auth_token").write_text(TOKEN)
        (home / ".ray" / "auth_token").chmod(0o600)
        ports = {
            name: value for name, value in fast_path.environment(home).items() if "PORT" in name
        }
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("RAY_")},
            **ports,
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_HEAD_IP": get_node_ip_address(),
            "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(self.serves),
            **(variables or {}),
        }
        self.page = 0
        self._port, self._cpus = port, cpus
        self._leader: int | None = None

    def knows(self, secrets: Mapping[str, str]) -> None:
        """Have these variables in the file that a machine's owner keeps them in."""
        folder = self.home / ".ray_pipeline"
        folder.mkdir(mode=0o700)
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in secrets.items()]
        (folder / "secrets.env").write_text("".join(lines))

    def start(self, kind: str) -> None:
        """Run the command that starts a `head` or a `worker`; none may run yet."""
        log = self.home / f"{kind}.log"
        for again in (True, True, False):
            if self._started(kind, log):
                return
            text = log.read_text()
            # Ray waits for its own parts for 30 s, which a busy machine of few cores can take.
            assert again, text
            assert "timed out during startup" in text.rpartition("Traceback")[2], text
            self.kill()

    def _started(self, kind: str, log: Path) -> bool:
        told = ["bash", "-euo", "pipefail", "-c", self.command(kind)]
        with log.open("ab") as output:
            starting = subprocess.Popen(
                told, cwd=self.home, env=self.environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            self._leader = starting.pid
            return starting.wait(120) == 0

    def command(self, kind: str) -> str:
        told = cluster_file()[f"{kind}_start_ray_commands"][-1]
        agent, client, metrics, objects, self.page = free_ports(5)
        for there, here in {
            ":6379": f":{self._port}",
            "--port=6379": f"--port={self._port}",
            "--object-manager-port=8076": f"--object-manager-port={objects}",
            "--metrics-export-port=8080": f"--metrics-export-port={metrics}",
            "/var/spill": str(self.home / "spill"),
        }.items():
            told = told.replace(there, here)
        if not (self.home / "ray_bootstrap_config.yaml").exists():
            told = told.replace("--autoscaling-config=~/ray_bootstrap_config.yaml", "")
        more = f" --dashboard-agent-listen-port={agent} --min-worker-port=0 --max-worker-port=0"
        if kind == "head":
            more += f" --ray-client-server-port={client} --dashboard-port={self.page}"
            more += f" --temp-dir={self.home / 'ray'}"
        if self._cpus is not None:
            more += f" --num-cpus={self._cpus}"
        (self.home / "spill").mkdir(exist_ok=True)
        # The command's last line may add an option by a condition; more of them may follow it.
        return told.rstrip() + more

    def kill(self) -> None:
        """End all of it at once, as a power cut would; nothing if it does not run."""
        if self._leader is None:
            return
        sessions.kill(self._leader)
        self._leader = None
        # On the machine in its place nothing says that Ray runs; here the other nodes do.
        (self.home / "ray" / "ray_current_cluster").unlink(missing_ok=True)

    def user(self) -> dict[str, str]:
        """The environment of who works on this machine."""
        asked = {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token"}
        return {**self.environment, **asked}


@contextmanager
def machine(
    port: int, *, cpus: int | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[Node]:
    """A machine that is not started yet, until the block ends."""
    # Not in pytest's folder: the path of a socket may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="rp") as home:
        made = Node(Path(home), port, cpus=cpus, variables=variables)
        try:
            yield made
        finally:
            made.kill()
