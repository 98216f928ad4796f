"""How well an embedding finds the passages of questions that it has not seen, beside its base.

Shape letters: Q questions, D different passages, W a vector's width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.data import parts
from ray_pipeline.data.encoders import pairs, tokens
from ray_pipeline.data.encoders.sentences import texts_of
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import DataError
from ray_pipeline.job import Evaluate
from ray_pipeline.model import judgement, metrics, train
from ray_pipeline.model.embedding import Embedding
from ray_pipeline.model.language_judgement import base_of
from ray_pipeline.model.metrics import Floats
from ray_pipeline.model.predictions import row_count
from ray_pipeline.model.retrieval import CHANGES, by_query, names

Record = dict[str, Any]
Vectors = NDArray[np.float32]
SIDES = ("train", "validation", "test")
SCORES = 1 << 24
"""Similarities that are held at a time."""
_NOTE = (
    "Each question that was not learned from looks for its passage among those of all sides. "
    "Recall at k is how often it is among the k nearest, MRR the mean of one over its rank, nDCG "
    "at k counts it less the lower it stands. Intervals are of resampled questions; a change is "
    "that of the same questions, so that its interval says whether the model has learned."
)


@dataclass(frozen=True)
class Search:
    """Questions [Q], and for each the places of its passages among the `passages` [D]."""

    questions: list[str]
    answers: list[list[int]]
    passages: list[str]


def write(
    trained: UPath, features: UPath, split: UPath, settings: Evaluate, *, out: UPath
) -> Record:
    """Judge the model in `trained` on the test rows of `split`, or the validation rows if none.

    Writes `metrics.json`, and `predictions.parquet` with each question's figures. The record's
    `metrics` has the figures of `retrieval.names`, and of CHANGES each `_change`, which is ours
    less that of the base model; `baseline` has the base's own.

    Raises:
        DataError: there are no rows to judge on.
    """
    statistics = prepared.load(features)
    side = "test" if row_count(split / "test") else "validation"
    if not row_count(split / side):
        raise DataError("no row is left to judge on", where="data.split")
    sought, held_out = searched(split, side, statistics), searched(split, "validation", statistics)
    network, base = train.load(trained), base_of(trained)
    assert isinstance(network, Embedding), "pairs are learned by an embedding"
    assert isinstance(base, Embedding), "pairs are learned by an embedding"
    after, before = (by_question(sought, embedding(each, statistics)) for each in (network, base))
    changes = _means(after - before)
    found: Record = judgement.defined(
        {
            **_means(after),
            **{f"{key}_change": changes[key] for key in CHANGES},
            "intervals": _intervals(after, before, settings.bootstrap),
            "baseline": {
                "is": "the network before it was fine-tuned",
                **_means(before),
                "intervals": _spans(before, settings.bootstrap),
            },
            "validation": _means(by_question(held_out, embedding(network, statistics))),
            "about": {
                "task": statistics.task,
                "split": side,
                "rows": len(sought.questions),
                "passages": len(sought.passages),
                "positive": None,
                "resamples": settings.bootstrap,
                "confidence": metrics.CONFIDENCE,
            },
        }
    )
    (out / "metrics.json").write_text(json.dumps(found, indent=1))
    columns = dict(zip(names(), after.T, strict=True))
    pq.write_table(pa.table(columns), (out / "predictions.parquet").path, filesystem=out.fs)
    rows = row_count(split / side)
    return {"rows_in": rows, "rows_out": rows, "metrics": found, "findings": [_finding(found)]}


def searched(split: UPath, side: str, statistics: Statistics) -> Search:
    """The different questions of a side, to be answered by the passages of all sides."""
    passages: dict[str, int] = {}
    answers: dict[str, list[int]] = {}
    for each in (*(other for other in SIDES if other != side), side):
        for question, passage in _texts(split / each, statistics):
            place = passages.setdefault(passage, len(passages))
            if each == side:
                answers.setdefault(question, []).append(place)
    return Search(list(answers), list(answers.values()), list(passages))


def by_question(sought: Search, embed: Callable[[Sequence[str]], Vectors]) -> Floats:
    """Each question's figures [Q, …], in the order of `retrieval.names`."""
    questions, passages = embed(sought.questions), embed(sought.passages)
    step = max(1, SCORES // len(passages))
    parts_ = []
    for start in range(0, len(questions), step):
        scores = questions[start : start + step] @ passages.T
        relevance = np.zeros(scores.shape, np.int8)
        for row, places in enumerate(sought.answers[start : start + step]):
            relevance[row, places] = 1
        parts_.append(by_query(scores.astype(float), relevance))
    return np.concatenate(parts_)


def embedding(network: Embedding, statistics: Statistics) -> Callable[[Sequence[str]], Vectors]:
    """A function from texts [N] to their vectors [N, W]."""
    column = pairs.asked(statistics).tokens
    assert column is not None, "questions are read as tokens"

    def run(columns: tokens.Columns) -> Vectors:
        with torch.inference_mode():
            vectors: Vectors = network.vectors(torch.from_numpy(columns[column.name])).numpy()
        return vectors

    read = tokens.reading(run, [column])
    return lambda texts: read({column.name: np.array(texts, object)})


def _texts(folder: UPath, statistics: Statistics) -> Iterator[tuple[str, str]]:
    assert statistics.pairs is not None, "an embedding is trained on pairs"
    columns = [statistics.pairs.name, statistics.label.name]
    for path in parts.files(folder):
        table = parts.read(path, columns)
        yield from zip(*(texts_of(table[name]) for name in columns), strict=True)


def _means(figures: Floats) -> dict[str, float]:
    return dict(zip(names(), figures.mean(0).tolist(), strict=True))


def _spans(figures: Floats, resamples: int) -> dict[str, tuple[float, float]]:
    """95 % bootstrap percentile intervals of the means; questions are resampled."""
    if not resamples:
        return {}
    means = metrics.resampled_means(figures, resamples, np.random.default_rng(0))
    return {name: metrics.percentiles(means[:, at]) for at, name in enumerate(names())}


def _intervals(after: Floats, before: Floats, resamples: int) -> dict[str, tuple[float, float]]:
    changes = _spans(after - before, resamples)
    changed = {f"{key}_change": changes[key] for key in CHANGES if key in changes}
    return {**_spans(after, resamples), **changed}


def _finding(found: Record) -> Record:
    """What the report says of it: before, after, and the change."""
    before = found["baseline"]

    def row(name: str) -> list[Any]:
        spans = (figures["intervals"].get(name) for figures in (before, found))
        changed = f"{name}_change"
        figures = [
            part
            for pair in zip((before[name], found[name]), map(_span, spans), strict=True)
            for part in pair
        ]
        return [name, *figures, found.get(changed), _span(found["intervals"].get(changed))]

    spans = "95 % interval"
    table = {
        "columns": ["", "before", spans, "fine-tuned", spans, "change", spans],
        "rows": [row(name) for name in names()],
    }
    return {"title": "Passages found", "note": _NOTE, "tables": [table]}


def _span(bounds: Any) -> str | None:
    return None if bounds is None or None in bounds else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
