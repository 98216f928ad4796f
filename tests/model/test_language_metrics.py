"""Perplexity and token accuracy against torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.text import perplexity

from ray_pipeline.model import language_metrics


def drawn(texts: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(texts, 9, 13, generator=generator)
    targets = torch.randint(0, 13, (texts, 9), generator=generator)
    lengths = torch.randint(1, 10, (texts, 1), generator=generator)
    targets[torch.arange(9) >= lengths] = language_metrics.PADDING
    logits.scatter_add_(2, targets.clamp(min=0)[..., None], torch.ones(texts, 9, 1))
    return logits, targets


def test_figures_as_torchmetrics_in_any_batches() -> None:
    logits, targets = drawn(20)
    whole = language_metrics.token_sums(logits, targets)
    parts = [language_metrics.token_sums(logits[i : i + 7], targets[i : i + 7]) for i in (0, 7, 14)]
    assert np.concatenate(parts) == pytest.approx(whole)
    found = language_metrics.token_figures(whole)
    expected = perplexity(logits, targets, ignore_index=language_metrics.PADDING)
    assert found["perplexity"] == pytest.approx(float(expected), rel=1e-5)
    counted = targets >= 0
    hits = (logits.argmax(2)[counted] == targets[counted]).float().mean()
    assert found["token_accuracy"] == pytest.approx(float(hits))


def test_a_model_that_knows_nothing_is_as_perplexed_as_the_vocabulary_is_large() -> None:
    sums = language_metrics.token_sums(torch.zeros(3, 4, 50), torch.full((3, 4), 7))
    assert language_metrics.token_figures(sums)["perplexity"] == pytest.approx(50)


def test_intervals_hold_the_figures_and_texts_without_tokens_have_none() -> None:
    sums = language_metrics.token_sums(*drawn(200))
    figures = language_metrics.token_figures(sums)
    for name, (low, high) in language_metrics.token_intervals(sums, 300).items():
        assert low < figures[name] < high
    assert np.isnan(language_metrics.token_figures(np.zeros((2, 3)))["perplexity"])
