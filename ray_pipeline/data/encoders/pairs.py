"""Pairs of a question and the passage that answers it, as tokens of the one encoder of both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ray_pipeline.data.encoders import tokens
from ray_pipeline.data.statistics import (
    LabelStatistics,
    PairStatistics,
    Statistics,
    TokenStatistics,
)
from ray_pipeline.errors import JobError
from ray_pipeline.job import Features
from ray_pipeline.schema import Schema


def are(features: Features, schema: Schema) -> bool:
    """Whether rows are pairs: the label, a text, is read as tokens, and so is a feature."""
    read = [column for column in schema.features if features.of(column.name).text == "tokens"]
    label = schema.label
    return label.kind == "text" and bool(read) and features.of(label.name).text == "tokens"


def check(features: Features, schema: Schema) -> None:
    """Raises JobError unless there is one text to ask with, read by the encoder of the label."""
    names = [column.name for column in schema.features]
    if len(names) > 1:
        raise JobError(
            f"one text is to find `{schema.label.name}`, and there are {len(names)} features: "
            f"{', '.join(names)}",
            where="data.columns",
            expected="one text column besides the label",
            hint="give other columns the role `ignore`",
        )
    question, passage = (features.of(name).encoder for name in (*names, schema.label.name))
    if question != passage:
        raise JobError(
            f"`{names[0]}` and `{schema.label.name}` are read by two encoders",
            where=f"data.features.columns.{schema.label.name}.encoder",
            expected=f"{question}: vectors of two encoders cannot be compared",
        )


def fitted(features: Features, schema: Schema) -> PairStatistics | None:
    """What the encoder of both texts knows of them; None where rows are no pairs.

    Raises:
        JobError: its tokenizer cannot be loaded, or the library is not installed.
    """
    if not are(features, schema):
        return None
    name = schema.features[0].name
    column = tokens.fitted(name, features.of(name))
    longest = features.of(schema.label.name).longest
    return PairStatistics(**column.model_dump(), passage_longest=longest)


def label_of(name: str) -> LabelStatistics:
    """The label of a pair: each counts 1."""
    return LabelStatistics(name=name, classes=None, mean=1.0)


def encoding(pairs: PairStatistics, label: str) -> Callable[[pa.Table], pa.Table]:
    """A function from rows with a question and, as their `label`, the passage to their tokens:
    `question` and `passage` List<int32>, and `label`, of which each is 1."""
    question = tokens.encoding(pairs)
    passage = tokens.encoding(passages(pairs, label))

    def encoded(rows: pa.Table) -> pa.Table:
        return pa.table(
            {
                "question": question(rows[pairs.name]),
                "passage": passage(rows[label]),
                "label": np.ones(len(rows), np.int64),
            }
        )

    return encoded


def passages(pairs: PairStatistics, label: str) -> TokenStatistics:
    """The column of passages, as one that is read as tokens."""
    return TokenStatistics(
        name=label, base=pairs.base, tokenizer=pairs.tokenizer, longest=pairs.passage_longest
    )


def asked(statistics: Statistics) -> Statistics:
    """What turns a text into what an embedding's graph reads: the column of questions, for texts as
    long as passages may be, too."""
    found = statistics.pairs
    assert found is not None, "rows are pairs"
    longest = max(found.longest, found.passage_longest)
    column = found.model_dump(exclude={"passage_longest"}) | {"longest": longest}
    return statistics.model_copy(update={"pairs": None, "tokens": TokenStatistics(**column)})
