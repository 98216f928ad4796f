"""A job's latest run as Prometheus' text, for the textfile collector of its node exporter.

A run ends before anybody could scrape it, so that its figures are left in a file: written anew with
each stage that has ended, whole or not at all, and without times of their own, as the collector
wants it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
Sample = tuple[Mapping[str, str], float]

FILE = "run.prom"
_STATUSES = ("running", "done", "refused", "failed")
_ROWS = {"rows_in": "in", "rows_out": "out", "rows_quarantined": "quarantined"}


def exposition(record: Record) -> str:
    """The text of a run's record: how it stands, its stages, and what its model was measured to
    be."""
    job = record["job"]["name"]
    lines = [
        line
        for suffix, meaning, samples in _families(record)
        for line in _family(f"ray_pipeline_{suffix}", meaning, job, samples)
    ]
    return "\n".join([*lines, ""])


def escaped(value: str) -> str:
    """A label's value as Prometheus' text has it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _family(name: str, meaning: str, job: str, samples: Sequence[Sample]) -> Iterator[str]:
    if not samples:
        return
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} gauge"
    for labels, value in samples:
        told = ",".join(
            f'{key}="{escaped(text)}"' for key, text in {"job_name": job, **labels}.items()
        )
        yield f"{name}{{{told}}} {value}"


def _families(record: Record) -> Iterator[tuple[str, str, list[Sample]]]:
    stages = record["stages"]
    status, begun = record["status"], record["started_s"]
    yield (
        "run_status",
        "How the latest run stands: 1 at one of its states.",
        [({"status": one}, int(one == status)) for one in _STATUSES],
    )
    yield "run_start_timestamp_seconds", "When the latest run began.", [({}, begun)]
    now = round(time.time(), 3)
    yield "run_update_timestamp_seconds", "When this was last written.", [({}, now)]
    yield (
        "stage_seconds",
        "How long a stage of the latest run took when it was made.",
        [({"stage": one["name"]}, one["seconds"]) for one in stages],
    )
    yield (
        "stage_cached",
        "Whether a stage was found from an earlier run.",
        [({"stage": one["name"]}, int(one["cached"])) for one in stages],
    )
    yield (
        "stage_rows",
        "Rows that a stage was given, handed on and put aside.",
        [
            ({"stage": one["name"], "direction": direction}, one[key])
            for one in stages
            for key, direction in _ROWS.items()
            if one[key] is not None
        ],
    )
    yield from _of_the_model(record)


def _of_the_model(record: Record) -> Iterator[tuple[str, str, list[Sample]]]:
    epochs = [epoch for epoch in record.get("history") or () if isinstance(epoch, Mapping)]
    yield "training_epochs", "Epochs of the final training.", [({}, len(epochs))] if epochs else []
    last = epochs[-1] if epochs else {}
    yield (
        "training_loss",
        "Loss in the last epoch, by the rows it is of.",
        [
            ({"split": split}, last[key])
            for split, key in (("train", "train_loss"), ("validation", "validation_loss"))
            if isinstance(last.get(key), int | float)
        ],
    )
    metrics = record.get("metrics") or {}
    yield (
        "model_metric",
        "What the latest run's model was measured to be on the test rows.",
        [({"metric": key}, v) for key, v in metrics.items() if isinstance(v, float)],
    )
