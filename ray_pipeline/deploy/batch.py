"""Predicting every row of files with a bundle, by Ray Data."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.bundle import Manifest
from ray_pipeline.data import clean, collect
from ray_pipeline.deploy import runtime, sinks
from ray_pipeline.errors import DataError
from ray_pipeline.job import ColumnSettings, Data
from ray_pipeline.schema import Column, Schema

ADDED = ("prediction", "probability", "probabilities")
_ASIDE = "_quarantined "
CHUNK = 8192  # rows in one call of the graph: more would only cost memory


def predicted(path: str, source: str, output: str) -> dict[str, Any]:
    """Predict every row of `source` (a file, folder, glob or URI) into one file, `output`.

    The output, .parquet, .csv or .jsonl by its name, keeps the input's columns and order, and
    adds `prediction`; for a classification also its `probability` and the `probabilities` of all
    classes (as JSON in a CSV). Rows that cannot be used go to `<output>.quarantine.parquet`, each
    with its reason. Rows are streamed, and both files appear whole or not at all.

    Returns `rows_in`, `rows_out`, `rows_quarantined`, `output`, `quarantine` (None if no row is)
    and the bundle's `version`.

    Raises:
        UsageError: the output has another extension.
        DataError: the input is missing or empty, lacks a feature column, or has one of ours.
        BundleError: the bundle is incomplete or altered.
    """
    target = UPath(output)
    sinks.check(target)
    opened = bundle.opened(path)
    data, schema = reading(source, opened.manifest)
    rows = collect.rows(data.source, data, schema).map_batches(
        _predicted,
        fn_args=(ray.put(opened.model.read_bytes()), opened.manifest, schema),
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
    )
    rows.context.execution_options.preserve_order = True
    quarantine = target.with_name(f"{target.name}.quarantine.parquet")
    good, bad = 0, 0
    with sinks.whole(target) as write, sinks.whole(quarantine) as set_aside:
        for table in rows.iter_batches(batch_format="pyarrow", batch_size=None):
            usable, unusable = _parted(table)
            good += write(usable)
            if len(unusable):
                bad += set_aside(unusable)
    return {
        "rows_in": good + bad,
        "rows_out": good,
        "rows_quarantined": bad,
        "output": output,
        "quarantine": str(quarantine) if bad else None,
        "version": opened.manifest.version,
    }


def reading(source: str, manifest: Manifest) -> tuple[Data, Schema]:
    """How to read `source`: the model's features as their kinds, all other columns as texts.

    A CSV has a header if its first line names every feature; otherwise its columns are those of
    the training files in their order, with or without the label.
    """
    location = source if "://" in source else str(Path(source).absolute())
    label = manifest.schema.label.name
    data = Data(source=location, label=label, missing=manifest.schema.missing)
    names, header = _names(collect.files(data)[0], manifest.schema)
    features = {column.name: column for column in manifest.schema.features}
    if absent := [name for name in features if name not in names]:
        raise DataError(
            f"no column is called `{absent[0]}`",
            where=source,
            expected=f"{', '.join(features)}, which the model reads",
        )
    if clash := [name for name in names if name in ADDED]:
        raise DataError(
            f"there is a column `{clash[0]}` already, and the output needs one",
            where=source,
            hint="rename it, or predict from the file that had none",
        )
    columns = [
        features.get(name, Column(name=name, kind="category", role="ignore")) for name in names
    ]
    settings = {
        column.name: ColumnSettings(kind=column.kind, role=column.role) for column in columns
    }
    settings.setdefault(label, ColumnSettings(kind="category", role="label"))
    given = {"header": header, "columns": settings}
    return data.model_copy(update=given), Schema(columns=tuple(columns), missing=data.missing)


def _names(file: UPath, schema: Schema) -> tuple[Sequence[str], bool]:
    """The names of a file's columns, and whether they stand in it."""
    if file.suffix == ".parquet":
        with file.open("rb") as opened:
            return pq.read_schema(opened).names, True
    how = {"compression": "infer", "encoding": "utf-8-sig", "newline": ""}
    with file.fs.open(file.path, "rt", **how) as text:
        if ".jsonl" in file.suffixes:
            return list(json.loads(next(text, "{}"))), True
        lines = list(
            islice(csv.reader(text, delimiter="\t" if ".tsv" in file.suffixes else ","), 20)
        )
    if not lines:
        raise DataError("the file is empty", where=str(file))
    first = [name.strip() for name in lines[0]]
    if {column.name for column in schema.features} <= set(first):
        return first, True
    width = Counter(map(len, lines)).most_common(1)[0][0]
    for names in (schema.names, [name for name in schema.names if name != schema.label.name]):
        if len(names) == width:
            return names, False
    return first, True  # a header, with columns missing: the caller says which


def _predicted(
    table: pa.Table, model: ray.ObjectRef[bytes], manifest: Manifest, schema: Schema
) -> pa.Table:
    """Typed rows with their predictions and, after them, the quarantined ones.

    Both in one table, because a task has one output; `_parted` takes them apart.
    """
    typed, quarantined = clean.typed(table, schema)
    columns = runtime.columns_from_table(typed, manifest.schema)
    predict = _loaded(manifest.digest, model)
    chunks = [
        predict({name: values[start : start + CHUNK] for name, values in columns.items()})
        for start in range(0, max(len(typed), 1), CHUNK)
    ]
    for name, values in _added(np.concatenate(chunks), manifest).items():
        typed = typed.append_column(name, values)
    aside = quarantined.rename_columns([_ASIDE + name for name in quarantined.column_names])
    return pa.concat_tables([typed, aside], promote_options="default")


def _parted(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The usable rows and the quarantined ones of what `_predicted` put together."""
    names = [name for name in table.column_names if name.startswith(_ASIDE)]
    usable = pc.is_null(table[_ASIDE + "reason"])
    aside = table.select(names).filter(pc.invert(usable))
    return table.drop_columns(names).filter(usable), aside.rename_columns(
        [name.removeprefix(_ASIDE) for name in names]
    )


def _added(outputs: NDArray[np.float32], manifest: Manifest) -> dict[str, pa.Array]:
    """The columns that predicting adds: see ADDED."""
    if manifest.classes is None:
        return {"prediction": pa.array(outputs, pa.float64())}
    by_class = [pa.array(column, pa.float64()) for column in outputs.T]
    return {
        "prediction": pa.array(manifest.classes).take(pa.array(outputs.argmax(axis=1))),
        "probability": pa.array(outputs.max(axis=1), pa.float64()),
        "probabilities": pa.StructArray.from_arrays(by_class, manifest.classes),
    }


@lru_cache(maxsize=1)  # once in a worker process
def _loaded(digest: str, model: Any) -> Callable[[runtime.Columns], NDArray[Any]]:
    return runtime.predicting(ray.get(model))
