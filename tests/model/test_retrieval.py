"""Retrieval metrics against torchmetrics and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, top_k_accuracy_score
from torchmetrics.functional import retrieval as reference

from ray_pipeline.model import retrieval


def drawn(queries: int, documents: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(queries, documents))
    relevant = rng.random((queries, documents)) < 0.2
    # Above 0: torchmetrics takes what scores less as not found at all.
    return np.exp(scores + relevant), relevant.astype(float)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(10, 30), st.integers(0, 10**6))
def test_each_query_as_torchmetrics(queries: int, documents: int, seed: int) -> None:
    scores, relevant = drawn(queries, documents, seed)
    relevant[:, 0] = 1
    found = retrieval.by_query(scores, relevant)
    for row, score, truth in zip(found, torch.tensor(scores), torch.tensor(relevant), strict=True):
        figures = dict(zip(retrieval.names(), row, strict=True))
        target = truth.bool()
        for k in retrieval.DEPTHS:
            recall = float(reference.retrieval_recall(score, target, top_k=k))
            ndcg = float(reference.retrieval_normalized_dcg(score, target, top_k=k))
            assert figures[f"recall_at_{k}"] == pytest.approx(recall, abs=1e-6)
            assert figures[f"ndcg_at_{k}"] == pytest.approx(ndcg, abs=1e-6)
        rank = float(reference.retrieval_reciprocal_rank(score, target))
        assert figures["mrr"] == pytest.approx(rank, abs=1e-6)


def test_gains_and_single_answers_as_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, gains = rng.normal(size=(40, 25)), rng.integers(0, 4, size=(40, 25)).astype(float)
    found = retrieval.retrieval(scores, gains)
    for k in retrieval.DEPTHS:
        assert found[f"ndcg_at_{k}"] == pytest.approx(ndcg_score(gains, scores, k=k))
    answer = rng.integers(0, 25, 40)
    one = np.eye(25)[answer]
    for k in retrieval.DEPTHS:
        expected = top_k_accuracy_score(answer, scores, k=k, labels=np.arange(25))
        assert retrieval.retrieval(scores, one)[f"recall_at_{k}"] == pytest.approx(expected)


def test_queries_without_an_answer_take_no_part() -> None:
    scores, relevant = drawn(6, 12, 1)
    relevant[0], relevant[1:, 0] = 0, 1
    assert retrieval.retrieval(scores, relevant) == retrieval.retrieval(scores[1:], relevant[1:])
    nothing = retrieval.retrieval(scores, np.zeros_like(relevant))
    assert all(np.isnan(value) for value in nothing.values())


def test_intervals_hold_the_figures_and_shrink_with_queries() -> None:
    few, many = drawn(40, 20, 2), drawn(640, 20, 2)
    for scores, relevant in (few, many):
        figures = retrieval.retrieval(scores, relevant)
        spans = retrieval.retrieval_intervals(scores, relevant, 300)
        assert all(spans[name][0] <= value <= spans[name][1] for name, value in figures.items())
    wide = retrieval.retrieval_intervals(*few, 300)["mrr"]
    narrow = retrieval.retrieval_intervals(*many, 300)["mrr"]
    assert (narrow[1] - narrow[0]) < 0.4 * (wide[1] - wide[0])
