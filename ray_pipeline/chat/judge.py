"""How well questions find their sections, and how well the chatbot knows what it does not know.

The questions are the documents' own headings that are questions. In the passages that they are to
find they are held out, and so are all headings that are questions: what is left is the answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from upath import UPath

from ray_pipeline.chat import index
from ray_pipeline.chat.chunks import PATH, Passage, digest_of, searched_of
from ray_pipeline.chat.refusals import refusals
from ray_pipeline.chat.retriever import Found, Retriever
from ray_pipeline.chat.search import Passages
from ray_pipeline.errors import DataError
from ray_pipeline.job import Chat
from ray_pipeline.job.chat import Retrieve
from ray_pipeline.model import retrieval
from ray_pipeline.model.metrics import Floats, percentiles, resampled_means

WAYS = ("hybrid", "text", "vectors")
_NAMES = {"hybrid": "hybrid", "text": "bm25", "vectors": "vectors"}
MOST = 1_000
"""Questions that are asked."""
_NOT_FOUND = -1e9


def write(
    made: UPath, settings: Chat, resamples: int, *, out: UPath, work: UPath
) -> dict[str, Any]:
    """Judge the index in `made`, and write `metrics.json` to `out`.

    Returns:
        `metrics`: recall, MRR and nDCG of the job's way of retrieval, with intervals; the same
        under `hybrid`, `bm25` and `vectors`; and `refusal` where there are questions without an
        answer. `confidence`: the threshold below which the chatbot does not know.

    Raises:
        DataError: the file of unanswerable questions cannot be read, or is empty.
    """
    passages = index.passages_of(made)
    groups = {passage.group for passage in passages}
    questions, sections, relevance = asked(passages)
    strange = _unanswerable(settings.judge.unanswerable)
    held, fresh = _held_out(passages, made)
    texts = [*questions, *strange, *fresh.values()]  # at once: to start the pool takes long
    vectors = index.embedded(texts, index.encoder_of(settings), work / "texts")
    known = dict(index.vectors_of(made)) | dict(
        zip(fresh, vectors[len(questions) + len(strange) :], strict=True)
    )
    index.created(work / index.DATABASE, held, known)
    searched = Passages(work / index.DATABASE)
    metrics: dict[str, Any] = {}
    if questions:
        found = {
            way: _rankings(searched, questions, vectors, groups, settings.retrieve, way)
            for way in WAYS
        }
        scores = {way: _scores(each, sections) for way, each in found.items()}
        scores = {way: as_one(score, relevance) for way, score in scores.items()}
        metrics = _metrics(scores, as_one(relevance, relevance), settings.retrieve.by, resamples)
    confidence = settings.judge.confidence or 0.0
    if questions and strange:
        rest = vectors[len(questions) :]
        unsure = _rankings(searched, strange, rest, groups, settings.retrieve, "vectors")
        both = (_confidences(found["hybrid"]), strange, _confidences(unsure))
        metrics["refusal"] = refusals(questions, *both, settings.judge.confidence)
        confidence = metrics["refusal"]["threshold"]
    (out / "metrics.json").write_text(json.dumps(metrics))
    return {
        "rows_in": len(questions) + len(strange),
        "rows_out": len(questions) + len(strange),
        "rows_quarantined": 0,
        "metrics": metrics,
        "confidence": confidence,
        "findings": [_finding(metrics, len(questions))] if metrics else [],
    }


def fingerprint(settings: Chat) -> list[str]:
    """What a judgement hangs on besides the settings and the index. Raises DataError."""
    return _unanswerable(settings.judge.unanswerable)


def asked(passages: Sequence[Passage]) -> tuple[list[str], list[str], Floats]:
    """The questions among the headings, all sections, and which of these answer which question
    [Q, S]: its own section and those below it."""
    sections = list(dict.fromkeys(passage.section for passage in passages))
    places = {section: place for place, section in enumerate(sections)}
    answers: dict[str, set[int]] = {}
    for passage in passages:
        for heading in passage.headings.split(PATH):
            if "?" in heading:
                answers.setdefault(heading, set()).add(places[passage.section])
    questions = list(answers)[:MOST]
    relevance = np.zeros((len(questions), len(sections)))
    for row, question in enumerate(questions):
        relevance[row, list(answers[question])] = 1
    return questions, sections, relevance


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


def _held_out(passages: Sequence[Passage], made: UPath) -> tuple[list[Passage], dict[str, str]]:
    """The passages without headings that are questions, and the texts by digest of those that
    have no vector yet."""
    known = {digest for digest, _ in index.vectors_of(made)}
    plain = []
    for passage in passages:
        kept = [heading for heading in passage.headings.split(PATH) if "?" not in heading]
        searched = searched_of(kept, passage.text)
        plain.append(passage._replace(searched=searched, digest=digest_of(searched)))
    return plain, {each.digest: each.searched for each in plain if each.digest not in known}


def _rankings(  # noqa: PLR0917 - what is searched, and how
    held: Passages,
    questions: Sequence[str],
    vectors: Any,
    groups: set[str],
    settings: Retrieve,
    way: Any,
) -> list[Found]:
    retriever = Retriever(held, lambda texts: texts, settings.model_copy(update={"by": way}))
    return [
        retriever.near(question, vector, groups)
        for question, vector in zip(questions, vectors, strict=False)
    ]


def _confidences(found: Sequence[Found]) -> Floats:
    return np.array([one.confidence for one in found])


def _scores(found: Sequence[Found], sections: Sequence[str]) -> Floats:
    """The sections' scores [Q, S] for each question: the better, the earlier a passage is found."""
    places = {section: place for place, section in enumerate(sections)}
    scores = np.full((len(found), len(sections)), _NOT_FOUND)
    for row, one in enumerate(found):
        for rank, hit in enumerate(one.hits):
            place = places[hit.passage.section]
            scores[row, place] = max(scores[row, place], -rank)
    return scores


def _metrics(
    scores: dict[str, Floats], relevance: Floats, by: str, resamples: int
) -> dict[str, Any]:
    figures = {way: _figures(scores[way], relevance) for way in WAYS}
    intervals = {way: _intervals(scores[way], relevance, resamples) for way in WAYS}
    metrics: dict[str, Any] = {
        **figures[by],
        "intervals": intervals[by],
        "baseline": figures["text"],
        "about": {
            "split": "the documents' own questions, held out of the passages",
            "rows": len(relevance),
            "resamples": resamples,
        },
    }
    for way in WAYS:
        metrics[_NAMES[way]] = {**figures[way], "intervals": intervals[way]}
    metrics["gain"] = {
        _NAMES[way]: _gain(scores["hybrid"], scores[way], relevance, resamples)
        for way in WAYS
        if way != "hybrid"
    }
    return metrics


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


def _unanswerable(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = UPath(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read: {error}", where=path, expected="a question on each line, in UTF-8"
        ) from error
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise DataError("holds no question", where=path, expected="a question on each line")
    return found[:MOST]


def _finding(metrics: dict[str, Any], questions: int) -> dict[str, Any]:
    shown = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "ndcg_at_10")
    rows = [
        [name, *(f"{metrics[name][figure]:.3f}" for figure in shown)] for name in _NAMES.values()
    ]
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
        for name in _NAMES.values()
    ]
    return {
        "title": "What is found",
        "note": f"{questions} questions that are headings of the documents, asked of passages "
        "without these headings. A section is found where one of its passages is. Bars: recall at "
        "5 with 95 % bootstrap intervals.",
        "tables": tables,
        "plots": [{"kind": "bars", "x": "recall at 5", "bars": bars}],
        "place": "judged",
    }
