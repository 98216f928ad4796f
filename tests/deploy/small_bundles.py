"""Small trained networks, and the bundles made of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.data import parts
from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.matrices import packed
from ray_pipeline.data.statistics import (
    CategoryStatistics,
    LabelStatistics,
    NumberStatistics,
    Statistics,
)
from ray_pipeline.deploy import export, publish
from ray_pipeline.job import Compress, Model
from ray_pipeline.model import zoo
from ray_pipeline.schema import Column, Schema

FEATURES = (
    Column(name="age", kind="integer"),
    Column(name="hours a week", kind="number"),
    Column(name="member", kind="boolean"),
    Column(name="ville", kind="category"),
    Column(name="job", kind="category"),
)
CITIES, JOBS = ("Paris", "Genève", "東京"), ("clerk", "nurse")


@dataclass(frozen=True)
class Exported:
    """A bundle and all that it was made of."""

    root: UPath
    schema: Schema
    statistics: Statistics
    record: dict[str, Any]
    bundle: bundle.Bundle


def statistics_of(label: LabelStatistics) -> Statistics:
    figures = {"median": 40.0, "minimum": 0.0, "maximum": 99.0}
    return Statistics(
        rows=1000,
        numbers=(
            NumberStatistics(name="age", missing=0, mean=40, deviation=12, **figures),
            NumberStatistics(name="hours a week", missing=7, mean=38, deviation=9, **figures),
            NumberStatistics(name="member", missing=0, mean=0.3, deviation=0.46, **figures),
        ),
        categories=(
            CategoryStatistics(name="ville", missing=3, unknown=1, values=CITIES, counts=(9, 5, 2)),
            CategoryStatistics(name="job", missing=0, unknown=0, values=JOBS, counts=(9, 7)),
        ),
        label=label,
        missing=("?",),
    )


def raw_rows(count: int, seed: int = 0) -> dict[str, list[Any]]:
    """Rows as a cleaned file has them, with gaps, infinities and values not seen before."""
    rng = np.random.default_rng(seed)

    def some(values: Any) -> list[Any]:
        return [None if rng.random() < 0.1 else value for value in values]

    hours = rng.normal(38, 9, count).tolist()
    hours[:3] = [float("inf"), float("-inf"), float("nan")]
    return {
        "age": some(rng.integers(17, 90, count).tolist()),
        "hours a week": some(hours),
        "member": some((rng.random(count) < 0.3).tolist()),
        "ville": some(rng.choice([*CITIES, "nowhere", "ﬁ"], count).tolist()),
        "job": some(rng.choice(JOBS, count).tolist()),
    }


def exported(root: UPath, task: str, model: Model | None = None) -> Exported:
    """The bundle of a network with fresh weights, and of 500 validation rows."""
    labels: list[Any]
    rng = np.random.default_rng(1)
    if task == "classification":
        label = LabelStatistics(name="income", classes=("<=50K", ">50K"), counts=(700, 300))
        labels = rng.choice(["<=50K", ">50K"], 500).tolist()
    else:
        label = LabelStatistics(name="income", classes=None, mean=50_000.0, deviation=20_000.0)
        labels = rng.normal(50_000, 20_000, 500).tolist()
    kind = "category" if task == "classification" else "number"
    schema = Schema(
        columns=(*FEATURES, Column(name="income", kind=kind, role="label")), missing=("?",)
    )
    statistics = statistics_of(label)
    for folder in ("trained", "features/train", "split/validation", "judged", "export-v1"):
        (root / folder).mkdir(parents=True)
    rows = pa.table({**raw_rows(500), "income": labels}, schema=schema.arrow())
    pq.write_table(rows.slice(0, 300), root / "split/validation/0.parquet")
    pq.write_table(rows.slice(300), root / "split/validation/1.parquet")
    (root / "features/statistics.json").write_text(statistics.model_dump_json())
    ready = compiled_arrow(statistics)(rows)
    pq.write_table(ready, root / "features/train/0.parquet", row_group_size=100)
    write_network(root / "trained", model or Model(width=16, depth=2), statistics)
    (root / "judged/metrics.json").write_text(json.dumps({"accuracy": 0.87, "groups": {}}))
    record = export.write(*stages(root), schema, "income", Compress(), {"train": "ab"}, **out(root))
    publish.published(root / "export-v1", root / "bundles/v1")
    return Exported(root, schema, statistics, record, bundle.opened(root / "bundles/v1"))


def exported_of(
    root: UPath, schema: Schema, statistics: Statistics, rows: pa.Table, model: Model
) -> Exported:
    """The bundle of a network with fresh weights that reads texts or pictures, and these rows."""
    for folder in ("trained", "features", "split/validation", "judged", "export-v1"):
        (root / folder).mkdir(parents=True)
    pq.write_table(rows, root / "split/validation/0.parquet")
    (root / "features/statistics.json").write_text(statistics.model_dump_json())
    prepared = packed(compiled_arrow(statistics)(rows))
    for side in ("train", "validation"):
        parts.written(prepared, root / "features" / side / "0.parquet")
    (root / "judged/metrics.json").write_text("{}")
    write_network(root / "trained", model, statistics)
    record = export.write(*stages(root), schema, "shop", Compress(int8="never"), {}, **out(root))
    publish.published(root / "export-v1", root / "bundles/v1")
    return Exported(root, schema, statistics, record, bundle.opened(root / "bundles/v1"))


def stages(root: UPath) -> list[UPath]:
    return [root / name for name in ("trained", "features", "split", "judged")]


def out(root: UPath, name: str = "export-v1") -> dict[str, UPath]:
    (root / name).mkdir(exist_ok=True)
    return {"out": root / name}


def write_network(folder: UPath, model: Model, statistics: Statistics) -> None:
    torch.manual_seed(0)
    inputs = zoo.Inputs(
        numbers=statistics.number_width,
        categories=statistics.category_sizes,
        outputs=statistics.outputs,
        image=statistics.image,
    )
    network = zoo.build(model, inputs)
    described = {"model": model.model_dump(), "inputs": inputs.model_dump()}
    (folder / "model.json").write_text(json.dumps(described))
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(network.state_dict()))
