"""What MLflow is told of a run beside its own figures: its trials as runs below it, and what it and
its model were made of."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray_pipeline import report_learning, report_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, Run, RunInfo, RunTag

TRIAL_TAG = "ray_pipeline.trial"
_PARENT = "mlflow.parentRunId"
_FIGURES = ("validation_loss", "train_loss", "score")
_MOST_TRIALS = 1000
_BATCH_PARAMS, _BATCH_METRICS = 100, 1000


def texts(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by dotted name, as texts; unset ones left out."""
    return {
        allowed(name): value if isinstance(value, str) else json.dumps(value)
        for name, value in report_view.flat(settings, prefix)
    }


def allowed(name: str) -> str:
    """`name` in the characters that MLflow allows, which leave out `<`, `>` and `=`."""
    for sign, word in (("<=", "at most "), (">=", "at least "), ("<", "below "), (">", "above ")):
        name = name.replace(sign, word)
    return re.sub(r"[^\w\-./: ]", "_", name)[:250]


def log_trials(client: MlflowClient, run: Run, record: Mapping[str, Any]) -> None:
    """A run below `run` for each trial of the search, with its settings, figures and curves; those
    that MLflow has already stay."""
    trials = report_learning.trials(record)[:_MOST_TRIALS]
    if not trials:
        return
    experiment = run.info.experiment_id
    below = f"tags.`{_PARENT}` = '{run.info.run_id}'"
    known = client.search_runs([experiment], below, max_results=_MOST_TRIALS)
    told = {one.data.tags.get(TRIAL_TAG): one.info for one in known}
    best = report_learning.best_trial(trials)
    for number, trial in enumerate(trials, start=1):
        made = told.get(str(number))
        if made is None:
            tags = {_PARENT: run.info.run_id, TRIAL_TAG: str(number)}
            tags["ray_pipeline.chosen"] = str(number - 1 == best).lower()
            name = f"{run.info.run_name} trial {number}"
            made = client.create_run(experiment, tags=tags, run_name=name).info
        if made.status == "RUNNING":  # new, or half told by a process that was killed
            _log_trial(client, made, trial)


def _log_trial(client: MlflowClient, made: RunInfo, trial: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric, Param

    params = [Param(key, value) for key, value in texts(trial.get("settings") or {}).items()]
    epochs = trial.get("history") or [{**trial, "epoch": 0}]
    metrics = [
        Metric(key, float(epoch[key]), made.start_time, int(epoch.get("epoch", 0)))
        for epoch in epochs
        for key in _FIGURES
        if epoch.get(key) is not None
    ]
    log_batches(client, made.run_id, params, metrics)
    failed = trial.get("state") == "failed"
    client.set_terminated(made.run_id, "FAILED" if failed else "FINISHED")


def log_batches(
    client: MlflowClient,
    run: str,
    params: Sequence[Param],
    metrics: Sequence[Metric],
    tags: Sequence[RunTag] = (),
) -> None:
    """Tell a run all of these, as many at a time as a request to MLflow may hold."""
    for start in range(0, max(len(params), 1), _BATCH_PARAMS):
        client.log_batch(run, params=params[start : start + _BATCH_PARAMS], tags=tags)
    for start in range(0, len(metrics), _BATCH_METRICS):
        client.log_batch(run, metrics=metrics[start : start + _BATCH_METRICS])


def lineage(record: Mapping[str, Any]) -> dict[str, str]:
    """Tags that say what a run was made of: the digest of each stage's output, which is one of all
    that it was made from, the files that it read, and this package's version."""
    stages = {
        f"ray_pipeline.stage.{one['name']}": str(one["digest"])
        for one in record.get("stages") or ()
        if one.get("digest")
    }
    sources = [str(name) for name in record.get("sources") or ()]
    named = {"ray_pipeline.sources": json.dumps(sources)[:5000]} if sources else {}
    version = {"ray_pipeline.version": str(record["version"])} if record.get("version") else {}
    return {**stages, **named, **version}


def of_model(manifest: Mapping[str, Any], run: str) -> dict[str, str]:
    """Tags of a model version: the bundle's digest, its run, the stages that it was made by, and
    the network that it began with."""
    tags = {f"ray_pipeline.stage.{name}": of for name, of in manifest.get("lineage", {}).items()}
    tags |= {"ray_pipeline.digest": manifest.get("digest"), "ray_pipeline.run": run}
    tags["ray_pipeline.base_model"] = manifest.get("base_model")
    return {name: str(value) for name, value in tags.items() if value}
