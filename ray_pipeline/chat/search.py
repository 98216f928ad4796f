"""Finding passages: by meaning, by words, and by both. Who may read what is a part of the query."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from upath import UPath

from ray_pipeline.chat import index
from ray_pipeline.chat.chunks import Passage
from ray_pipeline.chat.corrections import DOCUMENT
from ray_pipeline.chat.support import plain
from ray_pipeline.chat.words import fragments
from ray_pipeline.data.media.extras import library

_DAMPING = 60
"""Cormack, Clarke & Büttcher, "Reciprocal Rank Fusion outperforms Condorcet" (2009)."""
_FIELDS = list(Passage._fields)


class Hit(NamedTuple):
    """A passage that was found, and the score that it was ranked by."""

    passage: Passage
    score: float


class Ranked(NamedTuple):
    """A row of the index that was found, and how near it is: the cosine of its vector and the
    question's, or the BM25 of its words."""

    row: int
    score: float


class Passages:
    """An opened index, searched on behalf of somebody who may read some groups.

    A search proposes many rows, of which few are read: it tells no more of them than ranks them.
    """

    def __init__(self, database: UPath) -> None:
        self._table = index.opened(database)
        self.groups = frozenset(self._columns("group")["group"].unique().to_pylist())
        self._corrections = self._corrected()

    def by_vector(
        self, vector: Sequence[float], groups: Collection[str], count: int
    ) -> list[Ranked]:
        """The passages nearest in meaning, the nearest first."""
        query = self._table.search(vector, vector_column_name="vector").distance_type(index.NEAR)
        query = query.nprobes(index.PROBED)
        if not self.groups <= set(groups):
            query = query.maximum_nprobes(0)  # as many parts as it takes to find enough
        found = self._ranked(query, groups, count, "_distance")
        return [Ranked(row, 1 - distance) for row, distance in found]

    def by_words(self, question: str, groups: Collection[str], count: int) -> list[Ranked]:
        """The passages with the question's words by BM25, the best first."""
        return self._matching(question, index.WORDS, groups, count)

    def by_fragments(self, question: str, groups: Collection[str], count: int) -> list[Ranked]:
        """The passages with pieces of the question's words by BM25, the best first."""
        return self._matching(fragments(question), index.FRAGMENTS, groups, count)

    def read(self, ranked: Sequence[Ranked]) -> list[Hit]:
        """The passages of these rows, in this order."""
        taken = self._table.take_row_ids([row for row, _ in ranked]).with_row_id()
        told = taken.select(_FIELDS).to_arrow().to_pylist()  # in any order
        passages = {one["_rowid"]: Passage(**{name: one[name] for name in _FIELDS}) for one in told}
        return [Hit(passages[row], score) for row, score in ranked]

    def corrected(self, question: str, ranked: Sequence[Ranked]) -> Sequence[Ranked]:
        """The rows of the correction of this very question, if there is one; else all of them."""
        own = self._corrections.get(plain(question), ())
        return [one for one in ranked if one.row in own] or ranked

    def sections(self) -> dict[int, str]:
        """The section of each row."""
        told = self._columns("section")
        return dict(zip(told["_rowid"].to_pylist(), told["section"].to_pylist(), strict=True))

    def _corrected(self) -> dict[str, set[int]]:
        """The rows of corrections by the words of their questions."""
        rows: dict[str, set[int]] = {}
        for one in self._columns("headings", f"document = '{DOCUMENT}'").to_pylist():
            rows.setdefault(plain(one["headings"]), set()).add(one["_rowid"])
        return rows

    def _columns(self, name: str, where: str | None = None) -> pa.Table:
        """A column of all rows, or of those `where` something holds, and `_rowid`."""
        query = self._table.search().select([name]).with_row_id(True)
        return (query.where(where) if where else query).to_arrow()

    def _matching(
        self, text: str, column: str, groups: Collection[str], count: int
    ) -> list[Ranked]:
        if not text.strip():
            return []
        # Not as text: LanceDB would read quotation marks and signs in it as operators.
        asked = library("lancedb.query", "chat").MatchQuery(text, column)
        query = self._table.search(asked, query_type="fts")
        return [Ranked(*found) for found in self._ranked(query, groups, count, "_score")]

    def _ranked(
        self, query: Any, groups: Collection[str], count: int, score: str
    ) -> Iterator[tuple[int, float]]:
        if not self.groups <= set(groups):  # who may read everything is spared the condition
            # Before the search, not after: else others' passages would take the places of one's
            # own, and their number would tell of them.
            allowed = ", ".join("'{}'".format(group.replace("'", "''")) for group in sorted(groups))
            query = query.where(f"`group` IN ({allowed})", prefilter=True)
        found = query.limit(count).select([score]).with_row_id(True).to_arrow()
        return zip(found["_rowid"].to_pylist(), found[score].to_pylist(), strict=True)


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
