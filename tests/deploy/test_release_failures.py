"""Processes die: what a client sees of it. It sends requests all the time; none may fail."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from counting import load
from releases import replicas, waited
from sites import Site, told

from ray_pipeline import cluster


def kill_a_replica(site):
    found = site.replicas("model")
    found[0].send_signal(signal.SIGKILL)
    return len(found)


@pytest.mark.parametrize("count", [2, 1])
def test_a_killed_replica_costs_no_request(site, live, classifier, rows, count):
    site.deploy(classifier.bundle, replicas={"min": count, "max": count})
    time.sleep(6)  # the old replica ends
    with load(site, rows, connections=6) as counted:
        time.sleep(1)
        assert kill_a_replica(site) == count
        time.sleep(2)
        waited(lambda: replicas(site) == count)
        time.sleep(1)
    assert counted.failures == []
    assert len(counted.versions) > 50


KILLED = """
import ray
from ray_pipeline import cluster
cluster.connect(start=False)
ray.kill(ray.get_actor("board", namespace="ray_pipeline"), no_restart=False)
"""


def test_a_board_that_is_made_again_knows_what_is_live(site, live):
    subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED], env=site.environment, check=True)
    listed = site.printed("endpoints", "--json")["endpoints"]
    assert live in {one["version"] for one in listed if one["name"] == "model"}


def test_a_lost_machine_costs_no_request(classifier, rows, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from _machine import another_machine

    (tmp_path / "home").mkdir()
    site = Site(tmp_path / "home")  # one that listens to other machines
    monkeypatch.setenv("RAY_PIPELINE_HOME", str(site.home))
    try:
        site.deploy(classifier.bundle, host="0.0.0.0")
        with another_machine(tmp_path, cluster.record(), site.environment) as machine:
            site.deploy(classifier.bundle, host="0.0.0.0", replicas={"min": 4, "max": 4})
            time.sleep(6)  # the old replica ends
            there = [one for one in psutil.process_iter() if machine.has(one)]
            assert any("ServeReplica:model:" in told(one) for one in there)
            with load(site, rows, connections=6) as counted:
                time.sleep(1)
                machine.kill()
                time.sleep(5)
    finally:
        site.down()
    assert counted.failures == []
    assert len(counted.versions) > 50
