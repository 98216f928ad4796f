"""An opened bundle of a chatbot, ready to be asked."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from upath import UPath

from ray_pipeline.bundle import Bundle
from ray_pipeline.chat import answer, export, intents, stores
from ray_pipeline.chat.answer import Asked, Piece
from ray_pipeline.chat.generators import Parts
from ray_pipeline.chat.intents import Fitted
from ray_pipeline.chat.protocol import Completion
from ray_pipeline.chat.remembered import remembered
from ray_pipeline.chat.retriever import Retriever
from ray_pipeline.data.encoders import sentences, tokens
from ray_pipeline.data.statistics import SentenceStatistics
from ray_pipeline.errors import BundleError
from ray_pipeline.job.chat import PUBLIC, Chat

_LATEST = 64
"""Texts whose vectors are at hand: a question's is wanted to route it, to search, and to quote."""


class Bot:
    """Answers questions from a bundle's documents.

    Args:
        opened: the bundle.
        told: its settings, if they are not to be those in it.

    Raises:
        BundleError: the bundle is none of a chatbot.
        PipelineError: the generator cannot be made, or the environment has no variable that the
            index's server is reached by.
    """

    def __init__(self, opened: Bundle, told: dict[str, Any] | None = None) -> None:
        if opened.manifest.task != "chat":
            raise BundleError(
                f"a bundle for {opened.manifest.task}",
                where=str(opened.path),
                expected="one of a job with a `chat` section",
            )
        self.manifest = opened.manifest
        told = told or settings_of(opened)
        self.settings = Chat.model_validate_json(json.dumps(told["chat"]))
        about = (opened.path / export.ENCODER).read_text(encoding="utf-8")
        encoder = SentenceStatistics.model_validate_json(about)
        graph = opened.path / export.GRAPH
        embed = remembered(sentences.embedding(encoder, graph=graph), _LATEST)
        self._tokenize = tokens.tokenizing(encoder.model_copy(update={"longest": 1 << 20}))
        retriever = Retriever(stores.opened(UPath(opened.path)), embed, self.settings.retrieve)
        parts = Parts(self.settings.generate, embed, opened.path / export.MODEL)
        fitted = self._fitted(opened)
        router = intents.router(fitted, self.settings.intents, embed)
        self._chain = answer.chatting(retriever, parts, told["confidence"], router)

    def pieces(
        self, question: str, groups: Collection[str], before: Sequence[str] = ()
    ) -> Iterator[Piece]:
        """The answer to somebody who may read these groups, as it comes."""
        yield from self._chain.stream(Asked(question, groups, before))

    def answered(self, question: str, groups: Collection[str] = (PUBLIC,)) -> dict[str, Any]:
        """The whole answer as OpenAI's protocol has it."""
        completion = self.completion(self.manifest.name)
        for piece in self.pieces(question, groups):
            completion.took(piece)
        return completion.whole(question)

    def completion(self, name: str) -> Completion:
        """An answer to begin."""
        return Completion(name, self.manifest.version, self.settings.site, self.count)

    def groups_of(self, caller: str) -> frozenset[str]:
        """The groups that a caller may read, who is `key NAME` to the gate."""
        kind, _, name = caller.partition(" ")
        opened = {
            group
            for group, access in self.settings.access.items()
            if kind == "key" and name in access.keys
        }
        return frozenset({PUBLIC, *opened})

    def count(self, text: str) -> int:
        """How many tokens of the encoder a text has."""
        return len(self._tokenize([text])[0])

    def _fitted(self, opened: Bundle) -> Fitted | None:
        if self.settings.intents is None:
            return None
        return Fitted.model_validate_json((opened.path / intents.FILE).read_bytes())


def settings_of(opened: Bundle) -> dict[str, Any]:
    """What a bundle says of its chatbot: `chat`, the job's section, and `confidence`."""
    told: dict[str, Any] = json.loads((opened.path / export.SETTINGS).read_text(encoding="utf-8"))
    return told
