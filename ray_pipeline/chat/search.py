"""Finding passages: by meaning, by words, and by both. Who may read what is a part of the query."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from upath import UPath

from ray_pipeline.chat import index
from ray_pipeline.chat.chunks import Passage
from ray_pipeline.data.media.extras import library

_DAMPING = 60
"""Cormack, Clarke & Büttcher, "Reciprocal Rank Fusion outperforms Condorcet" (2009)."""
_FIELDS = list(Passage._fields)


class Hit(NamedTuple):
    """A passage that was found, and how near it is: the cosine of its vector and the question's,
    or the BM25 of its words."""

    passage: Passage
    score: float


class Passages:
    """An opened index, searched on behalf of somebody who may read some groups."""

    def __init__(self, database: UPath) -> None:
        self._table = index.opened(database)

    def by_vector(self, vector: Sequence[float], groups: Collection[str], count: int) -> list[Hit]:
        """The passages nearest in meaning, the nearest first."""
        query = self._table.search(vector, vector_column_name="vector").distance_type("cosine")
        rows = self._rows(query, groups, count, "_distance")
        return [Hit(passage, 1 - distance) for passage, distance in rows]

    def by_words(self, question: str, groups: Collection[str], count: int) -> list[Hit]:
        """The passages with the question's words by BM25, the best first."""
        if not question.strip():
            return []
        # Not as text: LanceDB would read quotation marks and signs in it as operators.
        asked = library("lancedb.query", "chat").MatchQuery(question, "searched")
        query = self._table.search(asked, query_type="fts")
        return [Hit(*row) for row in self._rows(query, groups, count, "_score")]

    @staticmethod
    def _rows(
        query: Any, groups: Collection[str], count: int, score: str
    ) -> list[tuple[Passage, float]]:
        # Before the search, not after: else others' passages would take the places of one's own,
        # and their number would tell of them.
        allowed = ", ".join("'{}'".format(group.replace("'", "''")) for group in sorted(groups))
        found = query.where(f"`group` IN ({allowed})", prefilter=True).limit(count)
        rows = found.select([*_FIELDS, score]).to_arrow().to_pylist()
        return [(Passage(**{name: row[name] for name in _FIELDS}), row[score]) for row in rows]


def fused(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """The passages of several rankings by the sum of 1 / (60 + rank), ranks from 1; the score of
    each hit is that sum."""
    sums: dict[tuple[str, int], float] = {}
    passages: dict[tuple[str, int], Passage] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            key = (hit.passage.section, hit.passage.place)
            sums[key] = sums.get(key, 0.0) + 1 / (_DAMPING + rank)
            passages[key] = hit.passage
    order = sorted(sums, key=lambda key: (-sums[key], key))
    return [Hit(passages[key], sums[key]) for key in order]
