"""What a run had of the machines: counted over time, by type, with and without a price."""

from __future__ import annotations

import logging
import time

import pytest
import ray

from ray_pipeline import costs
from ray_pipeline.costs import Meter, Node
from ray_pipeline.job import Data, Job
from ray_pipeline.report_findings import by_place

CPUS, GPUS = Node("cpu", 0.5), Node("gpu", 1.0)


def test_hours_are_those_for_which_nodes_were_there():
    seen = iter([[CPUS, CPUS], [CPUS, CPUS, GPUS]])
    last: list[Node] = []
    begun = time.monotonic()
    with Meter(lambda: next(seen, last), every_s=0.3) as meter:
        time.sleep(0.75)  # two of each until the third look, which finds none
    ended = time.monotonic()
    cpus, gpus = meter.told({"cpu": 2.0})
    assert (cpus["type"], cpus["nodes"], gpus["nodes"]) == ("cpu", 2, 1)
    assert 2 * 0.6 <= 3600 * cpus["hours"] <= 2 * (ended - begun)
    assert 0.3 <= 3600 * gpus["hours"] <= ended - begun - 0.3
    assert (cpus["idle"], gpus["idle"]) == (pytest.approx(0.5), pytest.approx(0))
    assert cpus["cost"] == pytest.approx(2 * cpus["hours"])
    assert gpus["cost"] is None


def test_an_interrupted_part_is_added():
    with Meter(lambda: [CPUS]) as meter:
        before = [
            {"type": "cpu", "nodes": 3, "hours": 1.0, "busy_hours": 0.25, "idle": 0.75, "cost": 9},
            {"type": "old", "nodes": 1, "hours": 2.0, "busy_hours": 0.0, "idle": 1.0, "cost": None},
        ]
        cpu, old = meter.told({"cpu": 4.0}, before)
    assert cpu["nodes"] == 3
    assert cpu["hours"] == pytest.approx(1, abs=0.01)
    assert cpu["cost"] == pytest.approx(4, abs=0.04)
    assert (old["hours"], old["idle"]) == (2.0, 1.0)


def test_a_clusters_nodes_by_size_and_by_name(ray_cluster):
    @ray.remote(num_cpus=3)
    def working() -> list[Node]:
        until = time.monotonic() + 30
        # A node tells of what is reserved on it a moment later.
        while not any(node.busy for node in costs.nodes()) and time.monotonic() < until:
            time.sleep(0.1)
        return costs.nodes()

    labels = {"ray.io/node-group": "large", "ray.io/market-type": "spot"}
    more = ray_cluster.add_node(num_cpus=2, num_gpus=1, labels=labels)
    try:
        found = dict(ray.get(working.remote()))
    finally:
        ray_cluster.remove_node(more)
    assert found == {"4 CPU": 0.75, "large (spot)": 0.0}


def test_a_cluster_that_does_not_answer_costs_no_run(ray_cluster, monkeypatch, caplog):
    def lost() -> list[dict[str, object]]:
        raise RuntimeError("no GCS")

    monkeypatch.setattr(ray, "nodes", lost)
    with caplog.at_level(logging.WARNING), Meter() as meter:
        assert meter.told({}) == []
    assert "does not say which nodes it has: RuntimeError" in caplog.text


def test_a_plan_is_kept_for_the_training_that_it_is_of(tmp_path):
    job = Job(name="job", storage=str(tmp_path), data=Data(source="x", label="y"))
    assert costs.planned_hours(job) is None
    costs.keep_plan(job, 1.5)
    assert costs.planned_hours(job) == 1.5
    changed = job.model_copy(update={"train": job.train.model_copy(update={"epochs": 99})})
    assert costs.planned_hours(changed) is None


def test_the_report_shows_it():
    used = [{"type": "cpu", "nodes": 1, "hours": 0.5, "idle": 0.25, "cost": 1.5}]
    finding = costs.finding(used, {"planned": 1.0, "used": 2.0})
    (section,) = by_place({"findings": [finding]})["served"]
    assert section["tables"][0]["rows"] == [["cpu", 1, 0.5, "25%", 1.5]]
    assert section["tables"][1]["rows"] == [["worker-hours", 1.0, 2.0]]
