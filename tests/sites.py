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
path, settings = sys.argv[1:]
cluster.connect()
try:
    print(json.dumps([release.deploy(path, "model", Serve.model_validate_json(settings)),
                      release.endpoints()]))
except PipelineError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


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
        done = self.tried(bundle, **settings)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def tried(self, bundle: Bundle, **settings):
        chosen = {"port": self.port, "replicas": {"min": 1, "max": 1}, "cpus": 0.2, **settings}
        return subprocess.run(
            [sys.executable, "-c", DEPLOY, str(bundle.path), json.dumps(chosen)],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=300,
            check=False,
        )

    def predict(self, row):
        headers = {"X-API-Key": self.key}
        return httpx.post(f"{self.url}/model/predict", json={"rows": [row]}, headers=headers)
