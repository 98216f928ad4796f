"""The search for settings: Ray Tune runs the trials, ASHA stops the poor ones, Optuna proposes.

ASHA is that of Li et al. (2018), https://arxiv.org/abs/1810.05934; Optuna's sampler is TPE.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.errors import TrainingError
from ray_pipeline.job import Model, Train, Tune
from ray_pipeline.model import loop
from ray_pipeline.model.loop import write_whole
from ray_pipeline.model.search import search
from ray_pipeline.model.settings import apply
from ray_pipeline.model.train import arrow_filesystem, matrices
from ray_pipeline.model.trial import Trial

Record = dict[str, Any]
__all__ = ["apply", "best", "write"]
LOSS = "validation_loss"
REDUCTION = 3
"""At each rung, one trial in this many goes on."""
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # one file per result and trial, unread by us
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


def write(
    features: UPath,
    model: Model,
    train: Train,
    settings: Tune,
    out: UPath,
    *,
    work: UPath,
    progress: Callable[[Record], None],
) -> Record:
    """Search `settings.space` around the settings `model` and `train`.

    The first trial has the settings as they are, where the space covers them. Trials are compared
    by validation loss. Writes `best.json` ({"model.width": 128, …}) and `trials.json`, one
    {settings, score, validation_loss, epochs, state, seconds, history} a trial, below `out`.
    Ended trials are kept in `work`: a call that was interrupted runs only the others.

    Raises:
        TrainingError: every trial failed.
    """
    journal = Journal(work / "trials.json", settings, progress)
    if len(journal.ended) < settings.trials:
        shared = {
            "model": model,
            "train": train,
            "settings": settings,
            "statistics": prepared.load(features),
            "data": matrices(features),
        }
        with _quiet():
            _tuner(settings, shared, journal, work).fit()
    found = journal.best()
    if found is None:
        raise TrainingError(
            f"all {len(journal.ended)} trials failed; the first said: {journal.ended[0]['error']}",
            where="tune.space",
        )
    (out / "trials.json").write_text(json.dumps(journal.ended, indent=1))
    (out / "best.json").write_text(json.dumps(found["settings"], indent=1))
    states = [trial["state"] for trial in journal.ended]
    return {
        "trials": len(states),
        **{state: states.count(state) for state in ("complete", "stopped", "failed")},
        "best": found["settings"],
        "score": found["score"],
        "validation_loss": found[LOSS],
    }


def best(searched: UPath) -> Record:
    """The best settings that a search found."""
    return dict(json.loads((searched / "best.json").read_text()))


class Journal(tune.Callback):
    """Every trial's epochs, written down as it ends, so that no ended trial is run twice."""

    def __init__(self, path: UPath, settings: Tune, progress: Callable[[Record], None]) -> None:
        self.path, self.settings, self.progress = path, settings, progress
        self.ended: list[Record] = json.loads(path.read_text()) if path.exists() else []
        self.histories: dict[str, list[Record]] = {}

    def best(self) -> Record | None:
        """The trial with the lowest validation loss, if any did not fail."""
        usable = [trial for trial in self.ended if trial["state"] != "failed"]
        return min(usable, key=lambda trial: float(trial[LOSS]), default=None)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        measures = ("train_loss", LOSS, "score")
        history = self.histories.setdefault(trial.trial_id, [])
        history.append({"epoch": len(history) + 1, **{name: result[name] for name in measures}})
        history[-1]["seconds"] = round(result["time_this_iter_s"], 4)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        whole = len(self.histories[trial.trial_id]) >= self.settings.epochs
        self._end(trial, "complete" if whole else "stopped", None)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._end(trial, "failed", _said(trial))

    def _end(self, trial: Any, state: str, error: str | None) -> None:
        history = self.histories.get(trial.trial_id, [])
        top = history[loop.best_epoch(history)] if history else {"score": None, LOSS: None}
        self.ended.append(
            {
                "settings": trial.config,
                "score": top["score"],
                LOSS: top[LOSS],
                "epochs": len(history),
                "state": state,
                "error": error,
                "seconds": round(sum(epoch["seconds"] for epoch in history), 3),
                "history": history,
            }
        )
        write_whole(self.path, json.dumps(self.ended).encode())
        found = self.best()
        event = {"trial": len(self.ended), "trials": self.settings.trials}
        self.progress({**event, "best": found["score"] if found else None})


def _tuner(settings: Tune, shared: Record, journal: Journal, work: UPath) -> tune.Tuner:
    trainable = tune.with_resources(
        tune.with_parameters(Trial, **shared), {"cpu": settings.cpus, "gpu": settings.gpus}
    )
    scheduler = ASHAScheduler(max_t=settings.epochs, grace_period=1, reduction_factor=REDUCTION)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=LOSS,
            mode="min",
            scheduler=scheduler if settings.epochs > 1 else None,
            search_alg=search(settings, shared["model"], shared["train"], journal.ended, LOSS),
            num_samples=settings.trials - len(journal.ended),
            max_concurrent_trials=_parallel(settings),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:8]}",
            storage_path=work.path,
            storage_filesystem=arrow_filesystem(work),
            callbacks=[journal],
            # Trials are short: one that was interrupted begins anew.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )


def _parallel(settings: Tune) -> int:
    """Trials at a time: what the job says, or as many as the cluster's CPUs and GPUs hold."""
    if settings.parallel is not None:
        return settings.parallel
    held: Record = ray.cluster_resources()  # type: ignore[no-untyped-call]
    fitting = [held.get("CPU", 1) / settings.cpus]
    if settings.gpus:
        fitting.append(held.get("GPU", 0) / settings.gpus)
    return max(1, min(int(min(fitting)), settings.trials))


def _said(trial: Any) -> str:
    """The last line of the error that a trial failed with."""
    return Path(trial.error_file).read_text().strip().splitlines()[-1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Tune and Optuna print nothing inside; progress is told through the journal."""
    before = {name: os.environ.get(name) for name in QUIET}
    loggers = [logging.getLogger(name) for name in ("ray.tune", "optuna")]
    levels = [logger.level for logger in loggers]
    os.environ.update(QUIET)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
