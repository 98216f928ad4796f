"""Documents as sections: what stands below a heading, with the headings above it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.data.media import documents
from ray_pipeline.data.media.extras import library
from ray_pipeline.data.media.found import EXTENSIONS, extension
from ray_pipeline.errors import DataError
from ray_pipeline.job import Source
from ray_pipeline.job.chat import PUBLIC, Access

LARGEST = 64_000_000
"""Bytes of a document that is read."""
_ASIDE = ".toc, .navheader, .navfooter, [role=navigation], [hidden]"
_NAVIGATION = ["nav", "footer", "form", "button"]
_NUMBER = re.compile(r"^(?:chapter|section|appendix)?\s*(?:\d+(?:\.\d+)*|[A-Z])\.\s+", re.I)
_MARKDOWN_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")
_FENCE = re.compile(r"^\s*(```|~~~)")


class Section(NamedTuple):
    """Where it is found (below the source's folder, with its anchor), its headings from the
    outermost to its own, and its paragraphs, lists and listings."""

    source: str
    headings: tuple[str, ...]
    blocks: tuple[str, ...]


class Document(NamedTuple):
    """A file: where it is, its name below the source's folder, and who may read it."""

    path: UPath
    name: str
    group: str


def found(source: Source, access: Mapping[str, Access]) -> list[Document]:
    """The documents of a file, folder or glob, in the order of their names.

    Raises:
        DataError: there is none.
    """
    root = UPath(source.url)
    root.fs.invalidate_cache()
    paths = [path for path in sources.found(root) if extension(path.name) in READERS]
    if not paths:
        raise DataError(
            "there are no documents",
            where=source.url,
            expected=f"names that end in {', '.join(sorted(READERS))}",
            hint="the folder is relative to the job file",
        )
    folder = root.path.rstrip("/") if root.fs.isdir(root.path) else _folder_of(paths)
    names = [path.path[len(folder) :].lstrip("/") for path in paths]
    return [Document(p, n, _group(n, access)) for p, n in zip(paths, names, strict=True)]


def fingerprint(source: Source, access: Mapping[str, Access]) -> list[Any]:
    """What changes when a document does."""
    return [
        [document.name, document.path.fs.ukey(document.path.path)]
        for document in found(source, access)
    ]


def sections(document: Document) -> list[Section]:
    """The sections of a document that have a text.

    Raises:
        ValueError: it cannot be read; the message says why.
    """
    size = document.path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"has {size:,} bytes; {LARGEST:,} are read")
    read = READERS[extension(document.path.name)]
    made = [section for section in read(document) if any(section.blocks)]
    if not made:
        raise ValueError("holds no text")
    return made


def _group(name: str, access: Mapping[str, Access]) -> str:
    for group, given in access.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in given.documents):
            return group
    return PUBLIC


def _folder_of(paths: list[UPath]) -> str:
    parents = [PurePosixPath(path.path).parent for path in paths]
    common = parents[0]
    while any(common != parent and common not in parent.parents for parent in parents):
        common = common.parent
    return str(common)


class _Outline:
    """Sections as their headings and blocks come."""

    def __init__(self, document: Document) -> None:
        self._name, self._title = document.name, PurePosixPath(document.name).stem
        self._open: list[tuple[int, str]] = []
        self._source, self._blocks = self._name, list[str]()
        self.sections: list[Section] = []

    def heading(self, level: int, title: str, anchor: str | None) -> None:
        self.end()
        self._open = [*(each for each in self._open if each[0] < level), (level, title)]
        self._source = f"{self._name}#{anchor}" if anchor else self._name

    def block(self, text: str) -> None:
        self._blocks.append(text)

    def end(self) -> list[Section]:
        headings = tuple(title for _, title in self._open) or (self._title,)
        if self._blocks:
            self.sections.append(Section(self._source, headings, tuple(self._blocks)))
        self._blocks = []
        return self.sections


def _html(document: Document) -> list[Section]:
    lexbor = library("selectolax.lexbor", "documents")
    content = documents.decoded(documents.content_of(document.path))
    tree = lexbor.LexborHTMLParser(content)
    title = tree.css_first("title")
    tree.strip_tags([*documents.UNSEEN, *_NAVIGATION])
    for aside in tree.css(_ASIDE):
        aside.decompose()
    outline = _Outline(document)
    if title is not None and (named := _plain(title.text())):
        outline.heading(0, named, None)
    for tag, node, text in documents.blocks(tree.root) if tree.root else ():
        if tag in documents.HEADINGS:
            if shown := _plain(text):
                outline.heading(int(tag[1]), shown, _anchor(node))
        elif shown := (text.strip("\n") if tag == "pre" else " ".join(text.split())):
            outline.block(shown.replace("\xa0", " "))
    return [_without_twins(section) for section in outline.end()]


def _without_twins(section: Section) -> Section:
    """A page's title is most often that of its first heading, too."""
    first, *rest = section.headings
    return section._replace(headings=tuple(rest)) if rest and rest[0] == first else section


def _anchor(heading: Any) -> str | None:
    here = heading.attributes.get("id")
    inside = heading.css_first("[id]")
    found: str | None = here or (inside.attributes.get("id") if inside is not None else None)
    return found


def _plain(title: str) -> str:
    """A title in one line, without the number before it."""
    return _NUMBER.sub("", " ".join(title.split()))


def _markdown(document: Document) -> list[Section]:
    outline, held, fenced = _Outline(document), list[str](), False

    def flush() -> None:
        if text := "\n".join(held).strip("\n"):
            outline.block(text)
        held.clear()

    for line in _text_of(document).splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        heading = None if fenced else _MARKDOWN_HEADING.match(line)
        if heading:
            flush()
            outline.heading(len(heading[1]), _plain(heading[2]), _slug(heading[2]))
        elif not line.strip() and not fenced:
            flush()
        else:
            held.append(line)
    flush()
    return outline.end()


def _slug(title: str) -> str:
    """The anchor that servers of Markdown give a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-")


def _text(document: Document) -> list[Section]:
    outline = _Outline(document)
    for block in re.split(r"\n\s*\n", _text_of(document)):
        if shown := block.strip("\n"):
            outline.block(shown)
    return outline.end()


def _text_of(document: Document) -> str:
    try:
        return documents.content_of(document.path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text, at byte {error.start:,}") from error


def _pdf(document: Document) -> list[Section]:
    """A section a page, for a PDF's text does not say what a heading is."""
    title = PurePosixPath(document.name).stem
    made = []
    for number, row in documents.pdf_rows(document.path, Source(url=str(document.path))):
        if isinstance(row, str):
            raise ValueError(f"page {number}: {row}")
        blocks = [" ".join(part.split()) for part in re.split(r"\n\s*\n", row["text"])]
        kept = tuple(block for block in blocks if block)
        headings = (title, f"page {number}")
        made.append(Section(f"{document.name}#page={number}", headings, kept))
    return made


def _readers() -> Iterator[tuple[str, Callable[[Document], list[Section]]]]:
    kinds = {"html": _html, "text": _text, "pdf": _pdf}
    for kind, read in kinds.items():
        for ending in EXTENSIONS[kind]:  # type: ignore[index]
            yield ending, read
    yield ".md", _markdown


READERS: dict[str, Callable[[Document], list[Section]]] = dict(_readers())
"""What reads a document, by the ending of its name."""
