"""Sections as passages: of a length that an encoder reads whole, each with its section."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ray_pipeline.chat import documents
from ray_pipeline.chat.documents import Document, Section
from ray_pipeline.chat.injected import cleared
from ray_pipeline.chat.words import count, sentences
from ray_pipeline.job.chat import Chat, Chunks

PATH = " › "
"""What stands between headings."""
_BETWEEN = "\n\n"


class Passage(NamedTuple):
    """A part of a section: what is found, quoted and cited."""

    digest: str
    """Of what is searched: equal ones have equal vectors."""
    document: str
    source: str
    section: str
    """The section that it is of, by its document and number there."""
    place: int
    """Which part of the section it is, from 0."""
    headings: str
    """From the outermost to the section's own, with PATH between them."""
    group: str
    text: str
    searched: str
    """Headings and text."""


class Read(NamedTuple):
    """What became of a document: its passages, how many sections it has, or why it has none; and
    the sentences that were left out because they speak to a language model."""

    passages: list[Passage]
    sections: int
    fault: str = ""
    removed: tuple[str, ...] = ()


def read(document: Document, settings: Chat) -> Read:
    """The passages of a document, personal data masked."""
    try:
        found = documents.sections(document)
    except (ValueError, OSError) as error:
        return Read([], 0, str(error))
    removed: list[str] = []
    if settings.instructions == "drop":
        parts_of = [(section, cleared(section.blocks)) for section in found]
        found = [section._replace(blocks=kept.blocks) for section, kept in parts_of]
        removed = [sentence for _, kept in parts_of for sentence in kept.removed]
    found = [_masked(section, settings.mask) for section in found]
    passages = [
        passage
        for number, section in enumerate(found)
        for passage in _passages(document, number, section, settings.chunks)
    ]
    return Read(passages, len(found), removed=tuple(removed))


def searched_of(headings: Sequence[str], text: str) -> str:
    """What a passage is found by."""
    return "\n".join([*([PATH.join(headings)] if headings else []), text])


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def parts(blocks: Sequence[str], settings: Chunks) -> list[str]:
    """Blocks as texts of at most `longest` words: whole blocks where they fit, else whole
    sentences, else words; each begins with the last sentences of the one before."""
    made: list[str] = []
    held: list[str] = []
    for piece in _pieces(blocks, settings.longest):
        if held and sum(map(count, held)) + count(piece) > settings.longest:
            made.append(_joined(held))
            room = min(settings.overlap, settings.longest - count(piece))
            held = _last_sentences(made[-1], room)
        held.append(piece)
    return [*made, _joined(held)] if held else made


def _pieces(blocks: Sequence[str], longest: int) -> Iterator[str]:
    for block in blocks:
        if count(block) <= longest:
            yield block
            continue
        for sentence in sentences(block):
            words = sentence.split()
            if len(words) <= longest:
                yield sentence
            else:
                for start in range(0, len(words), longest):
                    yield " ".join(words[start : start + longest])


def _last_sentences(text: str, words: int) -> list[str]:
    """The last sentences of each of the last blocks, as far as they fit."""
    kept: list[str] = []
    for block in reversed(text.split(_BETWEEN)):
        last: list[str] = []
        for sentence in reversed(sentences(block)):
            words -= count(sentence)
            if words < 0:
                break
            last.insert(0, sentence)
        if last:
            kept.insert(0, " ".join(last))
        if words < 0:
            break
    return kept


def _joined(held: Sequence[str]) -> str:
    return _BETWEEN.join(held)


def _passages(
    document: Document, number: int, section: Section, settings: Chunks
) -> Iterator[Passage]:
    for place, text in enumerate(parts(section.blocks, settings)):
        searched = searched_of(section.headings, text)
        yield Passage(
            digest_of(searched),
            document.name,
            section.source,
            f"{document.name} {number}",
            place,
            PATH.join(section.headings),
            document.group,
            text,
            searched,
        )


def _masked(section: Section, entities: Sequence[str]) -> Section:
    from ray_pipeline.data.privacy import recognise

    return section._replace(
        headings=tuple(recognise.masked(section.headings, entities)),
        blocks=tuple(recognise.masked(section.blocks, entities)),
    )
