"""How well questions find their sections, and how well the chatbot knows what it does not know.

The questions are the documents' own headings that are questions. In the passages that they are to
find they are held out, and so are all headings that are questions: what is left is the answer.
Paraphrases are asked of the passages as they are.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from upath import UPath

from ray_pipeline.chat import (
    attacks,
    index,
    intents,
    judgement,
    lines,
    paraphrases,
    rerank,
    scored,
    stores,
)
from ray_pipeline.chat.chunks import PATH, Passage, digest_of, searched_of
from ray_pipeline.chat.corrections import DOCUMENT
from ray_pipeline.chat.refusals import refusals
from ray_pipeline.chat.scored import Asked
from ray_pipeline.chat.search import Passages, Vectors
from ray_pipeline.chat.trial import Tried, tried
from ray_pipeline.errors import DataError
from ray_pipeline.job import Chat
from ray_pipeline.model.metrics import Floats

MOST = 1_000
"""Questions that are asked."""
_HELD_OUT = judgement.Questions(
    "What is found",
    "held out",
    "that are headings of the documents, asked of passages without these headings",
)
_WORDED = judgement.Questions(
    "What is found of paraphrases",
    "paraphrases",
    "in others' words, asked of the passages as they are",
)


class _Told(NamedTuple):
    """Metrics by their names, and what the report shows of them."""

    metrics: dict[str, Any]
    findings: list[dict[str, Any]]


def write(
    made: UPath, settings: Chat, resamples: int, *, out: UPath, work: UPath
) -> dict[str, Any]:
    """Judge the index in `made`, and write `metrics.json` to `out`, and what tells intents.

    Returns:
        `metrics`: recall, MRR and nDCG of the job's way of retrieval, with intervals; the same
        under `hybrid`, `bm25`, `fragments` and `vectors`, and where the job has a reranker
        `reranked`; `refusal` where there are questions
        without an answer; `paraphrases` where there are any, with the same figures and the share
        that is `answered`; `intents` (see `intents.judged`); `answers` and `attacks` (see
        `trial.tried`). `confidence`: the threshold below which the chatbot does not know. `weight`:
        of pieces of words against meaning, None where it is not known.

    Raises:
        DataError: a file of what is asked cannot be read or is empty, or names what the documents
            do not have.
        JobError: a route is for an intent without examples.
        UnavailableError: the server that keeps the index does not answer.
    """
    whole = stores.opened(made)
    indexed = whole.everything()
    passages = [one for one in indexed if one.document != DOCUMENT]
    titles, strange = titled(passages), _unanswerable(settings.judge.unanswerable)
    worded = paraphrases.asked(paraphrases.read(settings.judge.paraphrases)[:MOST], indexed)
    examples = intents.read(settings.intents)
    stored = dict(whole.vectors())
    held, fresh = _held_out(passages, stored)
    said = [one.text for one in examples]
    texts = [titles.questions, strange, worded.questions, said, fresh.values()]
    asked, unknown, reworded, spoken, added = _vectors(texts, settings, work / "texts")
    known = stored | dict(zip(fresh, added, strict=True))
    with stores.tried(work, held, known, settings.store) as searched:
        first = _of_titles(searched, (titles, asked), (strange, unknown), settings, resamples)
    refusal, weight = first.metrics.get("refusal"), first.metrics.get("weight")
    confidence = refusal["threshold"] if refusal else settings.judge.confidence or 0.0
    if titles.questions:
        told = settings.retrieve.model_copy(update={"weight": weight})
        settings = settings.model_copy(update={"retrieve": told})
    second = _of_paraphrases(whole, (worded, reworded), confidence, settings, resamples)
    fitted, third = None, _Told({}, [])
    if settings.intents:
        fitted = intents.fitted(examples, spoken)
        (out / intents.FILE).write_text(fitted.model_dump_json())
        answerable = np.concatenate([asked, reworded])
        outcome = intents.judged(examples, spoken, settings.intents, answerable, resamples)
        third = _Told({"intents": outcome.metrics}, [outcome.finding])
    bot = Tried(held, known, settings, confidence, fitted)
    fourth = _Told(*tried(bot, titles.right(), resamples, work))
    parts = (first, second, third, fourth)
    metrics = {name: value for part in parts for name, value in part.metrics.items()}
    (out / "metrics.json").write_text(json.dumps(metrics))
    rows = len(asked) + len(unknown) + len(reworded) + len(spoken)
    return {
        "rows_in": rows,
        "rows_out": rows,
        "rows_quarantined": 0,
        "metrics": metrics,
        "confidence": confidence,
        "weight": settings.retrieve.weight,
        "findings": [finding for part in parts for finding in part.findings],
    }


def fingerprint(settings: Chat) -> list[Any]:
    """What a judgement hangs on besides the settings and the index. Raises DataError."""
    judge = settings.judge
    attempts = [attack.model_dump(mode="json") for attack in attacks.read(judge.attacks)]
    worded = [one.model_dump(mode="json") for _, one in paraphrases.read(judge.paraphrases)]
    said = [one.model_dump(mode="json") for one in intents.read(settings.intents)]
    unknown, reranker = _unanswerable(judge.unanswerable), rerank.fingerprint(settings.retrieve)
    return [unknown, attempts, worded, said, reranker]


def titled(passages: Sequence[Passage]) -> Asked:
    """The questions among the headings, each answered by its own section and those below it."""
    answers = [(heading, own) for heading, own in scored.below(passages).items() if "?" in heading]
    return scored.asked(passages, answers[:MOST])


def _of_titles(
    searched: Passages,
    titles: tuple[Asked, Vectors],
    strange: tuple[list[str], Vectors],
    settings: Chat,
    resamples: int,
) -> _Told:
    """How the documents' own questions are found, and how they are told from strange ones."""
    asked, vectors = titles
    if not asked.questions:
        return _Told({}, [])
    own = scored.judged(
        searched, asked, vectors, settings.retrieve, resamples=resamples, of=_HELD_OUT
    )
    metrics = {**own.metrics, "weight": own.weight}
    questions, others = strange
    if questions:
        both = (asked.questions, own.confidences, questions, _confidences(searched, others))
        metrics["refusal"] = refusals(*both, settings.judge.confidence)
    return _Told(metrics, [judgement.finding(metrics, _HELD_OUT)])


def _of_paraphrases(
    searched: Passages,
    worded: tuple[Asked, Vectors],
    confidence: float,
    settings: Chat,
    resamples: int,
) -> _Told:
    """How they are found in the index as it is, and how many are above the threshold."""
    asked, vectors = worded
    if not asked.questions:
        return _Told({}, [])
    told = scored.judged(
        searched, asked, vectors, settings.retrieve, resamples=resamples, of=_WORDED
    )
    metrics = {**told.metrics, "answered": float((told.confidences >= confidence).mean())}
    return _Told({"paraphrases": metrics}, [judgement.finding(metrics, _WORDED)])


def _held_out(
    passages: Sequence[Passage], known: Collection[str]
) -> tuple[list[Passage], dict[str, str]]:
    """The passages without headings that are questions, and the texts by digest of those whose
    vectors are not `known`."""
    plain = []
    for passage in passages:
        kept = [heading for heading in passage.headings.split(PATH) if "?" not in heading]
        searched = searched_of(kept, passage.text)
        plain.append(passage._replace(searched=searched, digest=digest_of(searched)))
    return plain, {each.digest: each.searched for each in plain if each.digest not in known}


def _vectors(texts: Sequence[Iterable[str]], settings: Chat, work: UPath) -> list[Vectors]:
    """The vectors of several lists of texts, made at once: to start the pool takes long."""
    lists = [list(each) for each in texts]
    flat = [text for each in lists for text in each]
    vectors = index.embedded(flat, index.encoder_of(settings), work)
    ends = accumulate(map(len, lists), initial=0)
    return [vectors[start:end] for start, end in pairwise(ends)]


def _confidences(passages: Passages, vectors: Vectors) -> Floats:
    found = [passages.by_vector(vector.tolist(), passages.groups, 1) for vector in vectors]
    return scored.confidences(found)


def _unanswerable(path: str | None) -> list[str]:
    if path is None:
        return []
    told = lines.texts(path, "a question")
    found = [line.strip() for line in told if line.strip() and not line.startswith("#")]
    if not found:
        raise DataError("holds no question", where=path, expected="a question on each line")
    return found[:MOST]
