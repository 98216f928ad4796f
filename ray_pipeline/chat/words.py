"""Sentences and the words in them that carry meaning."""

from __future__ import annotations

import re

_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9ÄÖÜÉÀ])|\n{2,}")
_ABBREVIATED = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Mr|Mrs|Ms|Dr|No|St)\.|\b[A-Z]\.)$")
_WORD = re.compile(r"[^\W_]+(?:[.'’+-][^\W_]+)*")
_LITTLE = """
a about above after again all also am an and any are as at be because been before being below
between both but by can could did do does doing down during each few for from further get had has
have having he her here hers him his how i if in into is it its itself just may me might more most
must my no nor not now of off on once one only or other our ours out over own same shall she
should so some such than that the their them then there these they this those through to too under
until up upon us use used using very was we were what when where which while who whom why will
with would you your yours
"""
_DENIAL = re.compile(
    r"\b(?:not|no|never|nor|neither|none|cannot|without)\b|n['’]t\b", re.IGNORECASE
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_COMMON = frozenset(_LITTLE.split())
_ENDINGS = ("ations", "ation", "ings", "ing", "edly", "ies", "ed", "es", "ly", "s", "e")
_LEAST = 3
"""Letters of a word that its ending leaves."""
_FRAGMENT = 4
"""McNamee & Mayfield, "Character N-Gram Tokenization for European Language Text Retrieval" (2004),
find four letters to be best."""


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order; line breaks inside are kept, those between are not."""
    found: list[str] = []
    start = 0
    for gap in _END.finditer(text):
        # A closing quotation mark belongs to the sentence before the gap.
        end = gap.start() + len(gap.group()) - len(gap.group().lstrip("\"'”’)]"))
        if "\n\n" not in gap.group() and _ABBREVIATED.search(text[start:end].rstrip()):
            continue
        found.append(text[start:end])
        start = gap.end()
    return [kept for part in (*found, text[start:]) if (kept := part.strip())]


def stems(text: str) -> set[str]:
    """The words of a text without the commonest ones, in lower case and without endings."""
    words = (word.group().lower() for word in _WORD.finditer(text))
    return {_stem(word) for word in words if word not in _COMMON}


def fragments(text: str) -> str:
    """Each four letters in a row of each word but the commonest, with white space between them:
    `upgrade` and `upgrading` have most of theirs in common. `_` stands for a word's ends."""
    words = (word.group().lower() for word in _WORD.finditer(text))
    ended = [f"_{word}_" for word in words if word not in _COMMON]
    return " ".join(
        word[start : start + _FRAGMENT]
        for word in ended
        for start in range(max(1, len(word) - _FRAGMENT + 1))
    )


def denies(text: str) -> bool:
    """Whether a text says of something that it is not so: an odd number of denials."""
    return len(_DENIAL.findall(text)) % 2 == 1


def numbers(text: str) -> set[str]:
    """The numbers in a text, as they are written."""
    return set(_NUMBER.findall(text))


def count(text: str) -> int:
    """How many words a text has, as they are parted by white space."""
    return len(text.split())


def _stem(word: str) -> str:
    ending = next((e for e in _ENDINGS if word.endswith(e) and len(word) - len(e) >= _LEAST), "")
    return word[: len(word) - len(ending)] if ending else word
