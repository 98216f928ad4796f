"""Is the search as fast as a plain Optuna loop?

The income job's search, 16 trials: `tune.write` on a Ray cluster that is already up, and the same
trials in one process with Optuna alone: same networks, rows, epochs, schedule, sampler and
successive halving at the same rungs, torch using all cores. Each run is a process of its own, and
the two take turns. Seconds run from the process's first import to the search's end, for both;
only the cluster's start is left out, and shown beside. `search_s` is the search without imports.
Each run has another seed: which trials are stopped early is luck.

    python benchmarks/tune.py [--json] [--runs 5] [--features DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _common import finish

JOB = Path(__file__).parents[1] / "jobs" / "income.yaml"
SETTLING = 5.0
"""Seconds until a new cluster's own processes have come to rest; in nobody's time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--runs", type=int, default=5, help="runs of each; medians are shown")
    parser.add_argument("--features", help="prepared rows; made from the job's data if not given")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=[*SEARCHES, "prepare"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        made = {**SEARCHES, "prepare": prepared_rows}[arguments.one]
        print(json.dumps(made(arguments.features, arguments.seed)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        features = arguments.features or in_its_own_process("prepare", scratch, 0)["features"]
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SEARCHES}
        for seed in range(arguments.runs):
            for name, found in runs.items():
                found.append(in_its_own_process(name, features, seed))
    report(runs, arguments.json)


def report(runs: dict[str, list[dict[str, Any]]], as_json: bool) -> None:
    def middle(name: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[name])

    keys = ("seconds", "search_s", "epochs", "score", "validation_loss", "cluster_start_s")
    rows = [{"search": name, **{key: middle(name, key) for key in keys}} for name in runs]
    figures = {
        name: {key: [run[key] for run in found] for key in keys} for name, found in runs.items()
    }
    ratio = middle("optuna", "seconds") / middle("ours", "seconds")
    ratios = {
        "ours/optuna": ratio,
        # Which trials are stopped is luck; this leaves it out.
        "ours/optuna by epoch": ratio * middle("ours", "epochs") / middle("optuna", "epochs"),
    }
    finish("tune", rows, ratios, figures, as_json)


def in_its_own_process(name: str, features: str, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, "--one", name, "--features", features]
    command += ["--seed", str(seed)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.stderr)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def with_ray(features: str, seed: int) -> dict[str, Any]:
    """Our search."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    first = time.monotonic()
    import ray

    begun = time.monotonic()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False)
    started = time.monotonic() - begun
    time.sleep(SETTLING)
    from upath import UPath

    from ray_pipeline import jobfile
    from ray_pipeline.model import tune

    job = jobfile.read(JOB)
    assert job.tune is not None
    with tempfile.TemporaryDirectory() as folder:
        out, work = UPath(folder) / "out", UPath(folder) / "work"
        out.mkdir()
        work.mkdir()
        begun = time.monotonic()
        found = tune.write(
            UPath(features),
            job.model,
            job.train,
            job.tune.model_copy(update={"seed": seed}),
            out,
            work=work,
            progress=lambda event: None,
        )
        ended = time.monotonic()
        epochs = sum(trial["epochs"] for trial in json.loads((out / "trials.json").read_text()))
    ray.shutdown()
    return {
        "seconds": ended - first - started - SETTLING,
        "search_s": ended - begun,
        "epochs": epochs,
        "score": found["score"],
        "validation_loss": found["validation_loss"],
        "cluster_start_s": started,
    }


def with_optuna(features: str, seed: int) -> dict[str, Any]:
    """The same search as one would write it by hand."""
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
    described = prepared.load(UPath(features))
    sides = {
        side: {
            name: torch.from_numpy(values)
            for name, values in prepared.read_matrix(UPath(features) / side).items()
        }
        for side in ("train", "validation")
    }
    space = {key: distribution(range_) for key, range_ in settings.space.items()}

    def objective(trial: optuna.Trial) -> float:
        chosen = {key: trial._suggest(key, space[key]) for key in space}
        model, train = apply(chosen, job.model, job.train)
        train = train.model_copy(update={"epochs": settings.epochs})
        found = []
        for loss, score in epochs_of(model, train, described, sides):
            found.append((loss, score))
            trial.report(loss, len(found))
            trial.set_user_attr("epochs", len(found))
            trial.set_user_attr("best", min(found))
            if trial.should_prune():
                raise optuna.TrialPruned
        return found[-1][0]

    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    )
    study.enqueue_trial({key: value_at(key, job.model, job.train) for key in space})
    study.optimize(objective, n_trials=settings.trials)
    ended = time.monotonic()
    loss, score = min(trial.user_attrs["best"] for trial in study.trials)
    return {
        "seconds": ended - first,
        "search_s": ended - begun,
        "epochs": sum(trial.user_attrs["epochs"] for trial in study.trials),
        "score": score,
        "validation_loss": loss,
        "cluster_start_s": 0.0,
    }


def epochs_of(model: Any, train: Any, described: Any, sides: Any) -> Iterator[tuple[float, float]]:
    """Validation loss and score after each epoch of training a network of these settings."""
    import torch

    from ray_pipeline.model import loop, schedule, zoo

    torch.manual_seed(train.seed)
    network = zoo.build(model, loop.inputs(described))
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
    )
    steps = train.epochs * (len(sides["train"]["label"]) // train.batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: schedule.rate_factor(train, step, steps)
    )
    for _ in range(train.epochs):
        train_one_epoch(network, optimizer, rate, sides["train"], train)
        yield judged(network, sides["validation"])


def train_one_epoch(network: Any, optimizer: Any, schedule: Any, rows: Any, train: Any) -> None:
    import torch

    network.train()
    order = torch.randperm(len(rows["label"]))
    for step in range(len(order) // train.batch_size):
        index = order[step * train.batch_size : (step + 1) * train.batch_size]
        logits = network(rows["numbers"][index], rows["categories"][index])
        loss = torch.nn.functional.cross_entropy(logits, rows["label"][index])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), train.clip)
        optimizer.step()
        schedule.step()


def judged(network: Any, rows: Any) -> tuple[float, float]:
    import torch

    network.eval()
    with torch.no_grad():
        logits = network(rows["numbers"], rows["categories"])
    loss = torch.nn.functional.cross_entropy(logits, rows["label"])
    return loss.item(), (logits.argmax(1) == rows["label"]).double().mean().item()


def prepared_rows(scratch: str, seed: int) -> dict[str, Any]:
    """The income job's rows, cleaned, split and prepared below `scratch`."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray
    from upath import UPath

    from ray_pipeline import jobfile
    from ray_pipeline.data import clean, collect, features, split

    ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False)
    data = jobfile.read(JOB).data
    schema = collect.schema(data)
    folders = [UPath(scratch) / name for name in ("clean", "split", "features")]
    for folder in folders:
        folder.mkdir()
    clean.write(data, schema, folders[0])
    split.write(folders[0], data, schema, folders[1])
    features.write(folders[1], data, schema, folders[2])
    ray.shutdown()
    return {"features": str(folders[2])}


SEARCHES = {"ours": with_ray, "optuna": with_optuna}

if __name__ == "__main__":
    main()
