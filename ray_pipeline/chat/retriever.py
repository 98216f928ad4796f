"""From a question to the passages that an answer is made from, and how sure it is that there is
one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from ray_pipeline.chat.search import Hit, Passages, fused
from ray_pipeline.chat.words import count
from ray_pipeline.job.chat import Retrieve


class Found(NamedTuple):
    """Passages, the best first, and the cosine of the question and the nearest passage."""

    hits: list[Hit]
    confidence: float


Embed = Callable[[Sequence[str]], Any]
"""From texts [N] to vectors [N, W]."""


class Retriever:
    """Finds passages by the job's `chat.retrieve`."""

    def __init__(self, passages: Passages, embed: Embed, settings: Retrieve) -> None:
        self._passages, self._embed, self.settings = passages, embed, settings

    def found(self, question: str, groups: Collection[str]) -> Found:
        """The candidates for an answer to somebody who may read these groups."""
        return self.near(question, self._embed([question])[0], groups)

    def near(self, question: str, vector: Any, groups: Collection[str]) -> Found:
        """As `found`, of a question whose vector is known."""
        by, count = self.settings.by, self.settings.candidates
        rankings = [self._passages.by_vector([float(v) for v in vector], groups, count)]
        confidence = rankings[0][0].score if rankings[0] else 0.0
        if by == "text":
            rankings = []
        if by != "vectors":
            rankings.append(self._passages.by_words(question, groups, count))
        return Found(fused(rankings) if len(rankings) > 1 else rankings[0], confidence)


def fitting(hits: Sequence[Hit], settings: Retrieve) -> list[Hit]:
    """The first `passages` of the hits, as far as their words fit into the budget; the first does
    always."""
    kept: list[Hit] = []
    words = 0
    for hit in hits[: settings.passages]:
        words += count(hit.passage.text)
        if kept and words > settings.words:
            break
        kept.append(hit)
    return kept
