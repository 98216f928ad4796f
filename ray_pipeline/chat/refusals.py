"""How well a chatbot knows what its documents do not answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ray_pipeline.model.metrics import Floats


def refusals(
    known: Sequence[str],
    known_confidence: Floats,
    unknown: Sequence[str],
    unknown_confidence: Floats,
    threshold: float | None = None,
) -> dict[str, Any]:
    """How well a threshold on the confidence tells questions that the documents answer from others.

    It is chosen on one half of both, where the mean of the two shares that are treated rightly is
    highest, and judged on the other; a question's half is by its digest.
    """
    first = np.array([_half(question) for question in known])
    second = np.array([_half(question) for question in unknown])
    if threshold is None:
        threshold = _chosen(known_confidence[first], unknown_confidence[second])
    answered = known_confidence[~first] >= threshold
    refused = unknown_confidence[~second] < threshold
    wrongly = int((~answered).sum())
    total = wrongly + int(refused.sum())
    return {
        "threshold": float(threshold),
        "precision": float(refused.sum() / total) if total else None,
        "recall": float(refused.mean()) if len(refused) else None,
        "answered": float(answered.mean()) if len(answered) else None,
        "unanswerable": len(refused),
        "answerable": len(answered),
    }


def _half(question: str) -> bool:
    return hashlib.sha256(question.encode()).digest()[0] % 2 == 0


def _chosen(known: Floats, unknown: Floats) -> float:
    """Of thresholds halfway between two confidences the one that treats most rightly."""
    values = np.unique(np.concatenate([known, unknown]))
    tried = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2])
    rightly = [
        float(np.mean(known >= one) + np.mean(unknown < one)) / 2
        if len(known) and len(unknown)
        else 0.0
        for one in tried
    ]
    return float(tried[int(np.argmax(rightly))])
