"""Texts of text, HTML and PDF files."""

from __future__ import annotations

import gzip
from html import escape
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import rows_of
from upath import UPath

from ray_pipeline.data.media import documents
from ray_pipeline.job import Source

PAGE = """<!doctype html><html><head><title> The  title </title><style>p {}</style>
<script>var hidden = "<p>no</p>";</script></head><body>before
<h1>One <em>two</em></h1><p>A <b>bo</b>ld&nbsp;word<br>next &lt;line&gt;</p>
<div>outer<div>inner</div>outer again</div><ul><li>x<li>y</ul>
<h2>Second</h2><noscript>no</noscript><template>no</template>
<pre>kept   as
one</pre><!-- no --></body></html>"""


def test_a_page_as_its_visible_lines(tmp_path):
    (tmp_path / "page.html").write_text(PAGE)
    (row,) = rows_of(tmp_path / "page.html")
    assert row["title"] == "The title"
    assert row["headings"] == "One two\nSecond"
    assert row["text"].split("\n") == [
        *("before", "One two", "A bold word", "next <line>", "outer", "inner", "outer again"),
        *("x", "y", "Second", "kept as one"),
    ]


def test_sections_begin_at_headings(tmp_path):
    (tmp_path / "page.html").write_text(PAGE)
    rows = rows_of(tmp_path / "page.html", sections=True)
    assert [row["headings"] for row in rows] == ["", "One two", "Second"]
    assert rows[2]["text"] == "kept as one"
    assert [row["_row"] for row in rows] == [1, 2, 3]
    assert {row["title"] for row in rows} == {"The title"}


class Words(HTMLParser):
    """All text of a page, by another parser."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, text: str) -> None:
        self.found += text.split()


texts = st.text("ab é<&\n", min_size=1).map(escape)
nodes = st.recursive(
    texts,
    lambda inner: st.tuples(
        st.sampled_from(["p", "div", "ul", "h2", "blockquote", "section"]), st.lists(inner)
    ).map(lambda pair: f"<{pair[0]}> {' '.join(pair[1])} </{pair[0]}>"),
)


@settings(max_examples=60, deadline=None)
@given(body=st.lists(nodes, min_size=1))
@pytest.mark.parametrize("sections", [False, True])
def test_no_word_is_lost_or_moved(tmp_path_factory, sections, body):
    page = "".join(body)
    path = UPath(tmp_path_factory.getbasetemp() / "page.html")
    path.write_text(page, encoding="utf-8")
    words = Words()
    words.feed(page)
    words.close()
    source = Source(url=str(path), sections=sections)
    found: list[str] = []
    for _, row in documents.html_rows(path, source):
        if isinstance(row, dict):
            found += (row["headings"].split() if sections else []) + row["text"].split()
    assert found == words.found


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<p>žluť".encode(), "žluť"),
        (b"\xef\xbb\xbf<p>\xc3\xa9", "é"),
        (b'<meta charset="iso-8859-2"><p>\xbe', "ž"),
        (b"<p>\x93quoted\x94", "“quoted”"),
        (b'<meta charset="no-such"><p>a', "a"),
    ],
)
def test_encodings(tmp_path, content, text):
    (tmp_path / "page.html").write_bytes(content)
    assert rows_of(tmp_path / "page.html")[0]["text"] == text


def test_a_page_without_text_is_a_fault(tmp_path):
    (tmp_path / "page.html").write_text("<html><body><script>x</script></body></html>")
    assert rows_of(tmp_path / "page.html")[0]["_error"] == "the page holds no text"


def test_text_files(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfplain\ntext")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("zabalený".encode()))
    (tmp_path / "c.txt").write_bytes(b"latin \xe9")
    (tmp_path / "ignored.csv").write_bytes(b"a")
    rows = rows_of(tmp_path, "text")
    assert [row["text"] for row in rows] == ["plain\ntext", "zabalený", None]
    assert rows[2]["_error"] == "not UTF-8 text, found byte 0xe9 at 6"
    assert [row["label"] for row in rows] == ["a", "b", "c"]


def pdf(*pages: str) -> bytes:
    """A PDF with a line of text a page, as its specification has it."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    content, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, start=1):
        places.append(len(content))
        content += f"{number} 0 obj\n{text}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(content)}\n%%EOF"
    return content + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{end}".encode()


def test_pages_of_a_pdf(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf("First page", "", "Third page"))
    rows = rows_of(tmp_path / "a.pdf")
    assert [(row["page"], row["text"]) for row in rows] == [
        (1, "First page"),
        (2, ""),
        (3, "Third page"),
    ]


def test_what_is_no_pdf_is_a_fault(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"no pdf")
    (row,) = rows_of(tmp_path, "pdf")
    assert row["_error"].startswith("not a readable PDF, found '")
