"""The search for settings: Ray Tune runs the trials, Optuna proposes, ASHA stops the poor ones;
or a population of trials learns from its best.

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
from ray_pipeline.model import bred, loop, mixup, population
from ray_pipeline.model.environment import variables
from ray_pipeline.model.journal import Halving, Journal
from ray_pipeline.model.objectives import LATENCY, LOSS, chosen
from ray_pipeline.model.search import search
from ray_pipeline.model.search_findings import findings
from ray_pipeline.model.settings import apply
from ray_pipeline.model.space import Space, space
from ray_pipeline.model.train import arrow_filesystem, matrices
from ray_pipeline.model.trial import Member, Trial

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
    by `settings.objectives`. Writes `best.json` ({"model.width": 128, …}) and `trials.json`, one
    {settings, score, validation_loss, epochs, state, seconds, history} a trial, below `out`; of a
    population also the best weights. Ended trials are kept in `work`: a call that was interrupted
    runs only the others; a population goes on from its last exchange.

    Raises:
        TrainingError: every trial failed, or one of a population.
        GateRefused: no trial is as fast as `settings.max_latency` asks.
    """
    journal = Journal(work / "trials.json", settings.trials, progress)
    statistics = prepared.load(features)
    inputs, several = loop.inputs(statistics), statistics.task == "multilabel"
    mixup.check(train, model, inputs, statistics.task)
    searched = space(settings, model, train, inputs, statistics.rows, several)
    if len(journal.ended) < settings.trials:
        shared = {
            "model": model,
            "train": train,
            "settings": settings,
            "statistics": statistics,
            "data": matrices(features),
        }
        run = _bred if settings.scheduler == "pbt" else _halved
        with _quick_and_quiet():
            run(settings, searched, shared, journal, work)
    if not journal.usable():
        raise TrainingError(
            f"all {len(journal.ended)} trials failed; the first said: {journal.ended[0]['error']}",
            where="tune.space",
        )
    found = chosen(journal.usable(), settings)
    exchanges = _kept(found, work, out) if settings.scheduler == "pbt" else []
    with _quick_and_quiet():
        told = findings(
            searched,
            journal.ended,
            settings,
            chosen=found,
            price_per_hour=train.price_per_hour,
            exchanges=exchanges,
        )
    _tell(journal.ended, found, out)
    return {**_summary(journal.ended, found), "findings": told}


def best(searched: UPath) -> Record:
    """The best settings that a search found."""
    return dict(json.loads((searched / "best.json").read_text()))


def _kept(found: Record, work: UPath, out: UPath) -> list[Record]:
    """The exchanges of a population; the best member's weights are left in `out`."""
    bred.keep(found, work / population.STATES, out)
    return population.exchanges(work)


def _tell(ended: list[Record], found: Record, out: UPath) -> None:
    trials = [{**trial, "chosen": trial is found} for trial in ended]
    (out / "trials.json").write_text(json.dumps(trials, indent=1))
    (out / "best.json").write_text(json.dumps(found["settings"], indent=1))


def _summary(ended: list[Record], found: Record) -> Record:
    states = [trial["state"] for trial in ended]
    return {
        "trials": len(states),
        **{state: states.count(state) for state in ("complete", "stopped", "failed")},
        "best": found["settings"],
        **{name: found[name] for name in ("score", LOSS, LATENCY) if name in found},
    }


def _halved(settings: Tune, searched: Space, shared: Record, journal: Journal, work: UPath) -> None:
    """Run the trials that are left, as Optuna proposes them; poor ones are stopped early."""
    config = tune.TuneConfig(
        scheduler=Halving(journal, settings),
        search_alg=search(settings, searched, journal.ended),
        num_samples=settings.trials - len(journal.ended),
        max_concurrent_trials=_parallel(settings),
        reuse_actors=True,
    )
    _tuner(Trial, shared, work, config).fit()


def _bred(settings: Tune, searched: Space, shared: Record, journal: Journal, work: UPath) -> None:
    """Train the population, from its last exchange on; the members end together."""
    journal.ended.clear()
    states = work / population.STATES
    states.mkdir(exist_ok=True)
    members = population.Population(journal, settings, searched, work)
    config = tune.TuneConfig(
        scheduler=members, search_alg=population.Queue(), num_samples=1, reuse_actors=True
    )
    space = {"member": tune.grid_search(members.configurations)}
    _tuner(Member, {**shared, "states": states}, work, config, space).fit()
    if members.error is not None:
        raise TrainingError(f"a trial failed: {members.error}", where="tune")


def _tuner(
    trial: type[Trial],
    shared: Record,
    work: UPath,
    config: tune.TuneConfig,
    space: Record | None = None,
) -> tune.Tuner:
    settings: Tune = shared["settings"]
    resources = {"cpu": settings.cpus, "gpu": settings.gpus}
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, **shared), resources),
        param_space=space,
        tune_config=config,
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:8]}",
            storage_path=work.path,
            storage_filesystem=arrow_filesystem(work),
            # Trials are short: one that was interrupted begins anew.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(fail_fast=trial is Member),
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
