"""What the training rows teach, and rows as a model reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import balance, fitting, parts, sentence_pool
from ray_pipeline.data.balance import Weights
from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.encoders import (
    chat,
    pairs,
    target,
    tokens,
)
from ray_pipeline.data.fitting import Fitted
from ray_pipeline.data.matrices import matrices, packed
from ray_pipeline.data.statistics import (
    Statistics,
)
from ray_pipeline.errors import JobError
from ray_pipeline.job import Data, Features
from ray_pipeline.job.features import KEYS
from ray_pipeline.schema import Schema

STATISTICS = "statistics.json"
SLICE = 2**25
"""Numbers that are made at a time: what a task holds of a wide text, whatever its file."""


def check(features: Features, schema: Schema) -> None:
    """Raises JobError for settings of a column that is no feature, or is of another kind, and for
    several columns of images."""
    _check_one_image(schema)
    _check_no_lists(schema)
    kinds = {column.name: column.kind for column in schema.features}
    paired = pairs.are(features, schema)
    if schema.label.kind == "text":
        (pairs if paired else chat).check(features, schema)
        kinds[schema.label.name] = "text"  # a transcript
    tokenized: list[str] = []
    for name, settings in features.columns.items():
        where = f"data.features.columns.{name}"
        if name not in kinds:
            known = ", ".join(list(kinds)[:20])
            raise JobError("no feature has this name", where=where, expected=f"one of {known}")
        kind = "number" if kinds[name] in ("integer", "boolean") else kinds[name]
        suited = KEYS.get(kind, set())
        if settings.text == "tokens":
            tokenized.append(name)
        if strange := sorted(settings.model_fields_set - suited):
            raise JobError(
                f"`{strange[0]}` does not suit the kind {kinds[name]}",
                where=where,
                expected=", ".join(sorted(suited)) or "no settings",
                hint="give the column another kind under `data.columns`",
            )

    if len(tokenized) > 1 and not paired:
        raise JobError(
            f"there are {len(tokenized)} columns of tokens: {', '.join(tokenized)}",
            where="data.features.columns",
            expected="one at most; others as `tfidf`",
        )


def _check_no_lists(schema: Schema) -> None:
    for column in schema.features:
        if column.kind == "labels":
            raise JobError(
                "a list can be predicted, not read",
                where=f"column {column.name}",
                expected="one value in each row",
                hint=f"`data.columns`: {{{column.name}: {{kind: labels, role: ignore}}}}",
            )


def _check_one_image(schema: Schema) -> None:
    named = [column.name for column in schema.features if column.kind == "image"]
    if len(named) > 1:
        raise JobError(
            f"there are {len(named)} columns of images: {', '.join(named)}",
            where="data.columns",
            expected="one at most that is a feature",
            hint="give the others the role `ignore`",
        )


def fingerprint(features: Features) -> dict[str, str] | None:
    """Digests of the encoders that columns are read by; None where there are none."""
    bases = [column.encoder for column in features.columns.values() if column.encoder]
    return {base: tokens.digest_of(base) for base in bases} or None


def write(split: UPath, data: Data, schema: Schema, out: UPath) -> dict[str, Any]:
    """Write `statistics.json`, and `train/` and `validation/` as `compiled_arrow` makes them.

    `split` is what `split.write` wrote; only its training rows are learned from. A width of 0
    leaves its column out of the files. Two executions, one task per file.

    Raises:
        DataError: there are no rows, no feature, or a class that training lacks.
    """
    return write_sides({side: split / side for side in ("train", "validation")}, data, schema, out)


def write_sides(
    sides: Mapping[str, UPath], data: Data, schema: Schema, out: UPath
) -> dict[str, Any]:
    """As `write`, of any folders of rows by their side's name; of them `train` must be one."""
    fitted = fitting.fitted(parts.existing_files(sides["train"]), data, schema)
    statistics = fitted.statistics
    (out / STATISTICS).write_text(statistics.model_dump_json(indent=1))
    items = [
        (side, path) for side, folder in sides.items() for path in parts.existing_files(folder)
    ]
    weights = None
    if data.balance is not None and schema.label.kind != "labels":
        weights = balance.fitted(sides["train"], data.balance, schema)
    vectors = None
    if statistics.sentences:
        vectors = out / "vectors"
        sentence_pool.written([path for _, path in items], statistics.sentences, vectors)
    work = partial(
        _prepared, fitted=fitted, schema=schema, weights=weights, vectors=vectors, out=out
    )
    written = parts.results(list(enumerate(items)), work)
    if vectors:
        vectors.fs.rm(vectors.path, recursive=True)
    return {
        "rows_in": sum(written),
        "rows_out": sum(written),
        "rows_quarantined": 0,
        "numbers": statistics.number_width,
        "categories": dict(zip(statistics.category_names, statistics.category_sizes, strict=True)),
        **({"balance": balance.described(weights)} if weights else {}),
        **({"answers": chat.described(statistics)} if statistics.chat else {}),
        **({"labels_left_out": left} if (left := statistics.label.left_out) else {}),
    }


def fit(train: UPath, data: Data, schema: Schema) -> Statistics:
    """The statistics of the parquet files in `train`, in one execution. Raises DataError."""
    return fitting.fitted(parts.existing_files(train), data, schema).statistics


def load(path: UPath) -> Statistics:
    """The statistics in the folder that `write` wrote."""
    return Statistics.model_validate_json((path / STATISTICS).read_text())


def _prepared(
    item: tuple[int, tuple[str, UPath]],
    *,
    fitted: Fitted,
    schema: Schema,
    weights: Weights | None,
    vectors: UPath | None,
    out: UPath,
) -> int:
    """Write one file's rows as a model reads them, those of training weighed; their number."""
    number, (side, path) = item
    # Weights and folds look at the values of each row.
    plain = weights is not None or bool(fitted.folds)
    codes = [column.name for column in fitted.statistics.encoded("index")]
    rows = parts.read(path, dictionaries=[] if plain else codes)
    if vectors is not None and len(rows):
        made = sentence_pool.vectors(vectors, number)
        for name in made.column_names:
            rows = rows.append_column(name, made[name])
    training = side == "train"
    transform = compiled_arrow(fitted.statistics, fitted.folds if training else None)

    def ready() -> Iterator[pa.Table]:
        width = fitted.statistics.number_width
        if fitted.statistics.image is not None:
            width += math.prod(fitted.statistics.image.shape)
        step = max(1, SLICE // max(width, 1))
        for start in range(0, len(rows), step):
            part = rows.slice(start, step)
            fold = target.folds_of(part, schema) if training and fitted.folds else None
            table = packed(transform(part, fold))
            yield table if weights is None or not training else weights.applied(table, part)

    parts.written_parts(ready(), out / side / path.name)
    return len(rows)


def read_matrix(path: UPath) -> dict[str, NDArray[Any]]:
    """All rows of a side, as `matrices` gives them."""
    return matrices(pads.dataset(path.path, filesystem=path.fs, format="parquet").to_table())
