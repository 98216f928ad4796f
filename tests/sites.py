"""A cluster that serves, shared by the tests of whole jobs: starting it and Serve takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
import servers
import tiny_encoder

from ray_pipeline import cluster
from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy.ports import free_ports

ANSWERING = """
import contextlib, io, json, os, sys
from ray_pipeline import cli, cluster
from ray_pipeline.deploy import release
from ray_pipeline.errors import PipelineError
from ray_pipeline.job import Serve

def deployed(path, settings):
    try:
        cluster.connect()
        made = release.deploy(path, "model", Serve.model_validate(settings))
        return 0, [made, release.endpoints()]
    except PipelineError as error:
        return 1, f"{type(error).__name__}: {error}"

def called(folder, *arguments):
    os.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(arguments)
    return code, out.getvalue(), err.getvalue()

told = sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
    what, *given = json.loads(line)
    print(json.dumps({"deploy": deployed, "call": called}[what](*given)), file=told, flush=True)
"""
"""A process that deploys and calls commands as it is told: to start one for each takes seconds."""


PASSWORDS = dict.fromkeys(("REDIS_PASSWORD", "INDEX_PASSWORD"), servers.PASSWORD)
"""Variables of the cluster, and so of replicas, by which they reach the tests' servers."""


class Site:
    """A cluster of its own with endpoints, as the commands make them."""

    def __init__(self, home: Path) -> None:
        self.environment = {
            **{key: text for key, text in os.environ.items() if not is_of_ray(key)},
            "RAY_PIPELINE_HOME": str(home),
            **PASSWORDS,
        }
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.home = home
        self._answering: subprocess.Popen[str] | None = None
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

    def up(self) -> None:
        """Start the cluster, with CPUs for the endpoints of all tests and for jobs beside them: one
        that has less than a whole one free would have a job wait for ever."""
        with self.at_home(), pytest.MonkeyPatch.context() as patch:
            for name, password in PASSWORDS.items():
                patch.setenv(name, password)
            cluster.up(cpus=4)

    def down(self) -> None:
        self._end_answering()
        with self.at_home():
            cluster.down()

    def command(self, folder: Path, *arguments: object) -> str:
        """What a command that is run in `folder` prints."""
        code, out, err = self.called(folder, *arguments)
        assert code == 0, err
        return out

    def printed(self, *arguments: object, folder: Path | None = None):
        """The JSON that a command ends with, which is run in `folder` or at home."""
        return json.loads(self.command(folder or self.home, *arguments).splitlines()[-1])

    def chat_job(self, folder: Path, job: str, pages: Mapping[str, str]) -> Path:
        """The folder with a tiny encoder in `base`, `pages`, and the job `chat.yaml`, whose PORT is
        this cluster's."""
        tiny_encoder.saved(folder / "base")
        (folder / "pages").mkdir()
        for name, text in pages.items():
            (folder / "pages" / name).write_text(text)
        (folder / "chat.yaml").write_text(job.replace("PORT", str(self.port)))
        return folder

    def called(self, folder: Path, *arguments: object) -> tuple[int, str, str]:
        """A command's exit status, and what it wrote to standard output and error."""
        code, out, err = self._asked("call", str(folder), *map(str, arguments))
        return code, out, err

    def replicas(self, endpoint: str, part: str = "") -> list[psutil.Process]:
        """The processes of an endpoint, or of the part of a chatbot that is apart."""
        with self.at_home():
            members = cluster.processes(cluster.record())
        title = f"ServeReplica:{endpoint}:{part}"
        return [one for one in members if title in told(one)]

    def deploy(self, bundle: Bundle, **settings):
        """What it is answered, and all endpoints."""
        code, told = self.tried(bundle, **settings)
        assert code == 0, told
        return told

    def tried(self, bundle: Bundle, **settings):
        """0 and what `deploy` tells, or 1 and the error's name and text."""
        chosen = {"port": self.port, "replicas": {"min": 1, "max": 1}, "cpus": 0.2, **settings}
        return self._asked("deploy", str(bundle.path), chosen)

    def _asked(self, *line: object):
        answering = self._begun_answering()
        answering.stdin.write(json.dumps(line) + "\n")
        answering.stdin.flush()
        answer = answering.stdout.readline()
        assert answer, f"it ended with {answering.wait()}: {(self.home / 'told.log').read_text()}"
        return json.loads(answer)

    def _begun_answering(self) -> subprocess.Popen[str]:
        """The process of before, unless it ended or the environment has changed."""
        running = self._answering is not None and self._answering.poll() is None
        if not running or self._known != self.environment:
            self._end_answering()
            with (self.home / "told.log").open("w") as log:
                self._answering = subprocess.Popen(
                    [sys.executable, "-W", "ignore", "-c", ANSWERING],
                    env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=log, text=True,
                )  # fmt: skip
            self._known = dict(self.environment)
        assert self._answering is not None
        return self._answering

    def _end_answering(self) -> None:
        if self._answering is not None:
            self._answering.communicate()
            self._answering = None

    def predict(self, row):
        headers = {"X-API-Key": self.key}
        return httpx.post(f"{self.url}/model/predict", json={"rows": [row]}, headers=headers)


def is_of_ray(variable: str) -> bool:
    """Whether Ray reads it, not the project."""
    return variable.startswith("RAY_") and not variable.startswith("RAY_PIPELINE_")


def told(process: psutil.Process) -> str:
    """A process's command line; nothing of one that has ended meanwhile."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""
