"""Prompts with answers, and transcripts of chats, as tokens that a language model learns from.

The model learns to foretell what the assistant says and nothing else: the tokens of prompts, of
other roles, and of the template between them are read but do not count.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_pipeline.data.encoders.tokens import absent
from ray_pipeline.data.matrices import PADDING
from ray_pipeline.data.statistics import ChatStatistics, LabelStatistics, Statistics
from ray_pipeline.data.summary import Moments
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.job import Features
from ray_pipeline.schema import Schema

Message = dict[str, Any]
Piece = tuple[str, bool]
"""A part of a row's text, and whether the model is to foretell it."""
Pieces = Callable[[pa.Table], list[list[Piece]]]


class Encoded(NamedTuple):
    """Of N rows, lists of integers: all tokens, and with PADDING instead of those that do not
    count; the tokens that do count [N]; and how many rows were cut."""

    tokens: pa.ListArray
    targets: pa.ListArray
    counts: NDArray[np.int64]
    cut: int

    def prepared(self) -> pa.Table:
        """The rows as they are stored for training."""
        return pa.table({"tokens": self.tokens, "targets": self.targets, "label": self.counts})


class Lengths(NamedTuple):
    """How many tokens answers have, and how many rows were cut."""

    tokens: Moments
    cut: int

    def merged(self, other: Lengths) -> Lengths:
        return Lengths(self.tokens + other.tokens, self.cut + other.cut)


def check(features: Features, schema: Schema) -> None:
    """Raises JobError unless the label is answered to one text, or is of transcripts itself."""
    label, others = schema.label.name, [column.name for column in schema.features]
    transcript = features.of(label).text == "tokens"
    read = [name for name in others if features.of(name).text == "tokens"]
    if len(others) != (0 if transcript else 1) or others != read:
        raise JobError(
            f"a language model cannot read {', '.join(others) or 'nothing'} to say `{label}`",
            where="data.columns",
            expected="no other column besides transcripts"
            if transcript
            else "one text column, the prompts, with `text: tokens`",
            hint="give other columns the role `ignore`",
        )


def fitted(features: Features, schema: Schema) -> ChatStatistics | None:
    """What the base model of a text column knows of chats; None where the label is no text.

    Raises:
        JobError: its tokenizer cannot be loaded, or transformers is not installed.
    """
    if schema.label.kind != "text":
        return None
    read = [*schema.features, schema.label]
    name = next(column.name for column in read if features.of(column.name).text == "tokens")
    settings = features.of(name)
    base = settings.encoder or ""
    found = tokenizer_of(base)
    return ChatStatistics(
        name=name,
        base=base,
        tokenizer=found.backend_tokenizer.to_str(),
        longest=settings.longest,
        template=found.chat_template or "",
        begin=found.bos_token or "",
        end=found.eos_token or "",
    )


def tokenizer_of(base: str) -> Any:
    """The tokenizer of transformers in a local folder, or of a hub's id. Raises JobError."""
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError:
        raise absent() from None
    try:
        return AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise JobError(
            f"`{base}` cannot be loaded: {str(error).strip().splitlines()[0]}",
            where="data.features.columns.….encoder",
            expected="a folder or a hub's id with config.json, model.safetensors, tokenizer.json",
        ) from error


def lengths(chat: ChatStatistics, label: str, rows: pa.Table) -> Lengths:
    """The lengths of the answers in `rows`."""
    encoded = encoding(chat, label)(rows)
    return Lengths(Moments.of(encoded.counts.astype(float)), encoded.cut)


def label_of(name: str, answers: Lengths) -> LabelStatistics:
    """The statistics of the label: how long answers are. Raises DataError if none is left."""
    counted = answers.tokens
    if not counted.maximum > 0:
        raise DataError(
            "no answer is left of the training rows: their prompts alone are too long",
            where=f"column {name}",
            hint="raise `longest` under `data.features.columns`",
        )
    return LabelStatistics(name=name, classes=None, mean=counted.mean, deviation=counted.deviation)


def described(statistics: Statistics) -> dict[str, Any]:
    """How long the training rows' answers are, and how many rows were cut for their length."""
    assert statistics.chat is not None
    return {
        "tokens_mean": round(statistics.label.mean, 1),
        "longest": statistics.chat.longest,
        "rows_cut": statistics.chat.cut,
    }


def encoding(chat: ChatStatistics, label: str) -> Callable[[pa.Table], Encoded]:
    """A function from rows with a prompt and, as their `label`, an answer or a transcript.

    Pieces are made into tokens one by one: at an answer's beginning the tokens are those that the
    model will have seen when it has to answer. Rows are cut after `longest` tokens.

    Raises (the function): DataError for a text that is no transcript.
    """
    tokenizer = _tokenizer(chat)
    pieces = _transcripts(chat, tokenizer) if chat.name == label else _answers(chat, tokenizer)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    # What a text begins with, say <s>; templates write it themselves.
    opening = [] if chat.template else backend.encode("").ids

    def encoded(rows: pa.Table) -> Encoded:
        found = pieces(rows.select([chat.name] if chat.name == label else [chat.name, label]))
        flat = list(itertools.chain.from_iterable(found))
        made = iter(backend.encode_batch([text for text, _ in flat], add_special_tokens=False))
        tokens, targets, cut = [], [], 0
        for row in found:
            ids, counted = list(opening), [False] * len(opening)
            for (_, spoken), piece in zip(row, made, strict=False):
                ids += piece.ids
                counted += [spoken] * len(piece.ids)
            cut += len(ids) > chat.longest
            read = np.array(ids[: chat.longest], np.int32)
            tokens.append(read)
            targets.append(np.where(counted[: chat.longest], read, np.int32(PADDING)))
        counts = np.array([(row != PADDING).sum() for row in targets], np.int64)
        return Encoded(_lists(tokens), _lists(targets), counts, cut)

    return encoded


def _tokenizer(chat: ChatStatistics) -> Any:
    try:
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast
    except ModuleNotFoundError:
        raise absent() from None
    special = {"bos_token": chat.begin, "eos_token": chat.end}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(chat.tokenizer),
        chat_template=chat.template or None,
        **{name: text for name, text in special.items() if text},
    )


def _answers(chat: ChatStatistics, tokenizer: Any) -> Pieces:
    """A function from rows of prompt and answer to their pieces."""

    def plain(prompt: str, answer: str) -> list[Piece]:
        return [(prompt + "\n", False), (answer + chat.end, True)]

    def templated(prompt: str, answer: str) -> list[Piece]:
        said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        return _spoken(tokenizer, said)

    make = templated if chat.template else plain

    def pieces(rows: pa.Table) -> list[list[Piece]]:
        prompts, answers = (column.cast(pa.string()).to_pylist() for column in rows.columns)
        return [make(p or "", a) for p, a in zip(prompts, answers, strict=True)]

    return pieces


def _transcripts(chat: ChatStatistics, tokenizer: Any) -> Pieces:
    """A function from rows of one transcript each, as JSON, to their pieces."""
    if not chat.template:
        raise JobError(
            f"`{chat.base}` has no chat template",
            where=f"data.features.columns.{chat.name}",
            expected="a base that was made for chats, to write transcripts as it knows them",
            hint="give prompts and answers in two columns, or take a base for chats",
        )

    def pieces(rows: pa.Table) -> list[list[Piece]]:
        texts = rows.column(0).cast(pa.string()).to_pylist()
        return [_spoken(tokenizer, _messages(text, chat.name)) for text in texts]

    return pieces


def _messages(text: str, column: str) -> list[Message]:
    """A transcript's messages. Raises DataError, which does not repeat what people said."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    listed = isinstance(found, list) and all(
        isinstance(each, dict) and isinstance(each.get("role"), str) and "content" in each
        for each in found
    )
    if not listed or not any(each["role"] == "assistant" for each in found):
        raise DataError(
            "a text is no transcript with an answer",
            where=f"column {column}",
            expected='JSON like [{"role": "user", "content": "…"}, {"role": "assistant", …}]',
            hint="leave such rows out, or write prompts and answers in two columns",
        )
    messages: list[Message] = found
    return messages


def _spoken(tokenizer: Any, messages: list[Message]) -> list[Piece]:
    """A chat's text in pieces, as the template writes it; those that count are the assistant's.

    Raises:
        DataError: the template refuses the chat, or writes a beginning of it in another way.
    """
    pieces: list[Piece] = []
    done = ""
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        for said, spoken in ((messages[:place], False), (messages[: place + 1], True)):
            whole = _rendered(tokenizer, said, ask=not spoken)
            if not whole.startswith(done):
                raise DataError(
                    "the base's chat template writes earlier messages in another way later on",
                    where="data.features.columns",
                    expected="chats with one answer, at their end",
                )
            pieces.append((whole[len(done) :], spoken))
            done = whole
    return pieces


def _rendered(tokenizer: Any, messages: list[Message], ask: bool) -> str:
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=ask
        )
    except TemplateError as error:
        raise DataError(
            f"the base's chat template refuses a chat: {error}",
            where="data.features.columns",
            hint="bring the messages into the order of roles that the template wants",
        ) from error
    return text


def _lists(rows: list[NDArray[np.int32]]) -> pa.ListArray:
    ends = np.cumsum([0, *map(len, rows)])
    flat = np.concatenate([np.empty(0, np.int32), *rows])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(flat, pa.int32()))
