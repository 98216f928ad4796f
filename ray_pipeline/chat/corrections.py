"""Answers that people put right: question and answer, indexed beside the documents.

A question that is asked again in the same words is answered from its correction alone; one in other
words finds it as any passage.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from ray_pipeline.chat import lines
from ray_pipeline.chat.chunks import Passage, digest_of, parts, searched_of
from ray_pipeline.chat.injected import cleared
from ray_pipeline.chat.support import plain
from ray_pipeline.data.privacy import recognise
from ray_pipeline.errors import DataError
from ray_pipeline.job import Chat
from ray_pipeline.job.base import Settings
from ray_pipeline.job.chat import PUBLIC

DOCUMENT = "corrections"
"""What their passages' document is called; a real document's name has an ending."""
LONGEST_QUESTION, LONGEST_ANSWER = 4_000, 20_000
"""Characters."""


class Correction(Settings):
    """One line of the file."""

    question: str = Field(min_length=1, max_length=LONGEST_QUESTION)
    answer: str = Field(min_length=1, max_length=LONGEST_ANSWER)
    group: str = Field(PUBLIC, description="Who may read it: one of `access`, or everybody.")
    source: str = Field(DOCUMENT, description="What readers are shown as its place.")


def read(settings: Chat, told: Sequence[Correction] = ()) -> list[Correction]:
    """The corrections in the job's file, and those that were `told` of questions that it does not
    have; of several to a question the last.

    Raises:
        DataError: it cannot be read, and in which line, or a group is none of the job's.
    """
    known = (PUBLIC, *settings.access)
    made = {_key(one): one for one in told if one.group in known}
    return list((made | {_key(one): one for one in _filed(settings)}).values())


def _key(one: Correction) -> tuple[str, str]:
    return plain(one.question), one.group


def _filed(settings: Chat) -> list[Correction]:
    if settings.corrections is None:
        return []
    made, groups = [], (PUBLIC, *settings.access)
    for where, one in lines.records(settings.corrections, Correction):
        if one.group not in groups:
            expected = ", ".join(groups)
            raise DataError(f"there is no group {one.group}", where=where, expected=expected)
        made.append(one)
    return made


def passages(corrections: Sequence[Correction], settings: Chat) -> list[Passage]:
    """Their passages, treated as those of documents are."""
    return [
        passage
        for number, one in enumerate(corrections)
        for passage in _passages(number, one, settings)
    ]


def _passages(number: int, one: Correction, settings: Chat) -> list[Passage]:
    blocks: Sequence[str] = one.answer.split("\n\n")
    if settings.instructions == "drop":
        blocks = cleared(blocks).blocks
    title, *blocks = recognise.masked((one.question, *blocks), settings.mask)
    made = []
    for place, text in enumerate(parts(blocks, settings.chunks)):
        searched = searched_of([title], text)
        made.append(
            Passage(
                digest_of(searched),
                DOCUMENT,
                one.source,
                f"{DOCUMENT} {number}",
                place,
                title,
                one.group,
                text,
                searched,
            )
        )
    return made
