"""From a question to the passages that an answer is made from, and how sure it is that there is
one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from ray_pipeline.chat.search import Hit, Passages, Ranked, fused, weighed
from ray_pipeline.chat.words import count
from ray_pipeline.job.chat import Retrieve

WEIGHT = 0.3
"""Of pieces of words against meaning, where no questions are there to measure it with."""


class Found(NamedTuple):
    """Passages, the best first, and the cosine of the question and the nearest passage."""

    ranked: list[Ranked]
    confidence: float


class Rankings(NamedTuple):
    """What each of two searches proposes, the best first."""

    meaning: list[Ranked]
    words: list[Ranked]


Embed = Callable[[Sequence[str]], Any]
"""From texts [N] to vectors [N, W]."""
Score = Callable[[str, Sequence[str]], Any]
"""From a question and passages [N] to how well each answers it, [N]."""


class Retriever:
    """Finds passages by the job's `chat.retrieve`; `score` is its reranker, if it names one."""

    def __init__(
        self, passages: Passages, embed: Embed, settings: Retrieve, score: Score | None = None
    ) -> None:
        self._passages, self._embed, self.settings = passages, embed, settings
        self._score = score
        self._beside = ThreadPoolExecutor(thread_name_prefix="search")

    def found(self, question: str, groups: Collection[str]) -> Found:
        """The candidates for an answer to somebody who may read these groups."""
        return self.near(question, self._embed([question])[0], groups)

    def near(self, question: str, vector: Any, groups: Collection[str]) -> Found:
        """As `found`, of a question whose vector is known."""
        rankings = self.rankings(question, vector, groups)
        confidence = rankings.meaning[0].score if rankings.meaning else 0.0
        ranked = combined(rankings, self.settings)
        return Found(self.reranked(question, ranked), confidence)

    def rankings(self, question: str, vector: Any, groups: Collection[str]) -> Rankings:
        """What is proposed by meaning, and by words where `by` asks for them."""
        by, count = self.settings.by, self.settings.candidates
        asked = [float(v) for v in vector]
        if by == "vectors":
            return Rankings(self._passages.by_vector(asked, groups, count), [])
        search = self._passages.by_words if by == "text" else self._passages.by_fragments
        # At the same time: each waits for its server, or its index's threads, most of the time.
        words = self._beside.submit(search, question, groups, count)
        return Rankings(self._passages.by_vector(asked, groups, count), words.result())

    def reranked(self, question: str, ranked: list[Ranked]) -> list[Ranked]:
        """The ranking with the first of it in the reranker's order, by its scores; of equal ones
        the first stays first."""
        rerank = self.settings.rerank
        if rerank is None or self._score is None or len(ranked) < 2:
            return ranked
        first, rest = ranked[: rerank.candidates], ranked[rerank.candidates :]
        texts = [hit.passage.searched for hit in self._passages.read(first)]
        scores = np.asarray(self._score(question, texts))
        order = np.argsort(-scores, kind="stable")
        return [*(Ranked(first[place].row, float(scores[place])) for place in order), *rest]

    def kept(self, question: str, found: Found) -> list[Hit]:
        """The passages that an answer to the question is made from: those of its correction, if
        there is one, else the first that were found, as far as they fit."""
        ranked = self._passages.corrected(question, found.ranked)
        return fitting(self._passages.read(ranked[: self.settings.passages]), self.settings)


def combined(rankings: Rankings, settings: Retrieve) -> list[Ranked]:
    """One ranking of both, by `by`, `fuse` and `weight`."""
    if settings.by != "hybrid":
        return rankings.words if settings.by == "text" else rankings.meaning
    if settings.fuse == "ranks":
        return fused(rankings)
    return weighed(*rankings, WEIGHT if settings.weight is None else settings.weight)


def fitting(hits: Sequence[Hit], settings: Retrieve) -> list[Hit]:
    """The first of the hits, as far as their words fit into the budget; the first does always."""
    kept: list[Hit] = []
    words = 0
    for hit in hits:
        words += count(hit.passage.text)
        if kept and words > settings.words:
            break
        kept.append(hit)
    return kept
