"""What the training rows teach, and rows as a model reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import balance, fitting, parts, sentence_pool
from ray_pipeline.data.balance import Weights
from ray_pipeline.data.encoders import (
    category,
    chat,
    date,
    image,
    number,
    sentences,
    target,
    text,
    tokens,
)
from ray_pipeline.data.encoders.category import Codes
from ray_pipeline.data.fitting import Fitted
from ray_pipeline.data.matrices import matrices, packed, pictures
from ray_pipeline.data.statistics import (
    CategoryStatistics,
    DateStatistics,
    LabelStatistics,
    SentenceStatistics,
    Statistics,
    TextStatistics,
)
from ray_pipeline.data.summary import as_doubles
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.job import Data, Features
from ray_pipeline.job.features import KEYS
from ray_pipeline.schema import Schema

STATISTICS = "statistics.json"
SLICE = 2**25
"""Numbers that are made at a time: what a task holds of a wide text, whatever its file."""

STRETCH = 1 << 14
"""Rows that are scaled at a time: all steps happen in the processor's cache."""

Singles = NDArray[np.float32]
Fold = NDArray[np.int64] | None
Block = Callable[[pa.Table, Fold], Singles]


class Transform(Protocol):
    def __call__(self, rows: pa.Table, fold: Fold = None) -> pa.Table: ...


def check(features: Features, schema: Schema) -> None:
    """Raises JobError for settings of a column that is no feature, or is of another kind, and for
    several columns of images."""
    _check_one_image(schema)
    kinds = {column.name: column.kind for column in schema.features}
    if schema.label.kind == "text":
        chat.check(features, schema)
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

    if len(tokenized) > 1:
        raise JobError(
            f"there are {len(tokenized)} columns of tokens: {', '.join(tokenized)}",
            where="data.features.columns",
            expected="one at most; others as `tfidf`",
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
    if data.balance is not None:
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


def compiled_arrow(
    statistics: Statistics, folds: Mapping[str, target.Encodings] | None = None
) -> Transform:
    """A function from raw, typed rows to what a model reads.

    `numbers` FixedSizeList<float32>[number_width] and `categories` FixedSizeList<int32>[C], as
    Statistics describes them, of which rows of an image or of tokens alone have none; `tokens`
    List<int32> and `image`, if there is one; and `label`, if the rows have it: the class index
    int64, or the value float32. For a language model they are `tokens`, `targets`, and as `label`
    the number of tokens to foretell, int64.

    Training rows are given with the `fold` [N] of each, and `folds` are what `fitting.fitted`
    found: their target encodings are learned from the other folds.

    Raises (the function): DataError for a class that training lacks, or a label without a value.
    """
    if statistics.chat is not None:
        told = chat.encoding(statistics.chat, statistics.label.name)
        return lambda rows, fold=None: told(rows).prepared()
    numbers = _numbers(statistics, folds or {})
    codes = _codes(statistics)
    tokenized = tokens.encoding(statistics.tokens) if statistics.tokens else None
    seen = image.encoding(statistics.image) if statistics.image else None

    def transform(rows: pa.Table, fold: Fold = None) -> pa.Table:
        columns: dict[str, Any] = {}
        if "numbers" in statistics.inputs:
            columns["numbers"] = _lists(numbers(rows, fold), pa.float32())
            columns["categories"] = _lists(codes(rows), pa.int32())
        if tokenized and statistics.tokens:
            columns["tokens"] = tokenized(rows[statistics.tokens.name])
        if seen and statistics.image:
            columns["image"] = pictures(seen(rows[statistics.image.name]))
        if statistics.label.name in rows.column_names:
            columns["label"] = _label(rows[statistics.label.name], statistics.label)
        return pa.table(columns)

    return transform


def _numbers(statistics: Statistics, folds: Mapping[str, target.Encodings]) -> Block:
    """A function to all numbers [N, number_width] of rows."""
    scaled, plain = _scaled(statistics), _plain(statistics, folds)

    def made(rows: pa.Table, fold: Fold) -> Singles:
        numbers = np.empty((len(rows), statistics.number_width), np.float32)
        start = statistics.embedded_width
        scaled(rows, numbers[:, :start])
        for encoded in plain:
            block = encoded(rows, fold)
            numbers[:, start : start + block.shape[1]] = block
            start += block.shape[1]
        return numbers

    return made


def _scaled(statistics: Statistics) -> Callable[[pa.Table, Singles], None]:
    """A function that fills [N, embedded_width]: scaled numbers, and flags for missing ones."""
    scale = [number.scaling(column) for column in statistics.scaled]

    def fill(rows: pa.Table, out: Singles) -> None:
        for start in range(0, len(rows), STRETCH):
            stretch(rows.slice(start, STRETCH), out[start : start + STRETCH])

    def stretch(rows: pa.Table, out: Singles) -> None:
        flag = len(scale)
        for index, column in enumerate(statistics.scaled):
            values = as_doubles(rows[column.name])
            missing = ~np.isfinite(values)
            out[:, index] = scale[index](np.where(missing, column.filler, values))
            if column.missing:
                out[:, flag] = missing
                flag += 1

    return fill


def _plain(statistics: Statistics, folds: Mapping[str, target.Encodings]) -> list[Block]:
    """Functions to the blocks [N, W] of numbers that are read as they are, in their order."""
    missing = statistics.missing

    def dated(column: DateStatistics) -> Block:
        return lambda rows, _: date.encoded(as_doubles(rows[column.name]), column)

    def one_hot(column: CategoryStatistics) -> Block:
        coded = category.coding(column, missing)
        return lambda rows, _: category.onehot(coded(rows[column.name]), column.size)

    def targeted(column: CategoryStatistics) -> Block:
        encoded = target.encoding(column, folds.get(column.name), missing)
        return lambda rows, fold: encoded(rows[column.name], fold)

    def written(column: TextStatistics) -> Block:
        encoded = text.encoding(column)
        return lambda rows, _: encoded(rows[column.name])

    def meant(column: SentenceStatistics) -> Block:
        encoded = sentences.encoding(column)
        return lambda rows, _: encoded(rows)

    return [
        *(dated(column) for cyclic in (True, False) for column in statistics.dated(cyclic)),
        *(one_hot(column) for column in statistics.encoded("onehot")),
        *(targeted(column) for column in statistics.encoded("target")),
        *(written(column) for column in statistics.texts if column.terms),
        *(meant(column) for column in statistics.sentences),
    ]


def _codes(statistics: Statistics) -> Callable[[pa.Table], Codes]:
    """A function to the categories' indices [N, C]."""
    code = [category.coding(column, statistics.missing) for column in statistics.indexed]

    def coded(rows: pa.Table) -> Codes:
        matrix = np.empty((len(rows), len(statistics.category_sizes)), np.int32)
        for index, column in enumerate(statistics.indexed):
            matrix[:, index] = code[index](rows[column.name])
        for index, bins in enumerate(statistics.binned, len(code)):
            matrix[:, index] = number.binned(as_doubles(rows[bins.name]), bins)
        return matrix

    return coded


def _label(values: pa.ChunkedArray, label: LabelStatistics) -> pa.ChunkedArray:
    if label.classes is None:
        return pc.cast(values, pa.float32(), safe=False)
    texts = pc.cast(values, pa.string())
    index = pc.index_in(texts, pa.array(label.classes))
    if index.null_count:
        strange = texts.filter(pc.is_null(index))[0].as_py()
        raise DataError(
            f"the label `{strange}` does not occur among the training rows",
            where=f"column {label.name}",
            expected=f"one of {', '.join(label.classes[:10])}",
            hint="join rare classes under `data.clean.replace`, or set another `data.split.seed`",
        )
    return pc.cast(index, pa.int64())


def _lists(matrix: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """A matrix [N, W] as N lists of W; W may be 0, which from_arrays does not allow."""
    items = pa.array(matrix.ravel(), kind)
    lists = pa.list_(kind, matrix.shape[1])
    return pa.Array.from_buffers(lists, len(matrix), [None], children=[items])
