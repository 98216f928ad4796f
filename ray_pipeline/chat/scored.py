"""What searches find for questions whose sections are known, as scores of all sections.

Shape letters: Q questions, S sections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ray_pipeline.chat import judgement, rerank
from ray_pipeline.chat.chunks import PATH, Passage
from ray_pipeline.chat.retriever import Rankings, Retriever, combined
from ray_pipeline.chat.search import Passages, Ranked
from ray_pipeline.chat.weights import WEIGHTS, Chosen, chosen
from ray_pipeline.job.chat import Retrieve
from ray_pipeline.model.metrics import Floats

_NOT_FOUND = -1e9

Found = list[list[Ranked]]
"""What is found for each question, the best first."""
Scored = Callable[[Found], Floats]
"""From what is found to scores [Q, S] of sections."""


class Asked(NamedTuple):
    """Questions, all sections, and which of these answer which question, [Q, S]."""

    questions: list[str]
    sections: list[str]
    relevance: Floats

    def right(self) -> dict[str, set[str]]:
        """The sections that answer each question."""
        return {
            question: {section for section, value in zip(self.sections, row, strict=True) if value}
            for question, row in zip(self.questions, self.relevance, strict=True)
        }


def asked(passages: Sequence[Passage], answers: Sequence[tuple[str, Iterable[str]]]) -> Asked:
    """Questions, each with the sections that answer it, among all sections of the passages."""
    sections = list(dict.fromkeys(passage.section for passage in passages))
    places = {section: place for place, section in enumerate(sections)}
    relevance = np.zeros((len(answers), len(sections)))
    for row, (_, own) in enumerate(answers):
        relevance[row, [places[section] for section in own]] = 1
    return Asked([question for question, _ in answers], sections, relevance)


def below(
    passages: Sequence[Passage], said: Callable[[str], str] = lambda heading: heading
) -> dict[str, set[str]]:
    """The sections below each heading, as it is `said`."""
    found: dict[str, set[str]] = {}
    for passage in passages:
        for heading in passage.headings.split(PATH):
            found.setdefault(said(heading), set()).add(passage.section)
    return found


class Outcome(NamedTuple):
    """Figures of what is found (`judgement.metrics`), the weight of pieces of words against
    meaning, and the cosine of each question and what is nearest to it, [Q]."""

    metrics: dict[str, Any]
    weight: float | None
    confidences: Floats


def judged(
    passages: Passages,
    asked: Asked,
    vectors: Any,
    settings: Retrieve,
    *,
    resamples: int,
    of: judgement.Questions,
) -> Outcome:
    """How well somebody who may read everything finds the sections that answer questions, whose
    vectors are [Q, W]."""
    score = _scoring(passages, asked)
    found = _proposed(passages, asked.questions, vectors, settings)
    weight, found["hybrid"] = _weighed(found, asked, score, settings)
    if settings.rerank:
        by = found[judgement.way_of(settings.by)]
        found[judgement.RERANKED] = _reranked(passages, asked.questions, by, settings)
    scores = {way: score(each) for way, each in found.items()}
    one = as_one(asked.relevance, asked.relevance)
    metrics = judgement.metrics(scores, one, settings.by, resamples, of)
    return Outcome(metrics, weight, confidences(found["vectors"]))


def confidences(found: Sequence[Sequence[Ranked]]) -> Floats:
    """The cosine of each question and what is nearest in meaning, [Q]; 0 where nothing is."""
    return np.array([ranked[0].score if ranked else 0.0 for ranked in found])


def as_one(values: Floats, relevance: Floats) -> Floats:
    """`values` [Q, S] with those of a question's own sections at the first of them, the greatest,
    and nothing at the others: one answer, which is found where one of its sections is."""
    made = values.copy()
    nothing = min(0.0, float(values.min(initial=0.0)))
    for row, own in enumerate(relevance > 0):
        places = np.flatnonzero(own)
        made[row, places] = nothing
        made[row, places[0]] = values[row, places].max()
    return made


def _proposed(
    passages: Passages, questions: Sequence[str], vectors: Any, settings: Retrieve
) -> dict[str, Found]:
    """What each search by itself finds for each question."""
    every = settings.model_copy(update={"by": "hybrid"})
    retriever = Retriever(passages, lambda texts: texts, every)
    both = [
        retriever.rankings(question, vector, passages.groups)
        for question, vector in zip(questions, vectors, strict=True)
    ]
    return {
        "bm25": [passages.by_words(q, passages.groups, every.candidates) for q in questions],
        "fragments": [one.words for one in both],
        "vectors": [one.meaning for one in both],
    }


def _weighed(
    found: Mapping[str, Found], asked: Asked, score: Scored, settings: Retrieve
) -> tuple[float | None, Found]:
    """The hybrid's weight, and what the hybrid finds: for each question by a weight that other
    questions chose, where the job does not name one."""
    both = list(map(Rankings, found["vectors"], found["fragments"]))

    def hybrid(weights: Iterable[float | None]) -> Found:
        told = [settings.model_copy(update={"by": "hybrid", "weight": each}) for each in weights]
        return [combined(one, each) for one, each in zip(both, told, strict=True)]

    if settings.weight is not None or settings.fuse == "ranks":
        made = Chosen(settings.weight, [settings.weight] * len(both))
    else:
        tried = [score(hybrid([weight] * len(both))) for weight in WEIGHTS]
        made = chosen(tried, as_one(asked.relevance, asked.relevance), asked.questions)
    return made.weight, hybrid(made.each)


def _reranked(
    passages: Passages, questions: Sequence[str], found: Found, settings: Retrieve
) -> Found:
    """What is found, in the reranker's order; with as many threads as there are cores, as nothing
    else is done meanwhile."""
    score = rerank.scoring(settings, threads=0)
    retriever = Retriever(passages, lambda texts: texts, settings, score)
    return [retriever.reranked(*each) for each in zip(questions, found, strict=True)]


def _scoring(passages: Passages, asked: Asked) -> Scored:
    """How what is found becomes scores of the sections that are asked for."""
    columns = {section: place for place, section in enumerate(asked.sections)}
    places = {row: columns[section] for row, section in passages.sections().items()}
    return lambda found: as_one(_scores(found, places, len(columns)), asked.relevance)


def _scores(found: Found, places: Mapping[int, int], width: int) -> Floats:
    """The sections' scores [Q, S] for each question: the better, the earlier a passage is found.
    `places` has that of each row's section."""
    scores = np.full((len(found), width), _NOT_FOUND)
    for question, ranked in enumerate(found):
        for rank, one in enumerate(ranked):
            place = places[one.row]
            scores[question, place] = max(scores[question, place], -rank)
    return scores
