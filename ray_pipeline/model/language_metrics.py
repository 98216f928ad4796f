"""How well a language model foretells texts: perplexity and token accuracy, with intervals.

Shape letters: N texts, T tokens of the longest, V tokens in the vocabulary, B resamples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ray_pipeline.model.metrics import Floats, percentiles, resampled_means

PADDING = -1


def token_sums(logits: Tensor, targets: Tensor) -> Floats:
    """Of each text the loss, the hits and the tokens summed: [N, 3].

    `logits` [N, T, V] stand beside the tokens that they foretell, `targets` [N, T]; those that
    are PADDING (questions, say, or room at the end) do not count. Batches are stacked by rows.
    """
    counted = targets != PADDING
    flat = cross_entropy(
        logits.flatten(0, 1).double(),
        targets.flatten(),
        ignore_index=PADDING,
        reduction="none",
    )
    losses = flat.view(targets.shape)
    hits = (logits.argmax(2) == targets) & counted
    sums = torch.stack([losses.sum(1), hits.sum(1), counted.sum(1)], 1)
    found: Floats = sums.double().cpu().numpy()
    return found


def token_figures(sums: Floats) -> dict[str, float]:
    """Perplexity, the exponential of the mean loss of a token, and the share of tokens hit.

    `sums` [N, 3] are those of `token_sums`; of texts without tokens both are NaN.
    """
    loss, hits, tokens = sums.sum(0)
    if not tokens:
        return {"perplexity": float("nan"), "token_accuracy": float("nan")}
    return {
        "perplexity": float(np.exp(loss / tokens)),
        "token_accuracy": float(hits / tokens),
    }


def token_intervals(sums: Floats, resamples: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % bootstrap percentile intervals of `token_figures`.

    Whole texts are resampled: the tokens of one text are no independent draws.
    """
    means = resampled_means(sums, resamples, np.random.default_rng(seed))
    loss, hits, tokens = means.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "perplexity": percentiles(np.exp(loss / tokens)),
            "token_accuracy": percentiles(hits / tokens),
        }
