"""How soon does a search find a good model?

The income job's search, three times: `tune.write` on a Ray cluster that is already up; Optuna alone
in one process, as its documentation shows it (TPE, its own pruner, torch's threads); and a random
search, without a pruner. Same networks, rows, epochs, schedule and space. Each run is
a process of its own with another seed, and they take turns. Seconds run from the process's first
import; only the cluster's start is left out, and shown beside. `search_s` is without imports.

`seconds`, `epochs`, `score` and `validation_loss` are those of `--trials`. `to_loss_s` is when the
first trial had ended with the validation loss `--loss`; the rivals go on for it up to twice the
trials. Where it was not reached the run's whole time counts, which is too little.

    python benchmarks/tune.py [--json] [--runs 5] [--trials 48] [--loss 0.282] [--features DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import finish, said_by, start_ray
from _tensors import epochs_of, prepared_rows, sides

JOB = Path(__file__).parents[1] / "jobs" / "income.yaml"
SETTLING = 5.0
"""Seconds until a new cluster's own processes have come to rest; in nobody's time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--runs", type=int, default=5, help="runs of each; medians are shown")
    parser.add_argument("--features", help="prepared rows; made from the job's data if not given")
    parser.add_argument("--loss", type=float, default=0.282, help="validation loss to reach")
    parser.add_argument("--trials", type=int, default=48, help="settings that each search tries")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=[*SEARCHES, "prepare"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        made = {**SEARCHES, "prepare": prepare}[arguments.one]
        print(json.dumps(made(arguments)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        features = arguments.features or said_of("prepare", scratch, arguments, 0)["features"]
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SEARCHES}
        for seed in range(arguments.runs):
            for name, found in runs.items():
                found.append(said_of(name, features, arguments, seed))
    report(runs, arguments.loss, arguments.json)


def report(runs: dict[str, list[dict[str, Any]]], loss: float, as_json: bool) -> None:
    for found in runs.values():
        for run in found:
            reached = [seconds for seconds, low in run["ends"] if low <= loss]
            run["to_loss_s"] = reached[0] if reached else run["ends"][-1][0]
            run["reached"] = bool(reached)

    def middle(name: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[name])

    keys = ("to_loss_s", "seconds", "search_s", "epochs", "score", "validation_loss")
    keys += ("cluster_start_s",)
    rows = [
        {
            "search": name,
            "reached": f"{sum(run['reached'] for run in found)} of {len(found)}",
            **{key: middle(name, key) for key in keys},
        }
        for name, found in runs.items()
    ]
    figures = {
        name: {key: [run[key] for run in found] for key in keys} for name, found in runs.items()
    }
    print(f"validation loss to reach: {loss:.4f}\n")
    ratios = {
        f"ours/{other}{what}": middle(other, key) / middle("ours", key)
        for other in ("optuna", "random")
        for what, key in ((" to the loss", "to_loss_s"), ("", "seconds"))
    }
    finish("tune", rows, ratios, figures, as_json)


def said_of(name: str, features: str, given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What a search, in a process of its own, says of itself."""
    own = ("--features", features, "--seed", seed, "--trials", given.trials, "--loss", given.loss)
    return said_by(__file__, "--one", name, *own)


def with_ray(given: argparse.Namespace) -> dict[str, Any]:
    """Our search."""
    first = time.monotonic()
    import ray

    begun = time.monotonic()
    start_ray()
    started = time.monotonic() - begun
    time.sleep(SETTLING)
    from upath import UPath

    from ray_pipeline import jobfile
    from ray_pipeline.model import tune

    job = jobfile.read(JOB)
    assert job.tune is not None
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        out, work = UPath(folder) / "out", UPath(folder) / "work"
        out.mkdir()
        work.mkdir()
        begun = time.monotonic()
        found = tune.write(
            UPath(given.features),
            job.model,
            job.train,
            job.tune.model_copy(update={"seed": given.seed, "trials": given.trials}),
            out,
            work=work,
            progress=lambda event: ends.append(time.monotonic()),
        )
        ended = time.monotonic()
        trials = json.loads((out / "trials.json").read_text())
    ray.shutdown()
    before = first + started + SETTLING
    return {
        "seconds": ended - before,
        "search_s": ended - begun,
        "ends": [
            (at - before, trial["validation_loss"]) for at, trial in zip(ends, trials, strict=True)
        ],
        "epochs": sum(trial["epochs"] for trial in trials),
        "score": found["score"],
        "validation_loss": found["validation_loss"],
        "cluster_start_s": started,
    }


def with_optuna(given: argparse.Namespace) -> dict[str, Any]:
    """The same search as one would write it by hand: TPE, and the median pruner, its default."""
    return by_hand(given, lambda optuna: {"sampler": optuna.samplers.TPESampler(seed=given.seed)})


def at_random(given: argparse.Namespace) -> dict[str, Any]:
    """Settings drawn at random, each trained to the end."""

    def study(optuna: Any) -> dict[str, Any]:
        return {
            "sampler": optuna.samplers.RandomSampler(seed=given.seed),
            "pruner": optuna.pruners.NopPruner(),
        }

    return by_hand(given, study)


def by_hand(given: argparse.Namespace, how: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """A study in this process, made with what `how` says of Optuna's parts."""
    first = time.monotonic()
    import optuna
    import torch
    from upath import UPath

    from ray_pipeline import jobfile
    from ray_pipeline.data import features as prepared
    from ray_pipeline.model.search import distribution
    from ray_pipeline.model.settings import apply, value_at

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(os.cpu_count() or 1)
    job = jobfile.read(JOB)
    settings = job.tune
    assert settings is not None
    begun = time.monotonic()
    described = prepared.load(UPath(given.features))
    rows = sides(given.features)
    space = {key: distribution(range_) for key, range_ in settings.space.items()}

    def objective(trial: optuna.Trial) -> float:
        chosen = {key: trial._suggest(key, space[key]) for key in space}
        model, train = apply(chosen, job.model, job.train)
        train = train.model_copy(update={"epochs": settings.epochs})
        found = []
        for loss, score in epochs_of(model, train, described, rows):
            found.append((loss, score))
            trial.report(loss, len(found))
            trial.set_user_attr("epochs", len(found))
            trial.set_user_attr("best", min(found))
            if trial.should_prune():
                raise optuna.TrialPruned
        return found[-1][0]

    def note(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        ends.append((time.monotonic() - first, trial.user_attrs["best"][0]))
        if len(ends) >= given.trials and min(loss for _, loss in ends) <= given.loss:
            study.stop()

    ends: list[tuple[float, float]] = []
    study = optuna.create_study(**how(optuna))
    study.enqueue_trial({key: value_at(key, job.model, job.train) for key in space})
    study.optimize(objective, n_trials=2 * given.trials, callbacks=[note])
    own, seconds = study.trials[: given.trials], ends[given.trials - 1][0]
    loss, score = min(trial.user_attrs["best"] for trial in own)
    return {
        "seconds": seconds,
        "search_s": seconds - (begun - first),
        "ends": ends,
        "epochs": sum(trial.user_attrs["epochs"] for trial in own),
        "score": score,
        "validation_loss": loss,
        "cluster_start_s": 0.0,
    }


def prepare(given: argparse.Namespace) -> dict[str, Any]:
    return {"features": prepared_rows(JOB, given.features)}


SEARCHES = {"ours": with_ray, "optuna": with_optuna, "random": at_random}

if __name__ == "__main__":
    main()
