"""A cluster that serves, shared by the tests of whole jobs: starting it and Serve takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import servers

from ray_pipeline import cluster
from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy.ports import free_ports

DEPLOY = """
import json, sys
from ray_pipeline import cluster
from ray_pipeline.deploy import release
from ray_pipeline.errors import PipelineError
from ray_pipeline.job import Serve

told = sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
    path, settings = json.loads(line)
    try:
        cluster.connect()
        made = release.deploy(path, "model", Serve.model_validate(settings))
        answer = [0, [made, release.endpoints()]]
    except PipelineError as error:
        answer = [1, f"{type(error).__name__}: {error}"]
    print(json.dumps(answer), file=told, flush=True)
"""
"""A process that deploys what it is told to: to start one for each takes seconds."""


class Site:
    """A cluster of its own with endpoints, as the commands make them."""

    def __init__(self, home: Path) -> None:
        self.environment = {
            **{key: text for key, text in os.environ.items() if not key.startswith("RAY_")},
            "RAY_PIPELINE_HOME": str(home),
            "REDIS_PASSWORD": servers.PASSWORD,
        }
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.home = home
        self._deployer: subprocess.Popen[str] | None = None
        self._known: dict[str, str] = {}

    @property
    def key(self):
        return (self.home / "key").read_text().strip()

    @contextmanager
    def at_home(self) -> Iterator[None]:
        """This process's commands are about this cluster."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_PIPELINE_HOME", str(self.home))
            yield

    def down(self) -> None:
        self._end_deployer()
        with self.at_home():
            cluster.down()

    def command(self, folder: Path, *arguments: str) -> str:
        """What a command that is run in `folder` prints."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "ray_pipeline.cli", *arguments],
            cwd=folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def deploy(self, bundle: Bundle, **settings):
        """What it is answered, and all endpoints."""
        code, told = self.tried(bundle, **settings)
        assert code == 0, told
        return told

    def tried(self, bundle: Bundle, **settings):
        """0 and what `deploy` tells, or 1 and the error's name and text."""
        chosen = {"port": self.port, "replicas": {"min": 1, "max": 1}, "cpus": 0.2, **settings}
        deployer = self._begun_deployer()
        deployer.stdin.write(json.dumps([str(bundle.path), chosen]) + "\n")
        deployer.stdin.flush()
        line = deployer.stdout.readline()
        assert line, f"it ended with {deployer.wait()}: {(self.home / 'deployer.log').read_text()}"
        return json.loads(line)

    def _begun_deployer(self) -> subprocess.Popen[str]:
        """The process of before, unless it ended or the environment has changed."""
        running = self._deployer is not None and self._deployer.poll() is None
        if not running or self._known != self.environment:
            self._end_deployer()
            with (self.home / "deployer.log").open("w") as log:
                self._deployer = subprocess.Popen(
                    [sys.executable, "-W", "ignore", "-c", DEPLOY],
                    env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=log, text=True,
                )  # fmt: skip
            self._known = dict(self.environment)
        assert self._deployer is not None
        return self._deployer

    def _end_deployer(self) -> None:
        if self._deployer is not None:
            self._deployer.communicate()
            self._deployer = None

    def predict(self, row):
        headers = {"X-API-Key": self.key}
        return httpx.post(f"{self.url}/model/predict", json={"rows": [row]}, headers=headers)
