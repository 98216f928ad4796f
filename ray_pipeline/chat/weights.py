"""How much pieces of words count against meaning: chosen on questions, judged on others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ray_pipeline.chat.retriever import WEIGHT
from ray_pipeline.model import retrieval
from ray_pipeline.model.metrics import Floats

WEIGHTS = tuple(sorted((n / 20 for n in range(11)), key=lambda weight: abs(weight - WEIGHT)))
"""What is tried; of equally good ones the first is taken, which is nearest to the usual one."""
FOLDS = 5
LEAST = 20
"""Questions that a choice needs; with fewer it is the usual weight."""
_MEASURES = [retrieval.names().index(name) for name in ("recall_at_5", "mrr")]
"""Whether the answer is among the passages that are read, and how far in front."""


class Chosen(NamedTuple):
    """The weight that is best on all questions, and for each of these the one that is best on the
    questions of the other folds."""

    weight: float | None
    each: list[float | None]


def chosen(scores: Sequence[Floats], relevance: Floats, questions: Sequence[str]) -> Chosen:
    """The choice among WEIGHTS by the sum of recall at 5 and MRR, in cross-validation.

    Args:
        scores: of sections by each weight, [Q, S] each.
        relevance: [Q, S]; each question has an answer.
        questions: a question's fold is by its digest.
    """
    if len(questions) < LEAST:
        return Chosen(WEIGHTS[0], [WEIGHTS[0]] * len(questions))
    figures = np.stack([_measured(each, relevance) for each in scores])  # [W, Q]
    folds = np.array([_fold(question) for question in questions])
    best = [WEIGHTS[int(figures[:, folds != fold].mean(1).argmax())] for fold in range(FOLDS)]
    return Chosen(WEIGHTS[int(figures.mean(1).argmax())], [best[fold] for fold in folds])


def _measured(scores: Floats, relevance: Floats) -> Floats:
    measured: Floats = retrieval.by_query(scores, relevance)[:, _MEASURES].sum(1)
    return measured


def _fold(question: str) -> int:
    return hashlib.sha256(question.encode()).digest()[0] % FOLDS
