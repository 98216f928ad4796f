"""How well sections are found, in figures and for the report."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ray_pipeline.model import retrieval
from ray_pipeline.model.metrics import Floats, percentiles, resampled_means

RERANKED = "reranked"
WAYS = {
    **{RERANKED: "", "hybrid": "hybrid"},
    **{"bm25": "text", "fragments": "", "vectors": "vectors"},
}
"""What is judged, by the name of its metrics, the fullest first, and how a job asks for it with
`by`: by pieces of words alone none does, and a reranker is asked for besides."""
_GAINED = ("recall_at_1", "recall_at_5", "mrr")


class Questions(NamedTuple):
    """What a judgement is of: its title, what its split is called, and what the questions are."""

    title: str
    split: str
    what: str


def metrics(
    scores: dict[str, Floats], relevance: Floats, by: str, resamples: int, of: Questions
) -> dict[str, Any]:
    """The figures of the job's own way of retrieval, which is `by` or that reranked, with
    intervals, and of all; how much more the fullest finds than each. Scores and relevance: [Q, S],
    without those of `reranked` where there is no reranker."""
    ways = [way for way in WAYS if way in scores]
    figures = {way: _figures(scores[way], relevance) for way in ways}
    intervals = {way: _intervals(scores[way], relevance, resamples) for way in ways}
    own = RERANKED if RERANKED in scores else way_of(by)
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
    for way in ways:
        told[way] = {**figures[way], "intervals": intervals[way]}
    fullest, *others = ways
    told["gain"] = {
        way: _gain(scores[fullest], scores[way], relevance, resamples) for way in others
    }
    return told


def way_of(by: str) -> str:
    """The name of a job's `by` among the metrics."""
    return next(way for way, asked in WAYS.items() if asked == by)


def _figures(scores: Floats, relevance: Floats) -> dict[str, float]:
    figures = retrieval.retrieval(scores, relevance)
    return {**figures, "recall@5": figures["recall_at_5"]}


def _intervals(scores: Floats, relevance: Floats, resamples: int) -> dict[str, Any]:
    return retrieval.retrieval_intervals(scores, relevance, resamples) if resamples else {}


def _gain(ours: Floats, theirs: Floats, relevance: Floats, resamples: int) -> dict[str, Any]:
    """By how much one finds more than another over the same questions, with 95 % bootstrap
    intervals."""
    at = [retrieval.names().index(name) for name in _GAINED]
    own, other = (retrieval.by_query(each, relevance)[:, at] for each in (ours, theirs))
    differences = own - other
    gain: dict[str, Any] = dict(zip(_GAINED, differences.mean(0).tolist(), strict=True))
    if resamples:
        means = resampled_means(differences, resamples, np.random.default_rng(0))
        gain["intervals"] = dict(zip(_GAINED, map(percentiles, means.T), strict=True))
    return gain


def finding(metrics: dict[str, Any], of: Questions) -> dict[str, Any]:
    """What the report shows of a judgement."""
    shown = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "ndcg_at_10")
    ways = [way for way in WAYS if way in metrics]
    rows = [[name, *(f"{metrics[name][figure]:.3f}" for figure in shown)] for name in ways]
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
        for name in ways
    ]
    return {
        "title": of.title,
        "note": f"{metrics['about']['rows']} questions {of.what}. A section is found where one of "
        "its passages is. Bars: recall at 5 with 95 % bootstrap intervals.",
        "tables": tables,
        "plots": [{"kind": "bars", "x": "recall at 5", "bars": bars}],
        "place": "judged",
    }
