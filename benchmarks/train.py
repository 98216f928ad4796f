"""Is training as fast as a loop written by hand?

Three networks on the rows of their jobs: an MLP (income), MiniLM fine-tuned (reviews_encoder) and a
CNN (fashion, without augmentation). `train.write` trains each in this process, from rows in memory
and from files that are read anew each epoch; a plain PyTorch loop on the same rows, batch, threads,
optimizer, clipping, schedule, validation and checkpoint takes turns with it, epoch by epoch, so
that both meet the same machine. A time is all that lies between the ends of two epochs. The first
epoch of each warms up; what comes before its first step is `start_up_s`.

`--scaling`: the MLP and the CNN by one worker process, then by two, each with a thread and as many
rows a step, so that twice the rows are trained in the time of one if nothing is lost. Two trainings
of one worker side by side, which wait for nothing of each other, tell what the machine loses.

    python benchmarks/train.py [--json] [--models mlp minilm cnn] [--scaling] [--features DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import finish, said_by, start_ray
from _tensors import epochs_of, prepared_rows, sides

JOBS = Path(__file__).parents[1] / "jobs"
CORES = len(os.sched_getaffinity(0))
SETTLING = 5.0
"""Seconds until a new cluster's own processes have come to rest; in nobody's time."""
PLAIN = "plain PyTorch loop"
FEEDS = {"memory": "ours, rows in memory", "stream": "ours, rows streamed"}


@dataclass(frozen=True)
class Case:
    """A job's network, on the first `rows` of its rows `copies` times over."""

    job: str
    rows: int
    copies: int
    held_out: int
    epochs: int


CASES = {
    "mlp": Case("income.yaml", rows=30_000, copies=2, held_out=4000, epochs=4),
    "minilm": Case("reviews_encoder.yaml", rows=256, copies=1, held_out=32, epochs=3),
    "cnn": Case("fashion.yaml", rows=3840, copies=1, held_out=384, epochs=4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--scaling", action="store_true", help="one worker against two")
    parser.add_argument("--features", help="a folder for prepared rows; they are made if absent")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(ONE[arguments.one](arguments.models[0], Path(arguments.features))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments.features or scratch)
        found = {}
        for name in arguments.models:
            if not (folder / name).exists():
                in_its_own_process("prepare", name, folder)
            found[name] = in_its_own_process(
                "scaling" if arguments.scaling else "turns", name, folder
            )
    (scaled if arguments.scaling else compared)(found, arguments.json)


def in_its_own_process(what: str, name: str, folder: Path) -> dict[str, Any]:
    return said_by(__file__, "--one", what, "--models", name, "--features", folder)


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """The case's rows, prepared and cut, in `folder`/`name`."""
    import pyarrow as pa
    import pyarrow.dataset as pads
    import pyarrow.parquet as pq

    case = CASES[name]
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(prepared_rows(JOBS / case.job, scratch))
        for side, count in (("train", case.rows), ("validation", case.held_out)):
            (folder / name / side).mkdir(parents=True)
            table = pads.dataset(str(made / side), format="parquet").head(count)
            copies = case.copies if side == "train" else 1
            pq.write_table(pa.concat_tables([table] * copies), folder / name / side / "0.parquet")
        (folder / name / "statistics.json").write_text((made / "statistics.json").read_text())
    return {}


def settings(name: str, **changes: Any) -> tuple[Any, Any]:
    """The job's network, and its training for so many epochs."""
    from ray_pipeline import jobfile

    job, epochs = jobfile.read(JOBS / CASES[name].job), CASES[name].epochs
    here = {"workers": 0, "cpus": CORES, "augment": None, "checkpoint_every": None}
    train = {"epochs": epochs, "patience": epochs, **here, **changes}
    return job.model, job.train.model_copy(update=train)


def turns(name: str, folder: Path) -> dict[str, Any]:
    """By feed, what `one_feed` finds."""
    start_ray()
    time.sleep(SETTLING)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "plain.pt"
        return {feed: one_feed(name, folder / name, feed, checkpoint) for feed in FEEDS}


def one_feed(name: str, features: Path, feed: str, checkpoint: Path) -> dict[str, Any]:
    """Seconds of the epochs of our training and of the plain loop that takes turns with it, the
    best scores, and the seconds before the first epoch."""
    from upath import UPath

    from ray_pipeline.data import features as prepared

    model, training = settings(name, feed=feed)
    begun = time.monotonic()
    described = prepared.load(UPath(features))
    plain = epochs_of(model, training, described, sides(str(features)), checkpoint)
    ready = time.monotonic()
    found: dict[str, Any] = {"ours": [], "plain": [], "plain_start_up_s": ready - begun}
    scores = []

    since = time.monotonic()

    def plains_turn(event: dict[str, Any]) -> None:
        nonlocal since
        ended = time.monotonic()
        scores.append(next(plain)[1])
        found["ours"].append(ended - since)
        since = time.monotonic()
        found["plain"].append(since - ended)

    record, history = trained(features, model, training, plains_turn)
    return found | {
        "rows": record["steps"] * training.batch_size,
        "ours_start_up_s": found["ours"][0] - history[0]["seconds"],
        "ours_score": record["score"],
        "plain_score": max(scores),
    }


def trained(
    features: Path, model: Any, training: Any, progress: Callable[[Any], None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Our training's record and history."""
    from upath import UPath

    from ray_pipeline.model import train

    with tempfile.TemporaryDirectory() as folder:
        out, work = UPath(folder) / "out", UPath(folder) / "work"
        out.mkdir()
        work.mkdir()
        record = train.write(UPath(features), model, training, out, work=work, progress=progress)
        return record, json.loads((out / "history.json").read_text())


def compared(found: dict[str, dict[str, Any]], as_json: bool) -> None:
    rows, ratios = [], {}
    for name, feeds in found.items():
        for feed, one in feeds.items():
            pairs = list(zip(one["plain"], one["ours"], strict=True))[1:]
            ratio = statistics.median(plain / ours for plain, ours in pairs)
            ratios[f"{name}/torch" if feed == "memory" else f"{name} streamed/torch"] = ratio
            for who, title in (("plain", PLAIN), ("ours", FEEDS[feed])):
                seconds = statistics.median(one[who][1:])
                rows.append(
                    {
                        "network": name,
                        "training": title,
                        "samples_s": one["rows"] / seconds,
                        "start_up_s": one[f"{who}_start_up_s"],
                        "score": one[f"{who}_score"],
                    }
                )
    finish("train", rows, ratios, found, as_json, packages=("ray", "torch"))


def scaling(name: str, folder: Path) -> dict[str, Any]:
    """Samples a second of the epochs of one worker, of two, and of two that know nothing of each
    other, in turns."""
    ways: dict[str, Callable[[], list[float]]] = {
        "one": lambda: samples_s(name, folder, 1),
        "two": lambda: samples_s(name, folder, 2),
        "two apart": lambda: apart_samples_s(name, folder),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    start_ray(num_cpus=max(CORES, 2))
    time.sleep(SETTLING)
    for _ in range(2):
        for way, measured in ways.items():
            found[way] += measured()
    return found


def apart_samples_s(name: str, folder: Path) -> list[float]:
    """Samples a second of two trainings of one worker at a time, together."""
    with ThreadPoolExecutor(2) as pool:
        each = list(pool.map(lambda _: samples_s(name, folder, 1), range(2)))
    return [sum(pair) for pair in zip(*each, strict=True)]


def samples_s(name: str, folder: Path, workers: int) -> list[float]:
    """Samples a second of each epoch but the first, with as many of the job's batches at once."""
    model, training = settings(name, feed="memory", workers=workers, cpus=1)
    training = training.model_copy(update={"batch_size": workers * training.batch_size})
    record, history = trained(folder / name, model, training, lambda event: None)
    rows = record["steps"] * training.batch_size
    return [rows / epoch["seconds"] for epoch in history[1:]]


def scaled(found: dict[str, dict[str, Any]], as_json: bool) -> None:
    rows, ratios = [], {}
    for name, by_way in found.items():
        median = {way: statistics.median(taken) for way, taken in by_way.items()}
        ratios[f"{name}: two workers/twice one"] = median["two"] / median["one"] / 2
        ratios[f"{name}: two apart/twice one"] = median["two apart"] / median["one"] / 2
        ratios[f"{name}: two workers/two apart"] = median["two"] / median["two apart"]
        rows += [{"network": name, "workers": way, "samples_s": x} for way, x in median.items()]
    finish("train_scaling", rows, ratios, found, as_json, packages=("ray", "torch"))


ONE = {"prepare": prepare, "turns": turns, "scaling": scaling}

if __name__ == "__main__":
    main()
