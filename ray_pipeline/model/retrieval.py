"""How well embeddings find what belongs together: recall at k, MRR and nDCG, with intervals.

Shape letters: Q queries, D documents, B resamples. As in Manning et al., "Introduction to
Information Retrieval" (2008), chapter 8; the discounted gain is that of Järvelin & Kekäläinen
(2002), https://doi.org/10.1145/582415.582418, with linear gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.model.metrics import Floats, percentiles, ratio, resampled_means

DEPTHS = (1, 5, 10)
CHANGES = ("recall_at_1", "mrr", "ndcg_at_10")
"""Figures whose difference to those of the base a fine-tuned embedding is judged by."""


def by_query(scores: Floats, relevance: NDArray[Any], depths: Sequence[int] = DEPTHS) -> Floats:
    """Figures [Q', 2 × depths + 1] in the order of `names`, for the Q' queries with an answer.

    `scores` [Q, D] rank the documents, of equal ones the first first; `relevance` [Q, D] is 0
    where a document is no answer, else its gain. A query without any answer has no figures.
    """
    gains = np.asarray(relevance, dtype=float)
    answered = (gains > 0).any(1)
    gains = gains[answered]
    order = np.argsort(-np.asarray(scores)[answered], axis=1, kind="stable")
    ranked = np.take_along_axis(gains, order, 1)
    ideal = -np.sort(-gains, axis=1)
    answers = (gains > 0).sum(1)
    discount = 1 / np.log2(np.arange(2, gains.shape[1] + 2))
    recall = [(ranked[:, :depth] > 0).sum(1) / answers for depth in depths]
    ndcg = [_discounted(ranked, discount, d) / _discounted(ideal, discount, d) for d in depths]
    first = (ranked > 0).argmax(1)
    return np.stack([*recall, 1 / (first + 1.0), *ndcg], axis=1)


def names(depths: Sequence[int] = DEPTHS) -> tuple[str, ...]:
    """What the columns of `by_query` are: `recall_at_1` …, `mrr`, `ndcg_at_1` …"""
    return (
        *(f"recall_at_{depth}" for depth in depths),
        "mrr",
        *(f"ndcg_at_{depth}" for depth in depths),
    )


def retrieval(
    scores: Floats, relevance: NDArray[Any], depths: Sequence[int] = DEPTHS
) -> dict[str, float]:
    """Means over the queries that have an answer; NaN where none has."""
    found = by_query(scores, relevance, depths)
    means = ratio(found.sum(0), np.full(found.shape[1], len(found)), np.nan)
    return dict(zip(names(depths), means.tolist(), strict=True))


def retrieval_intervals(
    scores: Floats,
    relevance: NDArray[Any],
    resamples: int,
    depths: Sequence[int] = DEPTHS,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap percentile intervals of `retrieval`'s figures; queries are resampled."""
    found = by_query(scores, relevance, depths)
    if not len(found):
        return dict.fromkeys(names(depths), (float("nan"), float("nan")))
    means = resampled_means(found, resamples, np.random.default_rng(seed))
    return {name: percentiles(means[:, at]) for at, name in enumerate(names(depths))}


def _discounted(gains: Floats, discount: Floats, depth: int) -> Floats:
    """Discounted cumulative gain [Q] of the first `depth` documents."""
    total: Floats = gains[:, :depth] @ discount[:depth]
    return total
