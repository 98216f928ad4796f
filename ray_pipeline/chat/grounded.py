"""How good answers are: whether passages bear them out, whether they are answers, and how fast."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from langchain_core.runnables import Runnable

from ray_pipeline.chat.answer import Asked, Piece
from ray_pipeline.chat.retriever import Embed
from ray_pipeline.chat.support import borne_out
from ray_pipeline.model.metrics import Floats, percentiles, resampled_means


class Answered(NamedTuple):
    """An answer's sentences, each with its passage's text; who wrote it; the sections that it
    cites; seconds to the first sentence and to the end."""

    question: str
    claims: list[tuple[str, str]]
    by: str
    sections: set[str]
    first_s: float
    total_s: float


def answered(chain: Runnable[Asked, Any], question: str, groups: set[str]) -> Answered:
    """What the chatbot answers."""
    begun, first, by = time.perf_counter(), 0.0, "nobody"
    hits: Sequence[Any] = ()
    claims, sections = [], set()
    piece: Piece
    for piece in chain.stream(Asked(question, groups)):
        hits = piece.hits or hits
        if piece.sentence is None:
            continue
        first = first or time.perf_counter() - begun
        by = piece.by
        if piece.sentence.source is not None:
            passage = hits[piece.sentence.source].passage
            claims.append((piece.sentence.text, passage.text))
            sections.add(passage.section)
    return Answered(question, claims, by, sections, first, time.perf_counter() - begun)


def judged(
    answers: Sequence[Answered], right: Sequence[set[str]], embed: Embed, resamples: int
) -> dict[str, Any]:
    """Figures of answers to questions whose sections `right` are known.

    Returns:
        `answered`, the share that is one; of these `unsupported`, the share with a sentence that
        its passage does not bear out (with its 95 % bootstrap `interval`), `cited_right`, the share
        that cites a right section, and `relevance`, the mean cosine of question and answer;
        `quoted`, the share that is quoted; and milliseconds to the first
        sentence and to the end, p50 and p95.
    """
    given = [place for place, one in enumerate(answers) if one.claims]
    figures: dict[str, Any] = {"questions": len(answers), "answered": len(given) / len(answers)}
    for name, taken in (("first", "first_s"), ("total", "total_s")):
        told = np.percentile([getattr(one, taken) * 1e3 for one in answers], (50, 95))
        figures |= {f"{name}_ms_p50": float(told[0]), f"{name}_ms_p95": float(told[1])}
    if not given:
        return figures
    wrong = np.array(
        [[float(not all(borne_out(*claim, embed) for claim in answers[p].claims))] for p in given]
    )
    figures["unsupported"] = float(wrong.mean())
    if resamples:
        means = resampled_means(wrong, resamples, np.random.default_rng(0))
        figures["interval"] = list(percentiles(means[:, 0]))
    cited = [bool(answers[place].sections & right[place]) for place in given]
    figures["cited_right"] = float(np.mean(cited))
    figures["quoted"] = float(np.mean([answers[place].by == "extractive" for place in given]))
    figures["relevance"] = float(_relevance([answers[place] for place in given], embed).mean())
    return figures


def finding(figures: dict[str, Any]) -> dict[str, Any]:
    """What the report shows of `judged`."""
    rows = [[name.replace("_", " "), _shown(value)] for name, value in figures.items()]
    return {
        "title": "Answers",
        "note": "Some of the same questions, answered as at the endpoint. Unsupported is an answer "
        "with a sentence that the passage it cites does not bear out.",
        "tables": [{"columns": ["what", "value"], "rows": rows}],
        "place": "judged",
    }


def _relevance(answers: Sequence[Answered], embed: Embed) -> Floats:
    texts = [" ".join(text for text, _ in one.claims) for one in answers]
    vectors = np.asarray(embed([*(one.question for one in answers), *texts]))
    relevance: Floats = (vectors[: len(answers)] * vectors[len(answers) :]).sum(1)
    return relevance


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_shown, value))
    return f"{value:.3g}"
