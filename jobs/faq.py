"""Debian's frequently asked questions, from the pages of its package to pairs with answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

XHTML = "{http://www.w3.org/1999/xhtml}"


def written(pages: list[Path], target: Path) -> int:
    """Write a line of JSON with `question`, `answer` and `chapter` for each section of the XHTML
    `pages` whose title is a question; how many there are."""
    rows = [row for page in sorted(pages) for row in pairs(ElementTree.parse(page).getroot())]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    target.write_text("".join(lines), encoding="utf-8")
    return len(rows)


def pairs(page: Element) -> Iterator[dict[str, str]]:
    """The questions of a page, which is a chapter, with their answers."""
    chapter = _without_number(_text(page.find(f"{XHTML}head/{XHTML}title")))
    for section in page.iter(f"{XHTML}div"):
        if section.get("class") != "section":
            continue
        title, *content = section
        question = _without_number(_text(title))
        answer = "\n".join(filter(None, map(_block, content)))
        if "?" in question and answer:
            yield {"question": question, "answer": answer, "chapter": chapter}


def _block(part: Element) -> str:
    """A paragraph, list or listing as text; a section inside that is a question answers itself."""
    if part.get("class") == "section" and "?" in _text(part[0]):
        return ""
    if part.get("class") == "titlepage":
        return _without_number(_text(part))
    if part.tag == f"{XHTML}pre":
        return "".join(part.itertext()).replace("\xa0", " ").strip("\n")
    blocks = {f"{XHTML}{name}" for name in ("div", "p", "pre", "ul", "ol", "dl", "li", "dt", "dd")}
    if any(inner.tag in blocks for inner in part):
        return "\n".join(filter(None, map(_block, part)))
    return _text(part)


def _text(part: Element | None) -> str:
    """What stands in an element, with single spaces, of which the pages have unbreakable ones."""
    return "" if part is None else " ".join("".join(part.itertext()).split())


def _without_number(title: str) -> str:
    """`9.1. How …?` and `Chapter 9. Keeping …` without what stands before."""
    head, _, rest = title.removeprefix("Chapter ").partition(" ")
    return rest if head.rstrip(".").replace(".", "").isdigit() else title
