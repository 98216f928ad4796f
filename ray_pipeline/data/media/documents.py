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

UNSEEN = ["script", "style", "noscript", "template", "svg", "head"]
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_BLOCKS = HEADINGS | {
    *("address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "details"),
    *("div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hr"),
    *("html", "legend", "li", "main", "nav", "ol", "option", "p", "pre", "section", "select"),
    *("summary", "table", "tbody", "td", "textarea", "tfoot", "th", "thead", "tr", "ul"),
}
_MARKS = {ord("\r"): None, 0: None, 2: None}  # PDFium writes 2 for a hyphen at a line's end
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9._:-]+)""", re.I)


def text_rows(path: UPath, source: Source) -> Iterator[Found]:
    """One row a file: `text`, as UTF-8, without a byte order mark."""
    content = content_of(path)
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
    tree = lexbor.LexborHTMLParser(decoded(content_of(path)))
    title = tree.css_first("title")
    named = _spaced(title.text()) if title else ""
    tree.strip_tags(UNSEEN)
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
        document = pdfium.PdfDocument(content_of(path))
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


def content_of(path: UPath) -> bytes:
    with sources.opened(path) as file:
        return file.read()


def decoded(content: bytes) -> str:
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
    for tag, _, text in blocks(root):
        if line := _spaced(text):
            yield tag in HEADINGS, line


def blocks(root: Any) -> Iterator[tuple[str, Any, str]]:
    """Each block of a page in its order: its tag, its element, and its text as it stands."""
    held: list[str] = []
    block: Any = None
    for node in root.traverse(include_text=True):
        if node.tag not in ("-text", "br"):
            continue
        here = _block(node) if node.tag == "-text" else node
        if block is None or here.mem_id != block.mem_id:
            if block is not None:
                yield block.tag, block, "".join(held)
            held, block = [], here
        held.append(node.text(deep=False) if node.tag == "-text" else "")
    if block is not None:
        yield block.tag, block, "".join(held)


def _block(node: Any) -> Any:
    """The element of the block that a text is in."""
    around = node.parent
    while around.tag not in _BLOCKS and around.parent is not None:
        around = around.parent
    return around


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
