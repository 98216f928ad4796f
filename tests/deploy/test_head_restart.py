"""The head's machine is lost, and another is started in its place: with its state in Redis the
cluster is the same, and its endpoints answer all the time."""

from __future__ import annotations

import json
import time

import httpx
import pytest
from counting import load
from nodes import machine
from releases import waited
from servers import PASSWORD, redis
from sites import Site

from ray_pipeline.deploy.ports import free_ports


class Machines(Site):
    """Endpoints of a cluster of a head without CPUs and a worker, which is asked."""

    def __init__(self, head, worker) -> None:
        super().__init__(head.home / ".ray_pipeline")
        self.environment = {**self.environment, **head.user(), "RAY_PIPELINE_HOME": str(self.home)}
        self.url = f"http://127.0.0.1:{worker.serves}"

    def down(self) -> None:
        self._end_answering()


@pytest.fixture
def state(tmp_path):
    """Where a Redis is, as the machines' `secrets.env` says it."""
    with redis(tmp_path) as server:
        address = f"127.0.0.1:{server.port}"
        yield {"RAY_REDIS_ADDRESS": address, "RAY_REDIS_PASSWORD": PASSWORD}


def answers(site, row) -> bool:
    try:
        return site.predict(row).status_code == 200
    except httpx.TransportError:
        return False


def live(site, folder) -> list[str]:
    """The versions that run, as somebody at the head is told."""
    told = json.loads(site.command(folder, "endpoints", "--json"))["endpoints"]
    return [one["version"] for one in told if one["status"] == "RUNNING"]


def test_a_head_that_is_started_again_is_the_same_cluster(classifier, rows, state, tmp_path):
    port = free_ports(1)[0]
    with machine(port, cpus=0) as head, machine(port, cpus=2) as worker:
        for node in (head, worker):
            node.knows(state)
        head.start("head")
        worker.start("worker")
        site = Machines(head, worker)
        site.deploy(classifier.bundle, host="0.0.0.0")
        version = classifier.bundle.manifest.version
        waited(lambda: answers(site, rows[0]))
        with load(site, rows, connections=2) as counted:
            time.sleep(2)
            head.kill()
            time.sleep(8)
            alone = len(counted.versions)
            head.start("head")
            site.down()
            waited(lambda: live(site, tmp_path) == [version])
            time.sleep(2)
        assert counted.failures == []
        assert len(counted.versions) > alone > 50
        site.deploy(classifier.bundle, host="0.0.0.0", max_rows=7)
        assert site.predict(rows[0]).json()["version"] == version
        site.down()
