"""What MLflow holds after a run is told to it: a real database, read back with MLflow's client."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from upath import UPath

from ray_pipeline import registered, tracking

pytestmark = pytest.mark.usefixtures("told_to_mlflow")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """A client on a new database; making one takes seconds, so the module shares it."""
    place = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    return MlflowClient(f"sqlite:///{place}")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return made_bundle(tmp_path / "bundles" / "v1")


def made_bundle(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"format": 1}')
    (folder / "MLmodel").write_text("flavors: {}\n")
    return folder


def record(name: str, run: str, bundle: Path | None = None) -> dict[str, Any]:
    return {
        "run": run,
        "job": {
            "name": name,
            "data": {"source": "postgresql://ada:hunter2@db/people", "missing": ["?", "NA"]},
            "model": {"width": 128, "dropout": 0.1},
            "tune": None,
            "evaluate": {"gates": {}},
        },
        "status": "done",
        "started_s": 1_764_000_000.25,
        "metrics": {
            "accuracy": 0.86,
            "roc_auc": None,
            "about": {"rows": 1000},
            "intervals": {"accuracy": [0.84, 0.88]},
            "validation": {"accuracy": 0.87},
            "classes": {"<=50K": {"recall": 0.9}, ">50K": {"recall": 0.6}},
        },
        "history": [
            {
                "epoch": n,
                "epochs": 3,
                "train_loss": 1 / n,
                "validation_loss": 2 / n,
                "score": n / 10,
            }
            for n in (1, 2, 3)
        ],
        "trials": [
            {"score": 0.86, "validation_loss": 0.4, "settings": {"model.width": 64}},
            {"score": None, "validation_loss": None, "settings": {"model.width": 32}},
            {"score": 0.85, "validation_loss": 0.3, "settings": {"model.width": 128}},
        ],
        "bundle": str(bundle) if bundle else None,
    }


def told(client: MlflowClient, run: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "report.html").write_text("<h1>the page</h1>")
    return tracking.logged(client, run, UPath(folder), str(folder))


def champion(client: MlflowClient, name: str) -> str:
    return str(client.get_model_version_by_alias(name, registered.ALIAS).version)


def test_a_run_is_read_back(client: MlflowClient, tmp_path: Path, bundle: Path) -> None:
    answer = told(client, record("whole", "r1", bundle), tmp_path)
    run = client.get_run(answer["run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "r1"
    assert client.get_experiment(run.info.experiment_id).name == "whole"
    params = run.data.params
    assert params["model.width"] == "128"
    assert params["model.dropout"] == "0.1"
    assert params["data.missing"] == '["?", "NA"]'
    assert params["tuned.model.width"] == "128"
    assert "tune" not in params
    metrics = run.data.metrics
    assert metrics["accuracy"] == 0.86
    assert metrics["validation.accuracy"] == 0.87
    assert metrics["classes.at most 50K.recall"] == 0.9
    assert metrics["classes.above 50K.recall"] == 0.6
    assert "roc_auc" not in metrics
    assert "about.rows" not in metrics
    curve = client.get_metric_history(answer["run_id"], "validation_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 2.0), (2, 1.0), (3, 2 / 3)]
    trials = client.get_metric_history(answer["run_id"], "trial_score")
    assert [(point.step, point.value) for point in trials] == [(1, 0.86), (3, 0.85)]


def test_the_page_and_the_manifest_are_artefacts(
    client: MlflowClient, tmp_path: Path, bundle: Path
) -> None:
    answer = told(client, record("artefacts", "r1", bundle), tmp_path)
    names = {artefact.path for artefact in client.list_artifacts(answer["run_id"])}
    assert names == {"report.html", "manifest.json"}
    page = client.download_artifacts(answer["run_id"], "report.html", str(tmp_path))
    assert Path(page).read_text() == "<h1>the page</h1>"


def test_no_secret_becomes_a_parameter(client: MlflowClient, tmp_path: Path) -> None:
    answer = told(client, record("secret", "r1"), tmp_path)
    params = client.get_run(answer["run_id"]).data.params
    assert params["data.source"] == "postgresql://***@db/people"
    assert "hunter2" not in str(params)


def test_a_run_that_goes_on_stays_one_run(
    client: MlflowClient, tmp_path: Path, bundle: Path
) -> None:
    early = record("resumed", "r1") | {"status": "running", "metrics": {}, "trials": []}
    early["history"] = early["history"][:1]
    first = told(client, early, tmp_path)
    assert client.get_run(first["run_id"]).info.status == "RUNNING"
    whole = record("resumed", "r1", bundle)
    answers = [told(client, whole, tmp_path) for _ in range(2)]
    assert {answer["run_id"] for answer in answers} == {first["run_id"]}
    experiment = client.get_experiment_by_name("resumed")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert len([one for one in found if "mlflow.parentRunId" not in one.data.tags]) == 1
    assert len(client.get_metric_history(first["run_id"], "train_loss")) == 3
    assert client.get_run(first["run_id"]).info.status == "FINISHED"


def test_a_bundle_is_one_version_whatever_runs_lead_to_it(
    client: MlflowClient, tmp_path: Path, bundle: Path
) -> None:
    first = told(client, record("model", "r1", bundle), tmp_path)
    again = told(client, record("model", "r1", bundle), tmp_path)
    cached = told(client, record("model", "r2", bundle), tmp_path)
    assert [answer["model_version"] for answer in (first, again, cached)] == ["1", "1", "1"]
    assert client.get_model_version("model", "1").source == str(bundle)
    assert client.get_model_version("model", "1").run_id == first["run_id"]

    other = made_bundle(tmp_path / "bundles" / "v2")
    assert told(client, record("model", "r3", other), tmp_path)["model_version"] == "2"
    assert champion(client, "model") == "2"
    told(client, record("model", "r4", bundle), tmp_path)  # an earlier bundle is made live again
    assert champion(client, "model") == "1"


@pytest.mark.parametrize("status", ["failed", "refused"])
def test_a_run_without_a_bundle_has_failed_and_registers_nothing(
    client: MlflowClient, tmp_path: Path, status: str
) -> None:
    answer = told(client, record(f"bad-{status}", "r1") | {"status": status}, tmp_path)
    run = client.get_run(answer["run_id"])
    assert (run.info.status, run.data.tags["ray_pipeline.status"]) == ("FAILED", status)
    assert "model_version" not in answer
    assert not client.search_model_versions(f"name = 'bad-{status}'")


def test_more_settings_than_a_request_holds(client: MlflowClient, tmp_path: Path) -> None:
    large = record("large", "r1")
    large["job"]["data"]["columns"] = {f"c{n}": "number" for n in range(250)}
    large["history"] = [{"epoch": n, "train_loss": 1.0} for n in range(1, 1201)]
    answer = told(client, large, tmp_path)
    run = client.get_run(answer["run_id"])
    assert sum(name.startswith("data.columns.c") for name in run.data.params) == 250
    assert len(client.get_metric_history(answer["run_id"], "train_loss")) == 1200


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "report.html").write_text("page")
    return tmp_path


def test_the_process_tells_mlflow_in_the_storage(storage: Path, bundle: Path) -> None:
    with tracking.following(str(storage)) as tracker:
        tracker.log(record("job", "r1") | {"status": "running"}, UPath(storage))
        tracker.log(record("job", "r1", bundle), UPath(storage))
        first, second = tracker.close()
    assert first["run_id"] == second["run_id"]
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    assert client.get_run(second["run_id"]).data.metrics["accuracy"] == 0.86
    assert champion(client, "job") == "1"
    assert list((storage / "mlflow.artifacts" / "job").rglob("report.html"))
    assert not Path("mlruns").exists()


def test_an_outage_is_warned_of_once_and_harms_nothing(
    storage: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.WARNING), tracking.following(str(storage)) as tracker:
        tracker.log(record("job", "r1"), UPath(storage))
        tracker.log(record("job", "r1"), UPath(storage))
    (warning,) = caplog.messages
    assert "127.0.0.1" in warning
    assert "does not have all" in warning


def test_a_killed_process_is_warned_of(storage: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), tracking.following(str(storage)) as tracker:
        assert tracker.process is not None
        os.kill(tracker.process.pid, signal.SIGKILL)
        tracker.process.wait()
        tracker.log(record("job", "r1"), UPath(storage))
    (warning,) = caplog.messages
    assert "ended early" in warning


def test_a_run_that_has_nothing_to_tell_does_not_wait(
    storage: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), tracking.following(str(storage)) as tracker:
        pass
    assert tracker.process is not None
    assert tracker.process.poll() is None  # it has not even imported MLflow yet
    assert caplog.messages == []
    assert tracker.process.wait(timeout=60) == 0  # with its database made, not half made


def test_an_object_store_holds_no_database(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING), tracking.following("s3://bucket/jobs") as tracker:
        tracker.log(record("job", "r1"), UPath("/nowhere"))
    (warning,) = caplog.messages
    assert "MLFLOW_TRACKING_URI" in warning


def test_the_environment_chooses_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking.tracking_uri("/data/storage") == "http://tracker:5000"
    assert tracking.tracking_uri("s3://bucket") == "http://tracker:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.tracking_uri("/data/storage") == "sqlite:////data/storage/mlflow.db"


def test_nothing_is_told_where_that_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_PIPELINE_MLFLOW", "off")
    with caplog.at_level(logging.WARNING), tracking.following(str(tmp_path)) as tracker:
        tracker.log(record("job", "r1"), UPath("/nowhere"))
    assert (tracker.process, caplog.messages) == (None, [])


def test_importing_the_module_does_not_import_mlflow() -> None:
    code = "import sys, ray_pipeline.tracking; print('mlflow' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
