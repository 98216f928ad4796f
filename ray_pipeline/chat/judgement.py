"""How well sections are found, in figures and for the report."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ray_pipeline.model import retrieval
from ray_pipeline.model.metrics import Floats, percentiles, resampled_means

WAYS = {"hybrid": "hybrid", "bm25": "text", "fragments": "", "vectors": "vectors"}
"""What is judged, by the name of its metrics, and how a job asks for it: by pieces of words alone
none does."""


class Questions(NamedTuple):
    """What a judgement is of: its title, what its split is called, and what the questions are."""

    title: str
    split: str
    what: str


def metrics(
    scores: dict[str, Floats], relevance: Floats, by: str, resamples: int, of: Questions
) -> dict[str, Any]:
    """The figures of the job's own way `by` of retrieval, with intervals, and of all; how much more
    the hybrid finds than each alone. Scores and relevance: [Q, S]."""
    figures = {way: _figures(scores[way], relevance) for way in WAYS}
    intervals = {way: _intervals(scores[way], relevance, resamples) for way in WAYS}
    own = next(way for way, asked in WAYS.items() if asked == by)
    told: dict[str, Any] = {
        **figures[own],
        "intervals": intervals[own],
        "baseline": figures["bm25"],
        "about": {
            "split": of.split,
            "questions": of.what,
            "rows": len(relevance),
            "resamples": resamples,
        },
    }
    for way in WAYS:
        told[way] = {**figures[way], "intervals": intervals[way]}
    told["gain"] = {
        way: _gain(scores["hybrid"], scores[way], relevance, resamples)
        for way in WAYS
        if way != "hybrid"
    }
    return told


def _figures(scores: Floats, relevance: Floats) -> dict[str, float]:
    figures = retrieval.retrieval(scores, relevance)
    return {**figures, "recall@5": figures["recall_at_5"]}


def _intervals(scores: Floats, relevance: Floats, resamples: int) -> dict[str, Any]:
    return retrieval.retrieval_intervals(scores, relevance, resamples) if resamples else {}


def _gain(ours: Floats, theirs: Floats, relevance: Floats, resamples: int) -> dict[str, Any]:
    """By how much the hybrid's recall at 5 is above another's over the same questions, with its
    95 % bootstrap interval."""
    at = retrieval.names().index("recall_at_5")
    differences = (
        retrieval.by_query(ours, relevance)[:, at] - retrieval.by_query(theirs, relevance)[:, at]
    )
    gain: dict[str, Any] = {"recall_at_5": float(differences.mean())}
    if resamples:
        means = resampled_means(differences[:, None], resamples, np.random.default_rng(0))
        gain["interval"] = list(percentiles(means[:, 0]))
    return gain


def finding(metrics: dict[str, Any], of: Questions) -> dict[str, Any]:
    """What the report shows of a judgement."""
    shown = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "ndcg_at_10")
    rows = [[name, *(f"{metrics[name][figure]:.3f}" for figure in shown)] for name in WAYS]
    names = ["searched by", *(name.replace("_at_", " at ").replace("_", " ") for name in shown)]
    tables = [{"columns": names, "rows": rows}]
    if refusal := metrics.get("refusal"):
        tables.append(
            {
                "caption": "Not knowing, on the half that did not choose the threshold",
                "columns": ["what", "value"],
                "rows": [[name, value] for name, value in refusal.items()],
            }
        )
    bars = [
        [
            name,
            metrics[name]["recall_at_5"],
            *metrics[name]["intervals"].get("recall_at_5", (None, None)),
        ]
        for name in WAYS
    ]
    return {
        "title": of.title,
        "note": f"{metrics['about']['rows']} questions {of.what}. A section is found where one of "
        "its passages is. Bars: recall at 5 with 95 % bootstrap intervals.",
        "tables": tables,
        "plots": [{"kind": "bars", "x": "recall at 5", "bars": bars}],
        "place": "judged",
    }
