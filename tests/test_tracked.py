"""Trials as runs below their run, lineage, aliases and the machine's load, in a real MLflow."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from test_tracking import made_bundle, record
from upath import UPath

from ray_pipeline import registered, tracked, tracking
from ray_pipeline.deploy import registry
from ray_pipeline.system_metrics import Looks

pytestmark = pytest.mark.usefixtures("told_to_mlflow")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(scope="module")
def client(storage: Path, told_to_mlflow: None) -> MlflowClient:
    uri = tracking.tracking_uri(str(storage))
    assert uri is not None
    return MlflowClient(uri)


def told(client: MlflowClient, run: dict[str, Any], storage: Path, **more: Any) -> dict[str, Any]:
    return tracking.logged(client, run, UPath(storage), str(storage), **more)


def below(client: MlflowClient, run_id: str) -> list[Any]:
    """The runs below a run, by the number of their trial."""
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return sorted(found, key=lambda one: int(one.data.tags[tracked.TRIAL_TAG]))


def test_trials_are_runs_below_their_run(client: MlflowClient, storage: Path) -> None:
    one = record("searched", "r1")
    one["trials"][0]["history"] = [
        {"epoch": epoch, "validation_loss": 1 / epoch, "score": 0.8} for epoch in (1, 2, 3)
    ]
    one["trials"][1]["state"] = "failed"
    answer = told(client, one, storage)
    first, second, third = below(client, answer["run_id"])
    assert first.data.params == {"model.width": "64"}
    curve = client.get_metric_history(first.info.run_id, "validation_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert (second.info.status, second.data.metrics) == ("FAILED", {})
    assert third.data.metrics == {"validation_loss": 0.3, "score": 0.85}
    chosen = [run.data.tags["ray_pipeline.chosen"] for run in (first, second, third)]
    assert chosen == ["false", "false", "true"]
    assert third.info.run_name == "r1 trial 3"


def test_trials_that_are_told_again_stay_the_same_runs(client: MlflowClient, storage: Path) -> None:
    one = record("again", "r1")
    answer = told(client, one, storage)
    known = [run.info.run_id for run in below(client, answer["run_id"])]
    client.update_run(known[1], status="RUNNING")  # as if killed before its end was told
    told(client, one, storage)
    runs = below(client, answer["run_id"])
    assert [run.info.run_id for run in runs] == known
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(client.get_metric_history(known[0], "score")) == 1


def test_a_run_and_its_model_say_what_they_were_made_of(
    client: MlflowClient, storage: Path
) -> None:
    folder = made_bundle(storage / "lineage/bundles/v1")
    manifest = {"lineage": {"clean": "c1", "train": "t1"}, "digest": "d1", "base_model": "minilm"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    one = record("lineage", "r1", folder) | {
        "stages": [{"name": "clean", "digest": "c1"}, {"name": "deploy", "digest": None}],
        "sources": ["data/2013-01.csv"],
        "version": "0.1.0",
    }
    answer = told(client, one, storage)
    tags = client.get_run(answer["run_id"]).data.tags
    assert tags["ray_pipeline.stage.clean"] == "c1"
    assert "ray_pipeline.stage.deploy" not in tags
    assert tags["ray_pipeline.sources"] == '["data/2013-01.csv"]'
    assert tags["ray_pipeline.version"] == "0.1.0"
    version = client.get_model_version("lineage", answer["model_version"])
    assert version.run_id == answer["run_id"]
    wanted = {"digest": "d1", "run": "r1", "base_model": "minilm", "stage.train": "t1"}
    assert {name: version.tags[f"ray_pipeline.{name}"] for name in wanted} == wanted


def test_a_challenger_is_champion_once_it_is_released(client: MlflowClient, storage: Path) -> None:
    first, second, third = (
        made_bundle(storage / "live/bundles" / name) for name in ("v1", "v2", "v3")
    )

    def aliases() -> dict[str, str]:
        return {k: str(v) for k, v in client.get_registered_model("live").aliases.items()}

    told(client, record("live", "r1", first) | {"endpoint": "http://x/live"}, storage)
    assert aliases() == {registered.ALIAS: "1"}
    told(client, record("live", "r2", second), storage)
    assert aliases() == {registered.ALIAS: "1", registered.CHALLENGER: "2"}
    told(client, record("live", "r1", first), storage)
    assert aliases() == {registered.ALIAS: "1", registered.CHALLENGER: "2"}, "the live one is none"
    released = {
        "action": "deploy", "name": "live", "version": "v2", "bundle": str(second), "digest": "d",
        "since": "2026-01-01T00:00:00+00:00", "by": "ada", "why": "better", "settings": "{}",
    }  # fmt: skip
    assert registry.told(released) == "2"  # type: ignore[arg-type]
    assert aliases() == {registered.ALIAS: "2"}
    told(client, record("live", "r3", third), storage)
    assert aliases() == {registered.ALIAS: "2", registered.CHALLENGER: "3"}


def test_the_load_of_the_machine_is_told_once(client: MlflowClient, storage: Path) -> None:
    with Looks(every_s=0.05) as machine:
        while len(machine.metrics()) < 30:
            time.sleep(0.05)
    seen = machine.metrics()
    for _ in range(2):
        answer = told(client, record("loaded", "r1"), storage, machine=seen)
    run = client.get_run(answer["run_id"])
    assert 0 <= run.data.metrics["system/cpu_utilization_percentage"] <= 100
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 10
    points = client.get_metric_history(answer["run_id"], "system/cpu_utilization_percentage")
    assert len(points) == max(one.step for one in seen) + 1
    moments = [point.timestamp for point in points]
    assert moments == sorted(moments)
    assert abs(moments[-1] / 1000 - time.time()) < 600


def test_of_a_long_stage_fewer_looks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_pipeline import system_metrics

    monkeypatch.setattr(system_metrics, "_MOST", 8)
    machine = Looks()
    for _ in range(30):
        machine._look()
    steps = sorted({one.step for one in machine.metrics()})
    assert 4 <= len(steps) <= 8
    assert steps[-1] == 29


def test_what_was_told_is_not_told_again_and_later_looks_count_on() -> None:
    machine = Looks()
    for _ in range(3):
        machine._look()
    first = machine.metrics()
    machine._look()
    machine.told(first)
    assert {one.step for one in first} == {0, 1, 2}
    assert {one.step for one in machine.metrics()} == {3}
    machine.told([])
    assert {one.step for one in machine.metrics()} == {3}, "what could not be told is kept"
