"""Questions in the words of those who ask, and the headings of what answers them.

Titles ask in the documents' own words, and well. People do not, so that what finds an answer to a
title need not find it for them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from pydantic import Field

from ray_pipeline.chat import lines, scored
from ray_pipeline.chat.chunks import Passage
from ray_pipeline.chat.scored import Asked
from ray_pipeline.chat.support import plain
from ray_pipeline.errors import DataError
from ray_pipeline.job.base import Settings


class Paraphrase(Settings):
    """One line of the file."""

    question: str = Field(min_length=1, max_length=4000)
    headings: tuple[str, ...] = Field(
        min_length=1, description="What stands above the sections that answer it."
    )


def read(path: str | None) -> list[tuple[str, Paraphrase]]:
    """The paraphrases in a file, and where each is. Raises DataError: it cannot be read, holds
    none, or in which line something is wrong."""
    if path is None:
        return []
    found = list(lines.records(path, Paraphrase))
    if not found:
        raise DataError("holds no question", where=path, expected="a JSON object on each line")
    return found


def asked(told: Sequence[tuple[str, Paraphrase]], passages: Sequence[Passage]) -> Asked:
    """What is asked, all sections, and those that answer: below one of the headings.

    Raises:
        DataError: there is no such heading in the documents, and in which line.
    """
    below = scored.below(passages, plain)
    answers = [(one.question, set(_sections(one, where, below))) for where, one in told]
    return scored.asked(passages, answers)


def _sections(one: Paraphrase, where: str, below: dict[str, set[str]]) -> Iterator[str]:
    for heading in one.headings:
        words = plain(heading)
        if words not in below:
            near = difflib.get_close_matches(words, below, n=1)
            raise DataError(
                f"no document has the heading {heading!r}",
                where=where,
                expected="a heading of the documents, as it stands there",
                hint=f"did you mean {near[0].strip()!r}?" if near else "",
            )
        yield from below[words]
