"""An opened bundle of a chatbot, ready to be asked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from upath import UPath

from ray_pipeline.bundle import Bundle
from ray_pipeline.chat import answer, far, intents, opened, stores
from ray_pipeline.chat.answer import Asked, Gone, Piece, nobody_went
from ray_pipeline.chat.generators import Message, Parts
from ray_pipeline.chat.intents import Fitted
from ray_pipeline.chat.protocol import Completion
from ray_pipeline.chat.remembered import remembered
from ray_pipeline.chat.retriever import Embed, Retriever
from ray_pipeline.data.encoders import tokens
from ray_pipeline.errors import BundleError
from ray_pipeline.job.chat import PUBLIC

_LATEST = 64
"""Texts whose vectors are at hand: a question's is wanted to route it, to search, and to quote."""


class Bot:
    """Answers questions from a bundle's documents.

    Args:
        found: the bundle.
        told: its settings, if they are not to be those in it.
        apart: Ray Serve's handles of the parts that have replicas of their own (`parts.py`), by
            name; with any, it is made on the event loop that they belong to.

    Raises:
        BundleError: the bundle is none of a chatbot.
        PipelineError: the generator cannot be made, or the environment has no variable that the
            index's server is reached by.
    """

    def __init__(
        self,
        found: Bundle,
        told: dict[str, Any] | None = None,
        apart: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        if found.manifest.task != "chat":
            raise BundleError(
                f"a bundle for {found.manifest.task}",
                where=str(found.path),
                expected="one of a job with a `chat` section",
            )
        self.manifest = found.manifest
        told = told or opened.settings_of(found)
        self.settings = opened.chat_of(told)
        encoder = opened.encoder_of(found)
        embed = remembered(_embedding(found, apart.get("encoder")), _LATEST)
        self._tokenize = tokens.tokenizing(encoder.model_copy(update={"longest": 1 << 20}))
        passages, score = stores.opened(UPath(found.path)), opened.scoring(found)
        retriever = Retriever(passages, embed, self.settings.retrieve, score)
        self._retriever = retriever
        parts = Parts(self.settings.generate, embed, opened.model(found))
        router = intents.router(self._fitted(found), self.settings.intents, embed)
        writer = far.generator(apart["generator"]) if "generator" in apart else None
        self._chain = answer.chatting(retriever, parts, told["confidence"], router, writer)

    def pieces(
        self,
        question: str,
        groups: Collection[str],
        before: Sequence[str] = (),
        gone: Gone = nobody_went,
    ) -> Iterator[Piece]:
        """The answer to somebody who may read these groups, as it comes, until they are `gone`."""
        yield from self._chain.stream(Asked(question, groups, before, gone))

    def told(self, question: str, groups: Collection[str] = (PUBLIC,)) -> list[Message]:
        """What a language model is told of a question: the rules, the passages, the question."""
        found = self._retriever.found(question, groups)
        return answer.messages(question, self._retriever.kept(question, found))

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

    def _fitted(self, found: Bundle) -> Fitted | None:
        if self.settings.intents is None:
            return None
        return Fitted.model_validate_json((found.path / intents.FILE).read_bytes())


def _embedding(found: Bundle, handle: Any) -> Embed:
    """The bundle's encoder, here or behind the handle."""
    if handle is None:
        return opened.embedding(found)
    return far.FarEncoder(handle, opened.digest(found), partial(opened.embedding, found))
