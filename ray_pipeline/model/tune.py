"""The search for settings: Ray Tune runs the trials, ASHA stops the poor ones, Optuna proposes.

ASHA is that of Li et al. (2018), https://arxiv.org/abs/1810.05934; Optuna's sampler is TPE.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.errors import TrainingError
from ray_pipeline.job import Model, Train, Tune
from ray_pipeline.model import loop
from ray_pipeline.model.environment import variables
from ray_pipeline.model.journal import LOSS, Halving, Journal
from ray_pipeline.model.search import search
from ray_pipeline.model.search_findings import findings
from ray_pipeline.model.settings import apply
from ray_pipeline.model.space import Space, space
from ray_pipeline.model.train import arrow_filesystem, matrices
from ray_pipeline.model.trial import Trial

Record = dict[str, Any]
__all__ = ["apply", "best", "write"]
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

    The first trial has the settings as they are, where the space covers them. Where `model.name`
    is `auto` the architecture is searched too: one trial of each comes first. Trials are compared
    by validation loss. Writes `best.json` ({"model.width": 128, …}) and `trials.json`, one
    {settings, score, validation_loss, epochs, state, seconds, history} a trial, below `out`.
    Ended trials are kept in `work`: a call that was interrupted runs only the others.

    Raises:
        TrainingError: every trial failed.
    """
    journal = Journal(work / "trials.json", settings.trials, progress)
    statistics = prepared.load(features)
    searched = space(settings, model, train, loop.inputs(statistics), statistics.rows)
    if len(journal.ended) < settings.trials:
        shared = {
            "model": model,
            "train": train,
            "settings": settings,
            "statistics": statistics,
            "data": matrices(features),
        }
        with _quick_and_quiet():
            _tuner(settings, searched, shared, journal, work).fit()
    found = journal.best()
    if found is None:
        raise TrainingError(
            f"all {len(journal.ended)} trials failed; the first said: {journal.ended[0]['error']}",
            where="tune.space",
        )
    with _quick_and_quiet():
        told = findings(searched, journal.ended, train.price_per_hour)
    (out / "trials.json").write_text(json.dumps(journal.ended, indent=1))
    (out / "best.json").write_text(json.dumps(found["settings"], indent=1))
    states = [trial["state"] for trial in journal.ended]
    return {
        "trials": len(states),
        **{state: states.count(state) for state in ("complete", "stopped", "failed")},
        "best": found["settings"],
        "score": found["score"],
        "validation_loss": found[LOSS],
        "findings": told,
    }


def best(searched: UPath) -> Record:
    """The best settings that a search found."""
    return dict(json.loads((searched / "best.json").read_text()))


def _tuner(
    settings: Tune, searched: Space, shared: Record, journal: Journal, work: UPath
) -> tune.Tuner:
    trainable = tune.with_resources(
        tune.with_parameters(Trial, **shared), {"cpu": settings.cpus, "gpu": settings.gpus}
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=LOSS,
            mode="min",
            scheduler=Halving(journal, settings.epochs),
            search_alg=search(settings, searched, journal.ended, LOSS),
            num_samples=settings.trials - len(journal.ended),
            max_concurrent_trials=_parallel(settings),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:8]}",
            storage_path=work.path,
            storage_filesystem=arrow_filesystem(work),
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


@contextmanager
def _quick_and_quiet() -> Iterator[None]:
    """How Ray Tune behaves inside: it prints nothing, and uses worker processes at hand."""
    loggers = {name: logging.getLogger(name) for name in ("ray.tune", "optuna")}
    levels = {name: logger.level for name, logger in loggers.items()}
    # Tune wants processes with a variable of PyTorch Lightning's, and would start new ones for it
    # where idle ones are at hand: more than a second.
    wanted = dict(class_cache.DEFAULT_ENV_VARS)
    class_cache.DEFAULT_ENV_VARS.clear()
    for logger in loggers.values():
        logger.setLevel(logging.CRITICAL)
    try:
        with variables(QUIET):
            yield
    finally:
        class_cache.DEFAULT_ENV_VARS.update(wanted)
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
