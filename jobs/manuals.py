"""Debian's manuals, from the pages of their packages to pairs of a heading and what stands below.

None of them is the list of frequently asked questions, and headings that are questions are left
out: an encoder that has learnt from these pairs has seen no question that it may be judged on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from upath import UPath

from ray_pipeline.chat import documents
from ray_pipeline.chat.chunks import PATH, parts
from ray_pipeline.chat.documents import Document, Section
from ray_pipeline.chat.words import count, stems
from ray_pipeline.job.chat import PUBLIC, Chunks

MANUALS = {
    # package: its English pages, below usr/share
    "debian-handbook": "doc/debian-handbook/html/en-US/*.html",
    "debian-reference-en": "debian-reference/*.en.html",
    "debian-policy": "doc/debian-policy/policy.html/*.html",
    "developers-reference": "developers-reference/*.html",
    "harden-doc": "doc/harden-doc/html/en-US/**/*.html",
    "aptitude-doc-en": "doc/aptitude/html/en/*.html",
    "installation-guide-amd64": "doc/installation-guide-amd64/en/*.html",
    "debmake-doc": "doc/debmake-doc/html/*.en.html",
}
PASSAGE = Chunks(longest=120, overlap=0)
LEAST_TITLE, LEAST_TEXT = 2, 15
"""Meaning words of a heading, and words of what stands below it: less says too little."""
_SIGNS = str.maketrans("", "", "¶\uf0c1")  # what Sphinx puts behind a heading


def written(pages: Iterable[Path], target: Path) -> int:
    """Write a line of JSON with `heading`, `passage` and `page` for each section of the HTML
    `pages` that says enough; how many there are. The heading is not in the passage; the one above
    it is."""
    rows: dict[str, dict[str, str]] = {}
    for page in sorted(pages):
        for row in pairs(page):
            rows.setdefault(row["heading"], row)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()]
    target.write_text("".join(lines), encoding="utf-8")
    return len(rows)


def pairs(page: Path) -> Iterator[dict[str, str]]:
    """The headings of a page with the first passage below each."""
    for section in _sections(page):
        *above, title = (heading.translate(_SIGNS).strip() for heading in section.headings)
        text = parts(section.blocks, PASSAGE)[0]
        enough = len(stems(title)) >= LEAST_TITLE and count(text) >= LEAST_TEXT
        if enough and "?" not in title:
            passage = "\n".join([PATH.join(above[-1:]), text]).strip()
            yield {"heading": title, "passage": passage, "page": page.name}


def _sections(page: Path) -> list[Section]:
    try:
        return documents.sections(Document(UPath(page), page.name, PUBLIC))
    except ValueError:  # a page without a text, such as one that only leads to another
        return []
