"""Who puts an answer into words: quotation, a language model in this process, or a server's."""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ray_pipeline.chat.coming import Coming
from ray_pipeline.chat.remembered import remembered
from ray_pipeline.chat.retriever import Embed
from ray_pipeline.chat.search import Hit
from ray_pipeline.chat.words import count, sentences
from ray_pipeline.data.media.extras import library
from ray_pipeline.errors import PipelineError
from ray_pipeline.job.chat import Generate

Message = dict[str, str]


class Prompt(NamedTuple):
    """A question, the passages that may answer it, and both as a language model is told."""

    question: str
    hits: list[Hit]
    messages: list[Message]


Writer = Callable[[Prompt], Iterator[str]]
"""An answer, in pieces as they come."""


class Parts(NamedTuple):
    """What a generator is made of."""

    settings: Generate
    embed: Embed
    model: Path
    """The GGUF file, if there is one."""


_QUOTED_WORDS, _QUOTED, _LOOKED_AT, _LEAST_WORDS = 110, 4, 40, 4
_WORSE = 0.15
"""How much less than the best sentence says for itself another may."""
_WHOLE_WORDS, _CLOSING = 45, "\"'”’)]"
_POINTER = re.compile(r"\(?(also )?see\b|\w+://", re.IGNORECASE)
"""Sentences that only say where else something stands, and addresses that they begin with."""
_FIRST_PASSAGES, _FIRST_SENTENCE = 0.15, 0.03
"""What speaks for a sentence besides its meaning: its passage's rank, and that it opens it."""


def extractive(parts: Parts) -> Writer:
    """Quotes the sentences that are nearest to the question, in their passages' order."""
    of_documents = remembered(parts.embed)  # not of questions, which are nobody's to keep for long

    def write(prompt: Prompt) -> Iterator[str]:
        found = [
            (rank, place, sentence)
            for rank, hit in enumerate(prompt.hits)
            for place, sentence in enumerate(quotable(hit.passage.text))
            if count(sentence) >= _LEAST_WORDS
            and not sentence.endswith((":", "?"))
            and not _POINTER.match(sentence)
        ][:_LOOKED_AT]
        if not found:
            return
        vectors = of_documents([sentence for _, _, sentence in found])
        scores = vectors @ parts.embed([prompt.question])[0]
        scores += [_FIRST_PASSAGES / (1 + rank) for rank, _, _ in found]
        scores += [_FIRST_SENTENCE * (place == 0) for _, place, _ in found]
        for _, _, sentence in sorted(_best(found, scores)):
            yield sentence + "\n\n"

    return write


def quotable(text: str) -> list[str]:
    """The sentences of a text. One that a listing interrupts, or that ends in one, is whole: `To
    update, run`, the listing, and what follows up to a full stop."""
    made: list[str] = []
    for sentence in sentences(text):
        cut = made and not made[-1].rstrip(_CLOSING).endswith((".", "!", "?", "…"))
        if cut and count(made[-1]) + count(sentence) <= _WHOLE_WORDS:
            made[-1] += "\n" + sentence
        else:
            made.append(sentence)
    return made


def _best(found: Sequence[tuple[int, int, str]], scores: Any) -> list[tuple[int, int, str]]:
    """The sentences with the highest scores, each once, as far as they fit."""
    kept: list[tuple[int, int, str]] = []
    words = 0
    for at in np.argsort(-scores, kind="stable"):
        if scores[at] < scores.max() - _WORSE:
            break
        sentence = found[at][2]
        if any(sentence == other for _, _, other in kept):
            continue
        words += count(sentence)
        if kept and words > _QUOTED_WORDS:
            break
        kept.append(found[at])
        if len(kept) == _QUOTED:
            break
    return kept


class Line:
    """Those who wait for something that serves one after the other, each for `patience_s` at the
    most."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s, self._usual_s, self._in_line = patience_s, 0.0, 0
        self._counting, self._free = threading.Lock(), threading.Lock()

    def join(self) -> float:
        """Until when one waits. Raises TimeoutError: by what it took lately, it would be longer."""
        with self._counting:
            if self._in_line and (self._in_line + 1) * self._usual_s > self._patience_s:
                raise TimeoutError(f"{self._in_line} are in line")
            self._in_line += 1
        return time.monotonic() + self._patience_s

    def serve(self, work: Callable[[], object], waits: Callable[[], bool]) -> None:
        """Do the work of one who has joined when it is its turn, if it still waits."""
        try:
            with self._free:
                if not waits():
                    return
                begun = time.monotonic()
                work()
                took = time.monotonic() - begun
                self._usual_s = (took + (self._usual_s or took)) / 2
        finally:
            with self._counting:
                self._in_line -= 1


def llama(parts: Parts, threads: int = 1, layers: int = 0) -> Callable[[Prompt], Coming]:
    """A GGUF file by llama.cpp in this process, one answer at a time. Others wait, unless it would
    be for longer than a first sentence may take: they are refused at once, to be quoted.

    Args:
        threads: that it computes with.
        layers: of the model that a GPU computes; -1 are all.
    """
    xllamacpp = library("xllamacpp", "chat")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(parts.model)
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = 4096, 1, layers
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.verbosity = 0
    # It listens on a port of this machine besides; nobody is to be told the key.
    settings.api_keys = [secrets.token_hex(32)]
    # It would keep what it read of all prompts, some 5 MB each, up to 8 GB.
    settings.cache_ram_mib = 0
    line = Line(parts.settings.first_s)
    server = xllamacpp.Server(settings)

    def write(prompt: Prompt) -> Coming:
        stopped = threading.Event()
        coming = Coming(closed=stopped.set)

        def took(piece: Any) -> bool:
            told = json.loads(piece) if isinstance(piece, str | bytes) else piece
            for choice in told.get("choices", ()):
                coming.put(choice.get("delta", {}).get("content") or "")
            return stopped.is_set()

        def generate() -> None:
            server.handle_chat_completions(
                {
                    "messages": prompt.messages,
                    "max_tokens": parts.settings.tokens,
                    "temperature": 0,
                    "stream": True,
                },
                took,
            )

        def run() -> None:
            try:
                until = line.join()
                line.serve(generate, lambda: time.monotonic() < until and not stopped.is_set())
                coming.end()
            except Exception as error:  # noqa: BLE001 - raised where the answer is put together
                coming.end(error)

        threading.Thread(target=run, daemon=True).start()
        return coming

    return write


def openai(parts: Parts) -> Writer:
    """A server that speaks OpenAI's protocol, such as vLLM's or llama.cpp's."""
    client = library("openai", "chat")
    settings = parts.settings
    name = (settings.key or "").strip("${}")
    if name and name not in os.environ:
        raise PipelineError(
            f"the environment has no {name}", where="chat.generate.key", hint="set it for replicas"
        )
    asked = client.OpenAI(
        base_url=settings.url,
        api_key=os.environ[name] if name else "none",
        timeout=settings.within_s,
        max_retries=0,
    )

    def write(prompt: Prompt) -> Iterator[str]:
        with asked.chat.completions.create(
            model=settings.model,
            messages=prompt.messages,
            max_tokens=settings.tokens,
            temperature=0,
            stream=True,
        ) as answer:
            for piece in answer:
                if piece.choices:
                    yield piece.choices[0].delta.content or ""

    return write


def vllm(parts: Parts) -> Writer:
    """Raises PipelineError: its replicas are a part of the endpoint (`vllm.py`), and not here."""
    raise PipelineError(
        f"{parts.settings.model} has replicas at the endpoint alone",
        where="chat.generate.by: vllm",
        hint="ask the endpoint, or deploy it with `serve.apart.generator`",
    )


GENERATORS: dict[str, Callable[[Parts], Writer]] = {
    "extractive": extractive,
    "llama": llama,
    "vllm": vllm,
    "openai": openai,
}
"""From `chat.generate.by` to what makes the writer of answers."""
