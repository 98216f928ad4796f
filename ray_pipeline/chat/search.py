"""Finding passages: by meaning, by words, and by both. Who may read what is a part of the query."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.chat.chunks import Passage

Vectors = NDArray[np.float32]

_DAMPING = 60
"""Cormack, Clarke & Büttcher, "Reciprocal Rank Fusion outperforms Condorcet" (2009)."""


class Hit(NamedTuple):
    """A passage that was found, and the score that it was ranked by."""

    passage: Passage
    score: float


class Ranked(NamedTuple):
    """A row of the index that was found, and how near it is: the cosine of its vector and the
    question's, or the BM25 of its words."""

    row: int
    score: float


class Passages(Protocol):
    """An opened index, searched on behalf of somebody who may read some groups.

    A search proposes many rows, of which few are read: it tells no more of them than ranks them.
    Raises UnavailableError where a server that keeps the index does not answer.
    """

    @property
    def groups(self) -> frozenset[str]:
        """The groups that the passages are of."""

    def by_vector(
        self, vector: Sequence[float], groups: Collection[str], count: int
    ) -> list[Ranked]:
        """The passages nearest in meaning, the nearest first."""

    def by_words(self, question: str, groups: Collection[str], count: int) -> list[Ranked]:
        """The passages with the question's words by BM25, the best first."""

    def by_fragments(self, question: str, groups: Collection[str], count: int) -> list[Ranked]:
        """The passages with pieces of the question's words by BM25, the best first."""

    def read(self, ranked: Sequence[Ranked]) -> list[Hit]:
        """The passages of these rows, in this order."""

    def corrected(self, question: str, ranked: Sequence[Ranked]) -> Sequence[Ranked]:
        """The rows of the correction of this very question, if there is one; else all of them."""

    def sections(self) -> dict[int, str]:
        """The section of each row."""

    def everything(self) -> list[Passage]:
        """All passages, in their documents' order."""

    def vectors(self) -> Iterator[tuple[str, Vectors]]:
        """The vectors of all passages, by what they are of."""


def fused(rankings: Sequence[Sequence[Ranked]]) -> list[Ranked]:
    """The passages of several rankings by the sum of 1 / (60 + rank), ranks from 1; the score of
    each is that sum."""
    ranked = [[1 / (_DAMPING + rank) for rank in range(1, len(one) + 1)] for one in rankings]
    return _summed(rankings, ranked)


def weighed(meaning: Sequence[Ranked], words: Sequence[Ranked], weight: float) -> list[Ranked]:
    """The passages of two rankings by 1 - `weight` times the one's scores and `weight` times the
    other's, each brought between 0, the lowest that is proposed, and 1, the highest. What a ranking
    does not propose has 0 in it.

    Bruch, Gai & Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (2023)."""
    parts = ((meaning, 1 - weight), (words, weight))
    return _summed([found for found, _ in parts], [_scaled(*part) for part in parts])


def _scaled(found: Sequence[Ranked], weight: float) -> list[float]:
    scores = [one.score for one in found]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [weight * ((score - low) / (high - low) if high > low else 1.0) for score in scores]


def _summed(
    rankings: Sequence[Sequence[Ranked]], scores: Sequence[Sequence[float]]
) -> list[Ranked]:
    """The rows of all rankings by the sums of their scores; of equal ones the first in their
    documents' order, which is that of the rows, is first."""
    sums: dict[int, float] = {}
    for found, told in zip(rankings, scores, strict=True):
        for one, score in zip(found, told, strict=True):
            sums[one.row] = sums.get(one.row, 0.0) + score
    return [Ranked(row, sums[row]) for row in sorted(sums, key=lambda row: (-sums[row], row))]
