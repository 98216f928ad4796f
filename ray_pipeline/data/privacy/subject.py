"""One person, as what is stored names them: by their ID, or by its hash under any key."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.data import parsing
from ray_pipeline.data.privacy.keys import Key

_LONG_ENOUGH = 5
"""Characters of an ID that can be looked for in free text: `42` is in every file."""
ERASED = "<erased>"


@dataclass(frozen=True)
class Subject:
    """The ID and its hashes. Never shown: `repr` gives the hash that the tombstone has."""

    texts: frozenset[str]
    hash: str

    @classmethod
    def of(cls, id_: str, known: Sequence[Key]) -> Subject:
        """The person called `id_`; the current key is the first."""
        hashes = [key.hashed(id_) for key in known]
        return cls(frozenset({id_.strip(), *hashes}), hashes[0])

    def __repr__(self) -> str:
        return f"Subject({self.hash})"

    @property
    def searchable(self) -> bool:
        """Whether the ID is long enough to be looked for in free text."""
        return all(len(text) >= _LONG_ENOUGH for text in self.texts)

    @cached_property
    def word(self) -> str:
        """A regular expression for the ID or a hash, alone, as JSON and HTML may spell it."""
        long = [text for text in self.texts if len(text) >= _LONG_ENOUGH]
        spelled = {
            form for text in long for form in (text, json.dumps(text)[1:-1], html.escape(text))
        }
        return r"(?:^|[^\w-])(" + "|".join(map(re.escape, sorted(spelled))) + r")(?:$|[^\w-])"

    def rows(self, values: Any) -> Any:
        """Which values of a column are this person's, [N] without nulls."""
        texts = parsing.as_texts(values)
        return pc.fill_null(pc.is_in(texts, pa.array(sorted(self.texts))), False)

    def fields(self, raw: Any) -> Any:
        """Which lines of quarantined rows hold the ID or a hash as one of their fields, [N]."""
        alone = "|".join(map(re.escape, sorted(self.texts)))
        pattern = rf'(?s)(^|[,;\t"\s])({alone})($|[,;\t"\s])'
        return pc.fill_null(pc.match_substring_regex(raw, pattern), False)

    def mentions(self, values: Any) -> int:
        """In how many values the ID or a hash stands as a word; those that are it included."""
        found = pc.match_substring_regex(parsing.as_texts(values), self.word)
        return int(pc.sum(found).as_py() or 0)

    def without(self, text: str) -> str:
        """A text with ERASED in the place of the ID and its hashes."""
        pattern = re.compile(self.word)
        # Twice: of two that stand one space apart, the first match takes the space.
        return pattern.sub(_erased, pattern.sub(_erased, text))


def _erased(match: re.Match[str]) -> str:
    return match[0].replace(match[1], ERASED)
