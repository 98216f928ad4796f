"""Is training as fast as a loop written by hand?

The income job's network on its rows, `--copies` times over so that an epoch lasts seconds, as
`train.write` trains it and as a plain PyTorch loop does that holds all rows in memory: same rows,
batch, threads, optimizer, clipping, schedule and validation, no checkpoint in the plain one.
Samples a second count all that lies between the ends of two epochs: our checkpoints and reports
as well. What comes before the first epoch, workers' start included, is `start_up_s`.

Weak scaling: one worker, then two, each with a thread and 512 rows a step, so that twice the rows
are trained in the time of one if nothing is lost.

    python benchmarks/train.py [--json] [--runs 3] [--copies 8] [--features DIR]
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
from pathlib import Path
from typing import Any

from _common import finish
from tune import JOB, SETTLING, epochs_of, prepared_rows

EPOCHS = 4
BATCH = 512
CORES = len(os.sched_getaffinity(0))
OURS: dict[str, dict[str, Any]] = {
    "ours, rows in memory": {"workers": 0, "cpus": CORES, "feed": "memory"},
    "ours, Ray Data": {"workers": 0, "cpus": CORES, "feed": "stream"},
    "ours, 1 worker": {"workers": 1, "feed": "memory"},
    "ours, 2 workers": {"workers": 2, "feed": "memory", "batch_size": 2 * BATCH},
}
PLAIN = {"plain loop": CORES, "plain loop, 1 thread": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; medians are shown")
    parser.add_argument("--copies", type=int, default=8, help="times that the rows are taken")
    parser.add_argument("--features", help="prepared rows; made from the job's data if not given")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.features)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        made = arguments.features or in_its_own_process("prepare", scratch)["features"]
        features = copied(Path(made), Path(scratch) / "copies", arguments.copies)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*PLAIN, *OURS)}
        for _ in range(arguments.runs):
            for name, found in runs.items():
                found.append(in_its_own_process(name, str(features)))
    report(runs, arguments.json)


def report(runs: dict[str, list[dict[str, Any]]], as_json: bool) -> None:
    def middle(name: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[name])

    keys = ("samples_s", "start_up_s", "score")
    rows = [{"training": name, **{key: middle(name, key) for key in keys}} for name in runs]
    speed = {name: middle(name, "samples_s") for name in runs}
    ratios = {
        "ours/plain": speed["ours, rows in memory"] / speed["plain loop"],
        "ours with Ray Data/plain": speed["ours, Ray Data"] / speed["plain loop"],
        "one worker/plain with one thread": speed["ours, 1 worker"] / speed["plain loop, 1 thread"],
        "two workers/twice one worker": speed["ours, 2 workers"] / speed["ours, 1 worker"] / 2,
    }
    finish("train", rows, ratios, runs, as_json, packages=("ray", "torch"))


def one(name: str, features: str) -> dict[str, Any]:
    if name == "prepare":
        return prepared_rows(features, 0)
    return by_hand(features, PLAIN[name]) if name in PLAIN else with_ray(features, OURS[name])


def in_its_own_process(name: str, features: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, "--one", name, "--features", features]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.stderr)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def copied(features: Path, folder: Path, copies: int) -> Path:
    """The prepared rows below `folder`, those of training `copies` times."""
    (folder / "train").mkdir(parents=True)
    for file in (features / "train").glob("*.parquet"):
        for copy in range(copies):
            (folder / "train" / f"{copy}-{file.name}").symlink_to(file)
    (folder / "validation").symlink_to(features / "validation")
    (folder / "statistics.json").symlink_to(features / "statistics.json")
    return folder


def settings(changes: dict[str, Any]) -> tuple[Any, Any]:
    """The income job's network, and its training for so many epochs."""
    from ray_pipeline import jobfile

    job = jobfile.read(JOB)
    train = {"epochs": EPOCHS, "patience": EPOCHS, "batch_size": BATCH} | changes
    return job.model, job.train.model_copy(update=train)


def with_ray(features: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Our training."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray
    from upath import UPath

    from ray_pipeline.model import train

    ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False)
    time.sleep(SETTLING)
    model, training = settings(changes)
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        out, work = UPath(folder) / "out", UPath(folder) / "work"
        out.mkdir()
        work.mkdir()
        begun = time.monotonic()
        record = train.write(
            UPath(features),
            model,
            training,
            out,
            work=work,
            progress=lambda event: ends.append(time.monotonic()),
        )
        history = json.loads((out / "history.json").read_text())
    ray.shutdown()
    rows = record["steps"] * training.batch_size
    return measured(rows, ends, ends[0] - begun - history[0]["seconds"], record["score"])


def by_hand(features: str, threads: int) -> dict[str, Any]:
    """The same as one would write it by hand."""
    begun = time.monotonic()
    import torch
    from upath import UPath

    from ray_pipeline.data import features as prepared

    torch.set_num_threads(threads)
    model, training = settings({})
    described = prepared.load(UPath(features))
    sides = {
        side: {
            name: torch.from_numpy(values)
            for name, values in prepared.read_matrix(UPath(features) / side).items()
        }
        for side in ("train", "validation")
    }
    ready, ends, scores = time.monotonic(), [], []
    for _, score in epochs_of(model, training, described, sides):
        ends.append(time.monotonic())
        scores.append(score)
    rows = len(sides["train"]["label"]) // BATCH * BATCH
    return measured(rows, ends, ready - begun, max(scores))


def measured(rows: int, ends: list[float], start_up: float, score: float) -> dict[str, Any]:
    """Samples a second of all epochs but the first, which warms up."""
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    return {"samples_s": rows / seconds, "start_up_s": start_up, "score": score}


if __name__ == "__main__":
    main()
