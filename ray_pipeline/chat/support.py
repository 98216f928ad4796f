"""Which passage says what a sentence says: by their words, and by what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

from ray_pipeline.chat.words import denies, numbers, sentences, stems

_WORD = re.compile(r"\w+")
SUPPORTED = 0.6
"""The share of a sentence's words that its passage must have."""

ALIKE = 0.7
"""Cosine of a sentence and what bears it out."""
_TOGETHER = 2
"""Sentences of a passage, one after the other, that may bear one out together."""


class Known(NamedTuple):
    """What is compared of a passage: its words in order, where in them a sentence begins or ends,
    which of them carry meaning, its numbers, and of each of its sentences the words and whether it
    denies something."""

    plain: str
    ends: frozenset[int]
    stems: set[str]
    numbers: set[str]
    sentences: list[tuple[set[str], bool]]


@lru_cache(4096)
def known(text: str) -> Known:
    """A passage's text, to compare sentences with; the same passages are found again and again."""
    whole = sentences(text)
    plains = [plain(sentence) for sentence in whole]
    ends = frozenset(accumulate(map(len, plains), initial=0))
    parts = [(stems(sentence), denies(sentence)) for sentence in whole]
    return Known("".join(plains), ends, stems(text), numbers(text), parts)


def supporting(sentence: str, passages: Sequence[Known]) -> int | None:
    """Which passage has most of the sentence's words, from 0; None where none has enough of them,
    all of its numbers, and denies what it denies."""
    words = stems(sentence)
    if not words or not passages:
        return None
    shares = [_share(sentence, words, passage) for passage in passages]
    best = max(range(len(shares)), key=lambda at: (shares[at], -at))
    return best if shares[best] >= SUPPORTED else None


def borne_out(sentence: str, passage: str, embed: Callable[[Sequence[str]], Any]) -> bool:
    """Whether a passage says what a sentence says: word for word, or its nearest sentences mean the
    same by the encoder, deny what it denies, and the passage has each of its numbers."""
    if quoted(sentence, known(passage)):
        return True
    if numbers(sentence) - numbers(passage):
        return False
    parts = sentences(passage)
    spans = [
        " ".join(parts[at : at + n]) for n in range(1, _TOGETHER + 1) for at in range(len(parts))
    ]
    vectors = embed([sentence, *spans])
    likeness = vectors[1:] @ vectors[0]
    nearest = int(likeness.argmax())
    return bool(likeness[nearest] >= ALIKE and denies(sentence) == denies(spans[nearest]))


def quoted(text: str, passage: Known) -> bool:
    """Whether a text is whole sentences of a passage, word for word; line breaks and signs make no
    difference."""
    words = plain(text)
    start = passage.plain.find(words) if words else -1
    while start >= 0:
        if start in passage.ends and start + len(words) in passage.ends:
            return True
        start = passage.plain.find(words, start + 1)
    return False


def plain(text: str) -> str:
    """A text's words alone, with a space after each."""
    return "".join(f"{word} " for word in _WORD.findall(text.lower()))


def _share(sentence: str, words: set[str], passage: Known) -> float:
    if quoted(sentence, passage):
        return 1.0
    if numbers(sentence) - passage.numbers:
        return 0.0
    nearest = max(passage.sentences, key=lambda part: len(part[0] & words), default=None)
    if nearest is None or nearest[1] != denies(sentence):
        return 0.0
    return len(words & passage.stems) / len(words)
