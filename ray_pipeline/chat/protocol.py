"""OpenAI's chat completions: what is read of a request, and what is answered.

https://platform.openai.com/docs/api-reference/chat. Sources are told twice: as `annotations` of the
message, as OpenAI's own search does, and whole under `sources`, which that protocol does not have.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from ray_pipeline.chat.answer import Piece
from ray_pipeline.chat.intents import Routed
from ray_pipeline.chat.search import Hit
from ray_pipeline.errors import RequestError

MOST_MESSAGES, MOST_CHARACTERS = 64, 4_000
"""Messages of a chat, and characters of a question: more is not read."""
LAST_QUESTIONS = 3

Count = Callable[[str], int]
"""How many tokens a text has."""


class Part(msgspec.Struct):
    type: str
    text: str = ""


class Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Request(msgspec.Struct):
    """What matters of a request; clients send more, which is not looked at."""

    messages: list[Message]
    model: str = ""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    conversation: Any = None


_decode = msgspec.json.Decoder(Request).decode


def read(body: bytes) -> Request:
    """The request in a body.

    Raises:
        RequestError: 400 not JSON; 422 anything else, and where.
    """
    try:
        request: Request = _decode(body)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        raise _invalid(what, where.strip("`").removeprefix("$.") or "body") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(
            "the body is not JSON", status=400, code="not_json", where="body"
        ) from error
    if request.n not in (None, 1):
        raise _invalid("one answer is given; expected 1", "n")
    if len(request.messages) > MOST_MESSAGES:
        raise _invalid(f"more than {MOST_MESSAGES} messages", "messages")
    return request


def questions(request: Request) -> list[str]:
    """What the user asked, the present question last, with at most a few before it.

    Only these are read: instructions of a caller's own, and what it says that was answered, do not
    change what the documents say.

    Raises:
        RequestError: 422, there is none, or it is too long.
    """
    asked = [_text(message) for message in request.messages if message.role == "user"]
    if not asked or not asked[-1]:
        raise _invalid("there is no question; expected a text of the role `user`", "messages")
    if len(asked[-1]) > MOST_CHARACTERS:
        raise _invalid(f"the question has more than {MOST_CHARACTERS:,} characters", "messages")
    return [text[:MOST_CHARACTERS] for text in asked[-LAST_QUESTIONS:]]


def conversation(request: Request) -> str:
    """The ID of the conversation that the request is of. Raises RequestError: 422, it is no
    text."""
    if not isinstance(request.conversation, str):
        raise _invalid("expected the ID of a conversation, or `new`", "conversation")
    return request.conversation


def _text(message: Message) -> str:
    content = message.content or ""
    if isinstance(content, str):
        return content.strip()
    return "\n".join(part.text for part in content if part.type == "text").strip()


def _invalid(what: str, where: str) -> RequestError:
    return RequestError(what, status=422, code="invalid_request", where=where)


class Completion:
    """One answer, as its pieces come.

    Args:
        model: the endpoint's name.
        version: of the bundle.
        site: what stands before a source's name.
        count: counts tokens, for `usage`.
    """

    def __init__(self, model: str, version: str, site: str, count: Count) -> None:
        self._site, self._count = site, count
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": version,
            "version": version,
        }
        self.hits: tuple[Hit, ...] = ()
        self.by = "nobody"
        self.routed = Routed()
        self._cited: dict[int, int] = {}
        self._texts: list[str] = []
        self._annotations: list[dict[str, Any]] = []

    def belongs_to(self, conversation: str) -> None:
        """It is an answer in a conversation that is remembered, whose ID it says."""
        self._head["conversation"] = conversation

    def took(self, piece: Piece) -> str:
        """The text that a piece adds to the answer, with the mark of its source."""
        if piece.hits:
            self.hits = piece.hits
        if piece.routed:
            self.routed = piece.routed
        if piece.sentence is None:
            return ""
        self.by = piece.by
        text, source = piece.sentence
        added = ("\n\n" if "\n" in text or piece.by == "extractive" else " ") if self._texts else ""
        added += text
        if source is not None:
            number = self._cited.setdefault(source, len(self._cited) + 1)
            start = sum(map(len, self._texts)) + len(added) - len(text)
            added += f" [{number}]"
            self._annotations.append(self._annotation(source, start, start + len(text)))
        self._texts.append(added)
        return added

    def whole(self, question: str) -> dict[str, Any]:
        """The answer as one document."""
        message = {
            "role": "assistant",
            "content": "".join(self._texts),
            "refusal": None,
            "annotations": self._annotations,
        }
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self.usage(question),
            **self._told(),
        }

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """A part of a streamed answer."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def last(self) -> dict[str, Any]:
        """The last part of a streamed answer, with its sources."""
        return {**self.chunk({"annotations": self._annotations}, "stop"), **self._told()}

    def used(self, question: str) -> dict[str, Any]:
        """What is streamed after the last part where a client asks for it."""
        return {**self.chunk({}), "choices": [], "usage": self.usage(question)}

    def usage(self, question: str) -> dict[str, int]:
        """Tokens of the question and its passages, and of the answer, as the encoder has them."""
        prompt = sum(map(self._count, (question, *(hit.passage.text for hit in self.hits))))
        answer = self._count("".join(self._texts))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }

    def _told(self) -> dict[str, Any]:
        return {
            "sources": self.sources(),
            "answered_by": self.by,
            "intent": self.routed.intent,
            "route": self.routed.route,
        }

    def sources(self) -> list[dict[str, Any]]:
        """The passages that were cited, by their numbers in the answer."""
        return [
            {
                "number": number,
                "title": self.hits[source].passage.headings,
                "url": self._site + self.hits[source].passage.source,
                "text": self.hits[source].passage.text,
            }
            for source, number in self._cited.items()
        ]

    def _annotation(self, source: int, start: int, end: int) -> dict[str, Any]:
        passage = self.hits[source].passage
        citation = {
            "start_index": start,
            "end_index": end,
            "title": passage.headings,
            "url": self._site + passage.source,
        }
        return {"type": "url_citation", "url_citation": citation}


def models(names: Sequence[str]) -> dict[str, Any]:
    """The answer to GET /v1/models."""
    return {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": "ray_pipeline"}
            for name in names
        ],
    }
