"""Rows as a model reads them: the statistics compiled to a function of Arrow tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data import label_sets
from ray_pipeline.data.encoders import (
    category,
    chat,
    date,
    image,
    number,
    pairs,
    sentences,
    target,
    text,
    tokens,
)
from ray_pipeline.data.encoders.category import Codes
from ray_pipeline.data.matrices import pictures
from ray_pipeline.data.statistics import (
    CategoryStatistics,
    DateStatistics,
    LabelStatistics,
    SentenceStatistics,
    Statistics,
    TextStatistics,
)
from ray_pipeline.data.summary import as_doubles
from ray_pipeline.errors import DataError

STRETCH = 1 << 14
"""Rows that are scaled at a time: all steps happen in the processor's cache."""

Singles = NDArray[np.float32]
Fold = NDArray[np.int64] | None
Block = Callable[[pa.Table, Fold], Singles]


class Transform(Protocol):
    def __call__(self, rows: pa.Table, fold: Fold = None) -> pa.Table: ...


def compiled_arrow(
    statistics: Statistics, folds: Mapping[str, target.Encodings] | None = None
) -> Transform:
    """A function from raw, typed rows to what a model reads.

    `numbers` FixedSizeList<float32>[number_width] and `categories` FixedSizeList<int32>[C], as
    Statistics describes them, of which rows of an image or of tokens alone have none; `tokens`
    List<int32> and `image`, if there is one; and `label`, if the rows have it: the class index
    int64, or the value float32, or for each class whether the row has it, FixedSizeList<uint8>[K].
    For a language model they are `tokens`, `targets`, and as `label` the number of tokens to
    foretell, int64; for pairs `pairs.encoding` says what they are.

    Training rows are given with the `fold` [N] of each, and `folds` are what `fitting.fitted`
    found: their target encodings are learned from the other folds.

    Raises (the function): DataError for a class that training lacks, or a label without a value.
    """
    if statistics.chat is not None:
        told = chat.encoding(statistics.chat, statistics.label.name)
        return lambda rows, fold=None: told(rows).prepared()
    if statistics.pairs is not None:
        paired = pairs.encoding(statistics.pairs, statistics.label.name)
        return lambda rows, fold=None: paired(rows)
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
        columns = [rows[column.name].combine_chunks() for column in statistics.scaled]
        for start in range(0, len(rows), STRETCH):
            stretch([c.slice(start, STRETCH) for c in columns], out[start : start + STRETCH])

    def stretch(columns: Sequence[pa.Array], out: Singles) -> None:
        flag = len(scale)
        for index, (column, found) in enumerate(zip(statistics.scaled, columns, strict=True)):
            values = as_doubles(found)
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


def _label(values: pa.ChunkedArray, label: LabelStatistics) -> Any:
    if label.separator is not None:
        return _lists(label_sets.hot(values, label), pa.uint8())
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
