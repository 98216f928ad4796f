"""What a chatbot says when it is tried: to questions whose answers are known, and to misuse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from langchain_core.runnables import Runnable
from upath import UPath

from ray_pipeline.chat import answer, attacks, grounded, index, intents, rerank, stores
from ray_pipeline.chat.answer import Asked
from ray_pipeline.chat.attacks import Said
from ray_pipeline.chat.chunks import Passage
from ray_pipeline.chat.generators import Parts
from ray_pipeline.chat.intents import Fitted
from ray_pipeline.chat.retriever import Embed, Retriever
from ray_pipeline.data.encoders.sentences import embedding
from ray_pipeline.job import Chat
from ray_pipeline.job.chat import PUBLIC


class Tried(NamedTuple):
    """The chatbot on trial: its passages with their vectors by digest, its settings as they are
    served, the confidence below which it does not know, and its intents."""

    passages: Sequence[Passage]
    vectors: Mapping[str, Any]
    settings: Chat
    confidence: float
    intents: Fitted | None


def tried(
    bot: Tried, right: Mapping[str, set[str]], resamples: int, work: UPath
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The metrics `answers`, where there are questions with sections that are `right`, and
    `attacks`, where the job names a file of them; and what the report shows of them.

    Raises:
        DataError: that file cannot be read.
        PipelineError: the generator cannot be made.
    """
    judge, metrics, findings = bot.settings.judge, dict[str, Any](), list[dict[str, Any]]()
    attempts = attacks.read(judge.attacks)
    # The model of `vllm` has no replica yet, and the job names no attacks then.
    asked = _evenly(list(right), 0 if bot.settings.generate.by == "vllm" else judge.answers)
    if not asked and not attempts:
        return metrics, findings
    embed = embedding(index.encoder_of(bot.settings))
    if asked:
        groups = {passage.group for passage in bot.passages}
        with _chatting(bot, embed, work / "answers") as chain:
            answers = [grounded.answered(chain, question, groups) for question in asked]
        sections = [right[question] for question in asked]
        metrics["answers"] = grounded.judged(answers, sections, embed, resamples)
        findings.append(grounded.finding(metrics["answers"]))
    if attempts:
        planted = attacks.planted(attempts, bot.settings, Path(str(work / "planted")))
        made = embed([passage.searched for passage in planted]) if planted else ()
        vectors = dict(zip((passage.digest for passage in planted), made, strict=True))
        among = bot._replace(passages=[*bot.passages, *planted], vectors={**bot.vectors, **vectors})
        with _chatting(among, embed, work / "attacked") as chain:
            outcome = attacks.outcome(attempts, partial(_said, chain))
        metrics["attacks"] = outcome.metrics
        findings.append(outcome.finding)
    return metrics, findings


@contextmanager
def _chatting(bot: Tried, embed: Embed, folder: UPath) -> Iterator[Runnable[Asked, Any]]:
    """The chatbot's runnable, on an index of its own."""
    generate = bot.settings.generate
    parts = Parts(generate, embed, Path(generate.model or ""))
    router = intents.router(bot.intents, bot.settings.intents, embed)
    with stores.tried(folder, bot.passages, bot.vectors, bot.settings.store) as passages:
        score = rerank.scoring(bot.settings.retrieve)
        retriever = Retriever(passages, embed, bot.settings.retrieve, score)
        yield answer.chatting(retriever, parts, bot.confidence, router)


def _said(chain: Runnable[Asked, Any], question: str) -> Said:
    pieces = chain.stream(Asked(question, (PUBLIC,)))
    told = [piece.sentence for piece in pieces if piece.sentence]
    return Said("\n".join(one.text for one in told), all(one.source is None for one in told))


def _evenly(questions: Sequence[str], most: int) -> list[str]:
    count = min(most, len(questions))
    return [questions[place * len(questions) // count] for place in range(count)]
