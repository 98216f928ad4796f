"""Predicting every row of files with a bundle, by Ray Data."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from ray.data import Dataset
from upath import UPath

from ray_pipeline import audit, bundle
from ray_pipeline.bundle import Manifest
from ray_pipeline.data import clean, collect, parts, sources
from ray_pipeline.data.connectors import FILES, connector
from ray_pipeline.data.label_sets import named
from ray_pipeline.data.privacy import treatment
from ray_pipeline.data.rows import Replace
from ray_pipeline.data.statistics import TokenStatistics
from ray_pipeline.data.steps import reading as step_reading
from ray_pipeline.data.steps import serving
from ray_pipeline.deploy import pictures, runtime, sinks, texts
from ray_pipeline.deploy.halves import Columns
from ray_pipeline.errors import DataError
from ray_pipeline.job import Clean, Data, Source
from ray_pipeline.model.multilabel import decided
from ray_pipeline.schema import TEXTS, Column, Schema

ADDED = ("prediction", "probability", "probabilities")
_ASIDE = "_quarantined "
SAMPLE = 20  # lines that show whether there is a header
CHUNK = 8192  # rows in one call of the graph: more would only cost memory
IMAGES = 256  # rows with images, whose pixels are in memory


def predicted(path: str, source: str | Source, output: str) -> dict[str, Any]:
    """Predict every row of `source` (a file, folder, glob or URI; or what a job may name, such as
    a database's table) into one file, `output`.

    The output, .parquet, .csv or .jsonl by its name, keeps the input's columns and order, and
    adds `prediction`; for a classification also its `probability` and the `probabilities` of all
    classes (as JSON in a CSV). Where a row may have several labels, the prediction is a list, and
    there is no `probability`. Rows that cannot be used go to `<output>.quarantine.parquet`, each
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
    place = source if isinstance(source, Source) else Source(url=source)
    data, schema, types = reading(place, opened.manifest)
    rows = collect.rows(data.source, data, schema).map_batches(
        partial(
            _predicted,
            model=ray.put(opened.model.read_bytes()),
            manifest=opened.manifest,
            schema=schema,
            types=types,
            treated=treatment.of_requests(opened.manifest.schema, opened.manifest.privacy),
            tokens=texts.columns_of(opened),
        ),
        **parts.ARROW,
    )
    rows.context.execution_options.preserve_order = True
    quarantine = target.with_name(f"{target.name}.quarantine.parquet")
    good, bad = parts.executed(lambda: _written(rows, target, quarantine))
    audit.write(
        audit.storage_of(path),
        "predict",
        what=f"{data.source}",
        output=str(target.absolute()) if "://" not in output else output,
        bundle=opened.manifest.version,
        digest=opened.manifest.digest,
        rows=good,
    )
    return {
        "rows_in": good + bad,
        "rows_out": good,
        "rows_quarantined": bad,
        "output": output,
        "quarantine": str(quarantine) if bad else None,
        "version": opened.manifest.version,
    }


def _written(rows: Dataset, target: UPath, quarantine: UPath) -> tuple[int, int]:
    """Write the rows where they belong, a block at a time, and count them."""
    good, bad = 0, 0
    with sinks.whole(target) as write, sinks.whole(quarantine) as set_aside:
        for table in rows.iter_batches(batch_format="pyarrow", batch_size=None):
            usable, unusable = _parted(table)
            good += write(usable)
            if len(unusable):
                bad += set_aside(unusable)
    return good, bad


def reading(source: Source, manifest: Manifest) -> tuple[Data, Schema, dict[str, pa.DataType]]:
    """How to read `source`: the model's features as their kinds, all other columns as texts.

    A CSV has a header if its first line names every feature; otherwise its columns are those of
    the training files in their order, with or without the label. The types are those that other
    columns have in Parquet or in a database, and get again in the output.
    """
    label = manifest.schema.label.name
    if "://" not in source.url:
        source = source.model_copy(update={"url": str(Path(source.url).absolute())})
    data = Data(source=source, label=label, missing=manifest.schema.missing)
    if pictures.image_of(manifest) and _is_plain_folder(source):
        data = data.model_copy(update={"format": "images"})
    header, first = True, str(source)
    if is_file := connector(source, data) is FILES:
        file = collect.files(data)[0]
        first = str(file)
        names, header = _names(file, data, manifest.schema)
    else:
        names = connector(source, data).names(source, data)
    features = {column.name: column for column in manifest.schema.features}
    sources.checked_names(names, features, first)
    if clash := [name for name in names if name in (*ADDED, *collect.RESERVED)]:
        raise DataError(
            f"there is a column `{clash[0]}` already",
            where=first,
            hint="rename it, or predict from a file without it: the output needs one of this name",
        )
    columns = tuple(
        features.get(name, Column(name=name, kind="category", role="ignore")) for name in names
    )
    kinds = {column.name: column.kind for column in columns} | {label: "category"}
    settled = data.model_copy(update={"header": header, "columns": kinds})
    others = [name for name in names if name not in features]
    types = _types(file, data, others) if is_file else _told_types(source, data, others)
    return settled, Schema(columns=columns, missing=data.missing), types


def _is_plain_folder(source: Source) -> bool:
    path = UPath(source.url)
    return not source.scheme and path.is_dir() and sources.table_format(path) is None


def _names(file: UPath, data: Data, schema: Schema) -> tuple[list[str], bool]:
    """The names of a file's columns, and whether they stand in it."""
    format_ = sources.format_of(file, data)
    if format_ not in ("csv", "tsv"):
        return collect.READERS[format_].names(file, data), True
    with sources.opened(file) as opened:
        text = io.TextIOWrapper(opened, encoding="utf-8-sig", errors="replace", newline="")
        reader = csv.reader(text, delimiter="\t" if format_ == "tsv" else ",")
        lines = list(islice(reader, SAMPLE))
    first = [name.strip() for name in lines[0]]
    if {column.name for column in schema.features} <= set(first):
        return first, True
    # A first line may be a remark, as in the census data: the commonest width counts.
    width = Counter(map(len, lines)).most_common(1)[0][0]
    for names in (schema.names, [name for name in schema.names if name != schema.label.name]):
        if len(names) == width:
            return list(names), False
    return first, True  # a header without some feature: the caller says which


def _types(file: UPath, data: Data, names: Iterable[str]) -> dict[str, pa.DataType]:
    """The types of a Parquet file's columns of numbers and times; of another file's, none."""
    if sources.format_of(file, data) != "parquet":
        return {}
    with file.open("rb") as opened:
        found = pq.read_schema(opened)
    return {name: kind for name in names if pa.types.is_primitive(kind := found.field(name).type)}


def _told_types(source: Source, data: Data, names: Sequence[str]) -> dict[str, pa.DataType]:
    """The types of a database's columns of numbers and times, as its first rows have them."""
    sample = connector(source, data).sample
    rows = sample(source, data, names) if sample else None
    found = [] if rows is None else [rows.schema.field(name) for name in names]
    return {field.name: field.type for field in found if pa.types.is_primitive(field.type)}


def _predicted(
    table: pa.Table,
    *,
    model: ray.ObjectRef[bytes],
    manifest: Manifest,
    schema: Schema,
    types: Mapping[str, pa.DataType],
    treated: Callable[[Columns], Columns] | None,
    tokens: Sequence[TokenStatistics],
) -> pa.Table:
    """Typed rows with their predictions and, after them, the quarantined ones.

    Both in one table, because a task has one output; `_parted` takes them apart.
    """
    # What a request says in a bare number, a file does: see `reading.read`.
    cleaning = Clean.model_validate(manifest.cleaning)
    if step_reading.steps(cleaning):
        table = step_reading.read(table, cleaning, bare=True)
    typed, quarantined = clean.typed(table, schema, _of_numbers(cleaning.replace, schema))
    for name, kind in types.items():
        index = typed.column_names.index(name)
        typed = typed.set_column(index, name, typed[name].cast(kind))
    seen, tidied = pictures.image_of(manifest), serving.tidying(manifest.cleaning, manifest.schema)
    predict = texts.reading(_loaded(manifest.digest, model), tokens)

    def outputs(rows: pa.Table) -> NDArray[Any]:
        columns = runtime.columns_from_table(rows, manifest.schema, seen)
        columns = treated(columns) if treated else columns
        return predict(tidied(columns) if tidied else columns)

    step = CHUNK if seen is None else IMAGES
    chunks = [outputs(typed.slice(start, step)) for start in range(0, max(len(typed), 1), step)]
    for name, values in _added(np.concatenate(chunks), manifest).items():
        typed = typed.append_column(name, values)
    aside = quarantined.rename_columns([_ASIDE + name for name in quarantined.column_names])
    return pa.concat_tables([typed, aside], promote_options="default")


def _of_numbers(replace: Replace, schema: Schema) -> Replace:
    """The spellings that are no texts; those of texts are `serving`'s, so that the output keeps
    what the input says."""
    return {name: found for name, found in replace.items() if schema[name].kind not in TEXTS}


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
    if manifest.task == "retrieval":
        flat = pa.array(outputs.ravel(), pa.float32())
        return {"prediction": pa.FixedSizeListArray.from_arrays(flat, outputs.shape[1])}
    if manifest.classes is None:
        return {"prediction": pa.array(outputs, pa.float64())}
    by_class = [pa.array(column, pa.float64()) for column in outputs.T]
    if manifest.thresholds is not None:
        given = named(decided(outputs.astype(float), manifest.thresholds), manifest.classes)
        return {
            "prediction": pa.array(given, pa.list_(pa.string())),
            "probabilities": pa.StructArray.from_arrays(by_class, manifest.classes),
        }
    return {
        "prediction": pa.array(manifest.classes).take(pa.array(outputs.argmax(axis=1))),
        "probability": pa.array(outputs.max(axis=1), pa.float64()),
        "probabilities": pa.StructArray.from_arrays(by_class, manifest.classes),
    }


@lru_cache(maxsize=1)  # once in a worker process
def _loaded(digest: str, model: Any) -> Callable[[Columns], NDArray[Any]]:
    return runtime.predicting(ray.get(model))
