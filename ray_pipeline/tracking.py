"""What MLflow is told of a run: parameters, metrics, the page, and the bundle as a model version.

Importing mlflow takes over a second and making its database two, so both happen in a process of
their own that is started with the run and is ready long before there is anything to tell. It also
keeps an outage of MLflow out of the run: all that can be lost is what MLflow would have known.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from upath import UPath

from ray_pipeline import registered, report, report_learning, tracked
from ray_pipeline.system_metrics import Looks

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

Record = dict[str, Any]

RUN_TAG = "ray_pipeline.run"
_PATIENCE_S = 180
_STATUS = {"done": "FINISHED", "failed": "FAILED", "refused": "FAILED"}
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default of 7 waits minutes for a dead server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
_log = logging.getLogger(__name__)


@dataclass
class Tracker:
    """The process that talks to MLflow, if there is one. Its troubles are only warned of."""

    process: subprocess.Popen[str] | None
    errors: IO[str]
    sent: int = 0

    def log(self, record: Mapping[str, Any], folder: UPath) -> None:
        """Tell MLflow how the run stands; it may be told again, and is then brought up to date.

        Returns at once. `folder` is the run's folder, with its `report.html`.
        """
        if self.process is None or self.process.stdin is None:
            return
        self.sent += 1
        request = json.dumps({"record": record, "folder": str(folder)}, default=str)
        # A process that has died cannot be told; `close` says what it died of.
        with suppress(BrokenPipeError):
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()

    def close(self) -> list[Record]:
        """What MLflow answered to each `log`. Warns, once, if it was not told everything."""
        if self.process is None or self.process.stdin is None:
            return []
        if not self.sent:  # it ends by itself; a kill could leave half a database
            self.process.stdin.close()
            return []
        problems = []
        try:
            output, _ = self.process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
            problems.append(f"no answer within {_PATIENCE_S} s")
        answers = [json.loads(line) for line in output.splitlines()]
        told = [answer for answer in answers if "problem" not in answer]
        if len(told) < self.sent:
            problems += [answer["problem"] for answer in answers if "problem" in answer]
            self.errors.seek(0)
            problems += self.errors.read().strip().splitlines()[-1:]
            _log.warning(
                "MLflow does not have all of this run's parameters, metrics and model: %s. "
                "The run is not affected; its record and its page have the same numbers.",
                next(iter(problems), "its process ended early"),
            )
        return told


@contextmanager
def following(storage: str) -> Iterator[Tracker]:
    """A tracker that is warming up; on leaving, it is given time to finish.

    It writes to `MLFLOW_TRACKING_URI`, else to a database in the storage. An object store holds
    no database: without the variable, nothing is tracked there. Nor is it anywhere with
    `RAY_PIPELINE_MLFLOW=off`.
    """
    uri = tracking_uri(storage)
    if uri is None and not _is_off():
        _log.warning("MLflow is not told: %s holds no database; set MLFLOW_TRACKING_URI", storage)
    with tempfile.TemporaryFile("w+") as errors:
        tracker = Tracker(_process(uri, storage, errors) if uri else None, errors)
        try:
            yield tracker
        finally:
            tracker.close()


def _process(uri: str, storage: str, errors: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - this very module
        [sys.executable, "-m", "ray_pipeline.tracking", uri, storage],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**_ENVIRONMENT, **os.environ},
        start_new_session=True,  # that a run was interrupted is still told
    )


def _is_off() -> bool:
    return os.environ.get("RAY_PIPELINE_MLFLOW") == "off"


def tracking_uri(storage: str) -> str | None:
    """Where runs are tracked: the environment's choice, else `<storage>/mlflow.db`, if local."""
    if _is_off():
        return None
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    if chosen or "://" in storage:
        return chosen or None
    return f"sqlite:///{UPath(storage).absolute()}/mlflow.db"


def logged(
    client: MlflowClient,
    record: Mapping[str, Any],
    folder: UPath,
    storage: str,
    machine: Sequence[Metric] = (),
) -> Record:
    """Bring the MLflow run of this pipeline run up to date, and register its bundle.

    Any number of calls leave one MLflow run with one run below it for each trial, one value per
    metric and step, and one model version per bundle. `machine` is how busy this one was.
    Returns `run_id`, and `model_version` where there is a bundle.
    """
    name = record["job"]["name"]
    run = _run(client, _experiment(client, name, storage), record["run"])
    _log_numbers(client, run, record, machine)
    _log_texts(client, run, record, folder)
    answer: Record = {"run_id": run.info.run_id}
    if record.get("bundle"):
        answer["model_version"] = registered.version(client, run, record, UPath(record["bundle"]))
    status = _STATUS.get(record["status"])
    if status is None:
        client.update_run(run.info.run_id, status="RUNNING")
    else:
        client.set_terminated(run.info.run_id, status)
    # Last, for they may be many: some seconds for a hundred.
    tracked.log_trials(client, run, record)
    return answer


def _experiment(client: MlflowClient, name: str, storage: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = str(client.tracking_uri).startswith("sqlite:")
    place = str(UPath(storage).absolute() / "mlflow.artifacts" / name) if local else None
    return str(client.create_experiment(name, artifact_location=place))


def _run(client: MlflowClient, experiment: str, run: str) -> Run:
    """The MLflow run that this pipeline run began before it was interrupted, or a new one."""
    found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
    return found[0] if found else client.create_run(experiment, tags={RUN_TAG: run}, run_name=run)


def _log_numbers(
    client: MlflowClient, run: Run, record: Mapping[str, Any], machine: Sequence[Metric]
) -> None:
    from mlflow.entities import Param, RunTag

    settings = {**tracked.texts(report.without_secrets(record["job"])), **_tuned(record)}
    new = {name: value for name, value in settings.items() if name not in run.data.params}
    params = [Param(name, value) for name, value in new.items()]
    told = {"ray_pipeline.status": record["status"], **tracked.lineage(record)}
    tags = [RunTag(name, value) for name, value in told.items()]
    tracked.log_batches(client, run.info.run_id, params, [*_metrics(record), *machine], tags)


def _metrics(record: Mapping[str, Any]) -> list[Metric]:
    """Learning curves by epoch, trials by number, and the test figures.

    All bear the run's start as their time: MLflow takes an equal point, told twice, as one.
    """
    from mlflow.entities import Metric

    time = int(1000 * record.get("started_s", 0))
    points = [
        (key, epoch[key], epoch["epoch"])
        for epoch in report_learning.history(record)
        for key in ("train_loss", "validation_loss", "score")
        if epoch.get(key) is not None
    ]
    points += [
        (f"trial_{key}", trial[key], number)
        for number, trial in enumerate(report_learning.trials(record), start=1)
        for key in ("validation_loss", "score")
        if trial.get(key) is not None
    ]
    figures = report.numbers(record.get("metrics") or {})
    points += [
        (tracked.allowed(name), value, 0)
        for name, value in figures.items()
        if value is not None and not name.startswith("about.")
    ]
    return [Metric(name, float(value), time, step) for name, value, step in points]


def _log_texts(client: MlflowClient, run: Run, record: Mapping[str, Any], folder: UPath) -> None:
    page = folder / "report.html"
    if page.exists():
        client.log_text(run.info.run_id, page.read_text(encoding="utf-8"), "report.html")
    if record.get("bundle"):
        manifest = UPath(record["bundle"]) / "manifest.json"
        client.log_text(run.info.run_id, manifest.read_text(encoding="utf-8"), "manifest.json")


def _tuned(record: Mapping[str, Any]) -> dict[str, str]:
    tried = report_learning.trials(record)
    best = report_learning.best_trial(tried)
    return {} if best is None else tracked.texts(tried[best]["settings"], "tuned")


def _main(uri: str, storage: str) -> None:
    """Answer each line of standard input, one request to log a run, with one line."""
    os.nice(10)  # the run comes first
    answers, sys.stdout = sys.stdout, sys.stderr  # MLflow prints the run's address
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    client = MlflowClient(uri)
    client.search_experiments(max_results=1)  # makes the database, if it is ours and new
    with Looks() as machine:
        for line in sys.stdin:
            request = json.loads(line)
            place, seen = UPath(request["folder"]), machine.metrics()
            try:
                answer = logged(client, request["record"], place, storage, seen)
                machine.told(seen)
            except (MlflowException, SQLAlchemyError, OSError) as error:
                answer = {"problem": f"{type(error).__name__}: {error}".splitlines()[0]}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
