"""Text, HTML and PDF files as texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.data.media.extras import library
from ray_pipeline.job import Source

Found = tuple[int, dict[str, Any] | str]
"""A row's number in its file, and its values, or why it cannot be read."""

_UNSEEN = ["script", "style", "noscript", "template", "svg", "head"]
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_BLOCKS = _HEADINGS | {
    *("address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "details"),
    *("div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hr"),
    *("html", "legend", "li", "main", "nav", "ol", "option", "p", "pre", "section", "select"),
    *("summary", "table", "tbody", "td", "textarea", "tfoot", "th", "thead", "tr", "ul"),
}
_MARKS = {ord("\r"): None, 0: None, 2: None}  # PDFium writes 2 for a hyphen at a line's end
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9._:-]+)""", re.I)


def text_rows(path: UPath, source: Source) -> Iterator[Found]:
    """One row a file: `text`, as UTF-8, without a byte order mark."""
    content = _content(path)
    try:
        yield 1, {"text": content.decode("utf-8-sig")}
    except UnicodeDecodeError as error:
        yield 1, f"not UTF-8 text, found byte 0x{content[error.start]:02x} at {error.start:,}"


def html_rows(path: UPath, source: Source) -> Iterator[Found]:
    """One row a page, or with `sections` one a heading: `title`, `headings` and `text`.

    `text` holds a line for each block (paragraph, heading, list item, cell), its white space made
    single spaces; scripts, styles and what else no reader sees are left out. What stands before
    the first heading is a section without one.
    """
    lexbor = library("selectolax.lexbor", "documents")
    tree = lexbor.LexborHTMLParser(_decoded(_content(path)))
    title = tree.css_first("title")
    named = _spaced(title.text()) if title else ""
    tree.strip_tags(_UNSEEN)
    lines = list(_lines(tree.root)) if tree.root else []
    parts = _sections(lines) if source.sections else [lines]
    if not any(parts):
        yield 1, "the page holds no text"
        return
    for number, part in enumerate(parts, start=1):
        headings = [line for heading, line in part if heading]
        texts = [line for heading, line in part if not (heading and source.sections)]
        yield (
            number,
            {
                "title": named,
                "headings": "\n".join(headings),
                "text": "\n".join(texts),
            },
        )


def pdf_rows(path: UPath, source: Source) -> Iterator[Found]:
    """One row a page: `page`, from 1, and `text`; a scanned page has none."""
    pdfium = library("pypdfium2", "documents")
    try:
        document = pdfium.PdfDocument(_content(path))
    except pdfium.PdfiumError as error:
        yield 1, f"not a readable PDF, found '{error}'"
        return
    try:
        if not len(document):
            yield 1, "the PDF holds no page"
        for number in range(1, len(document) + 1):
            yield number, _page(pdfium, document, number)
    finally:
        document.close()


def _page(pdfium: Any, document: Any, number: int) -> dict[str, Any] | str:
    try:
        page = document[number - 1]
        text = page.get_textpage().get_text_bounded()
    except pdfium.PdfiumError as error:
        return f"the page is damaged, found '{error}'"
    return {"page": number, "text": text.translate(_MARKS)}


def _content(path: UPath) -> bytes:
    with sources.opened(path) as file:
        return file.read()


def _decoded(content: bytes) -> str:
    """HTML as text: by its byte order mark, its meta element, as UTF-8, or else windows-1252."""
    declared = _CHARSET.search(content, 0, 2048)
    for encoding in ("utf-8-sig", declared.group(1).decode() if declared else "utf-8"):
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return content.decode("windows-1252", errors="replace")


def _lines(root: Any) -> Iterator[tuple[bool, str]]:
    """The text of each block in the page's order, and whether the block is a heading."""
    held: list[str] = []
    block, heading = None, False
    for node in root.traverse(include_text=True):
        if node.tag != "-text":
            if node.tag != "br":
                continue
            here, inside = node.mem_id, heading
        else:
            here, inside = _block(node)
        if here != block:
            if line := _spaced("".join(held)):
                yield heading, line
            held, block, heading = [], here, inside
        held.append(node.text(deep=False) if node.tag == "-text" else "")
    if line := _spaced("".join(held)):
        yield heading, line


def _block(node: Any) -> tuple[int, bool]:
    """The block that a text is in, and whether that is, or is in, a heading."""
    around = node.parent
    while around.tag not in _BLOCKS and around.parent is not None:
        around = around.parent
    return around.mem_id, around.tag in _HEADINGS


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _sections(lines: list[tuple[bool, str]]) -> list[list[tuple[bool, str]]]:
    """The lines, parted before each heading."""
    parts: list[list[tuple[bool, str]]] = [[]]
    for line in lines:
        if line[0]:
            parts.append([])
        parts[-1].append(line)
    return [part for part in parts if part]
