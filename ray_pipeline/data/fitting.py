"""The training rows' statistics: each task's mergeable part, and what they add up to."""

from __future__ import annotations

from functools import partial, reduce
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import label_sets, parts, summary
from ray_pipeline.data.encoders import (
    category,
    chat,
    image,
    number,
    pairs,
    sentences,
    target,
    text,
    tokens,
)
from ray_pipeline.data.encoders.image import Colours
from ray_pipeline.data.encoders.target import Encodings
from ray_pipeline.data.hashing import column_sums, shares
from ray_pipeline.data.statistics import (
    CategoryStatistics,
    ChatStatistics,
    DateStatistics,
    ImageStatistics,
    LabelStatistics,
    NumberStatistics,
    Statistics,
    TextStatistics,
    TokenStatistics,
)
from ray_pipeline.data.summary import Counts, Moments, Summary
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Features
from ray_pipeline.schema import TEXTS, Column, Schema

SAMPLE = 200_000
"""Quantiles are exact up to this many training rows; beyond, those of about as many sampled."""


class Part(NamedTuple):
    """One file's rows: summaries by column, and sampled numbers [n, S], a row per number column.

    `logs` are the moments of the logarithms, `terms` in how many texts each stands, `targets`
    what `target.counted` finds, and `colours` those of images, each by the columns that are
    encoded so. `answers` are the lengths of what a language model is to say.
    """

    rows: int
    summaries: dict[str, Summary]
    sample: NDArray[np.float64]
    logs: dict[str, Moments]
    terms: dict[str, Counts]
    targets: dict[str, pa.Table]
    colours: dict[str, Colours]
    answers: chat.Lengths | None


class Fitted(NamedTuple):
    """The statistics, and what target encodings are for the rows of each fold, by column."""

    statistics: Statistics
    folds: dict[str, Encodings]


def fitted(files: list[UPath], data: Data, schema: Schema) -> Fitted:
    """What the rows in parquet `files` teach.

    Counts, means, deviations and ranges are exact at any size. Medians and knots are exact up to
    SAMPLE rows, else of a sample that the rows' hashes choose: the same in any order of work.

    Raises:
        DataError: there is no feature, or the label has one class here.
    """
    rows = sum(parts.row_count(path) for path in files)
    paired = pairs.fitted(data.features, schema)
    told = None if paired else chat.fitted(data.features, schema)
    if not schema.features and told is None:
        raise DataError("no column is a feature", where="data.columns")
    share = min(1.0, SAMPLE / max(rows, 1))
    work = partial(_part, schema=schema, features=data.features, share=share, told=told)
    found = _merged(parts.results(files, work))
    label = pairs.label_of(schema.label.name) if paired else _label(schema.label, found, data)
    categories = _categories(found, data.features, schema)
    learned = {
        column.name: target.fitted(
            column, found.targets[column.name], label, data.features.of(column.name).smoothing
        )
        for column in categories
        if column.encode == "target"
    }
    numbers, dates = _numbers(found, data.features, schema)
    statistics = Statistics(
        rows=rows,
        numbers=numbers,
        categories=tuple(
            learned[column.name].column if column.name in learned else column
            for column in categories
        ),
        dates=dates,
        texts=_texts(found, data.features, schema),
        sentences=tuple(
            sentences.fitted(column.name, data.features.of(column.name))
            for column in _written(schema, data.features, "embedding")
        ),
        tokens=None if told or paired else _tokens(data.features, schema),
        chat=told and told.model_copy(update={"cut": found.answers.cut if found.answers else 0}),
        pairs=paired,
        image=_image(found, data.features),
        label=label,
        missing=schema.missing,
    )
    return Fitted(statistics, {name: found.folds for name, found in learned.items()})


def _of_kind(schema: Schema, *kinds: str) -> list[Column]:
    return [column for column in schema.features if column.kind in kinds]


def indexed(schema: Schema, features: Features) -> list[str]:
    """The categories that become indices: of them, only each different value matters."""
    categories = _of_kind(schema, "category")
    return [c.name for c in categories if features.of(c.name).encode == "index"]


def _numeric(schema: Schema) -> list[Column]:
    return _of_kind(schema, "integer", "number", "boolean", "date")


def _part(
    path: UPath, schema: Schema, features: Features, share: float, told: ChatStatistics | None
) -> Part:
    names = [column.name for column in (*schema.features, schema.label)]
    table = parts.read(path, names, dictionaries=indexed(schema, features))
    numeric = _numeric(schema)
    numbers = {column.name: summary.as_doubles(table[column.name]) for column in numeric}
    summaries: dict[str, Summary] = {name: Moments.of(values) for name, values in numbers.items()}
    for column in (*_of_kind(schema, *TEXTS), schema.label):
        summaries[column.name] = summary.summarised(table[column.name], column)
    chosen = slice(None) if share == 1 else shares(column_sums([*numbers.values()])) < share
    sampled = [values[chosen] for values in numbers.values()]
    return Part(
        len(table),
        summaries,
        np.array(sampled) if sampled else np.empty((0, len(table))),
        {
            name: Moments.of(number.logarithms(values))
            for name, values in numbers.items()
            if features.of(name).scale == "log"
        },
        {
            column.name: text.documents(table[column.name], features.of(column.name).ngrams)
            for column in _written(schema, features, "tfidf")
        },
        _targets(table, schema, features),
        {
            column.name: image.colours(table[column.name], image.shape_of(features.of(column.name)))
            for column in _of_kind(schema, "image")
        },
        chat.lengths(told, schema.label.name, table) if told else None,
    )


def _targets(table: pa.Table, schema: Schema, features: Features) -> dict[str, pa.Table]:
    encoded = [c for c in _of_kind(schema, "category") if features.of(c.name).encode == "target"]
    if not encoded:
        return {}
    folds, label = target.folds_of(table, schema), schema.label
    return {
        column.name: target.counted(table[column.name], table[label.name], folds, label)
        for column in encoded
    }


def _merged(found: list[Part]) -> Part:
    lengths = [part.answers for part in found if part.answers is not None]
    return Part(
        sum(part.rows for part in found),
        summary.merged(part.summaries for part in found),
        np.concatenate([part.sample for part in found], axis=1),
        cast(dict[str, Moments], summary.merged({**part.logs} for part in found)),
        cast(dict[str, Counts], summary.merged({**part.terms} for part in found)),
        {
            name: pa.concat_tables([part.targets[name] for part in found])
            for name in found[0].targets
        },
        {
            name: reduce(Colours.merged, (part.colours[name] for part in found))
            for name in found[0].colours
        },
        reduce(chat.Lengths.merged, lengths) if lengths else None,
    )


def _numbers(
    found: Part, features: Features, schema: Schema
) -> tuple[tuple[NumberStatistics, ...], tuple[DateStatistics, ...]]:
    numbers, dates = [], []
    for column, sample in zip(_numeric(schema), found.sample, strict=True):
        settings, moments = features.of(column.name), cast(Moments, found.summaries[column.name])
        logs = found.logs.get(column.name)
        fitted = number.fitted(
            column.name, moments, logs, sample, settings=settings, default=features.numbers
        )
        if column.kind != "date":
            numbers.append(fitted)
            continue
        date = DateStatistics(
            name=column.name,
            seconds=fitted,
            parts=settings.parts,
            cyclic=settings.cyclic,
            trend=settings.trend,
        )
        dates.append(date)
    return tuple(numbers), tuple(dates)


def _categories(found: Part, features: Features, schema: Schema) -> list[CategoryStatistics]:
    return [
        category.fitted(column.name, cast(Counts, found.summaries[column.name]), features)
        for column in _of_kind(schema, "category")
    ]


def _texts(found: Part, features: Features, schema: Schema) -> tuple[TextStatistics, ...]:
    return tuple(
        text.fitted(
            column.name,
            found.terms[column.name],
            found.rows,
            features.of(column.name),
            features.min_count,
        )
        for column in _written(schema, features, "tfidf")
    )


def _image(found: Part, features: Features) -> ImageStatistics | None:
    """The statistics of the image column, of which there is one at most."""
    for name, colours in found.colours.items():
        return image.fitted(name, colours, image.shape_of(features.of(name)))
    return None


def _written(schema: Schema, features: Features, way: str) -> list[Column]:
    """The texts that are read in that way."""
    return [c for c in _of_kind(schema, "text") if features.of(c.name).text == way]


def _tokens(features: Features, schema: Schema) -> TokenStatistics | None:
    named = [column.name for column in _written(schema, features, "tokens")]
    return tokens.fitted(named[0], features.of(named[0])) if named else None


def _label(column: Column, part: Part, data: Data) -> LabelStatistics:
    if part.answers is not None:
        return chat.label_of(column.name, part.answers)
    found = part.summaries[column.name]
    if isinstance(found, Moments):
        if found.minimum == found.maximum:
            raise _one_class(column, found.minimum)
        return LabelStatistics(
            name=column.name, classes=None, mean=found.mean, deviation=found.deviation
        )
    classes = sorted(found.values.items())
    if column.kind == "labels":
        given = data.column(column.name)
        return label_sets.fitted(
            column, classes, part.rows, given.min_rows if given else 1, data.balance is not None
        )
    if len(classes) < 2:
        raise _one_class(column, *found.values)
    return LabelStatistics(
        name=column.name,
        classes=tuple(name for name, _ in classes),
        counts=tuple(count for _, count in classes),
    )


def _one_class(column: Column, value: object = "none") -> DataError:
    return DataError(
        f"every training row has the label `{value}`",
        where=f"column {column.name}",
        expected="two classes or more, or different values",
        hint="lower `data.split.validation`, set another `data.split.seed`, or give more rows",
    )
