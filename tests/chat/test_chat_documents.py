"""Documents as sections and passages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.chat import chunks, documents
from ray_pipeline.chat.words import count, sentences
from ray_pipeline.errors import DataError
from ray_pipeline.job import Source
from ray_pipeline.job.chat import Access, Chat, Chunks

HTML = """<html><head><title>Handbook</title><style>p {}</style></head><body>
<nav>Menu</nav><div class="toc"><a href="#tea">1. How is tea made?</a></div>
<h1>Chapter 1. Kitchen</h1><p>Welcome.</p>
<h2><a id="tea"></a>1.1. How is tea made?</h2><p>Boil <b>water</b>.
Wait.</p><pre>
put kettle
pour water
</pre><h3 id="green">Green tea</h3><ul><li>Less heat</li><li>Less time</li></ul>
<h2>Food</h2><p>Bake it.</p></body></html>"""
MARKDOWN = """# Rules
First.

## Who may enter?
Staff.

```
# not a heading
```
"""
PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R
/Resources<</Font<</F1 5 0 R>>>>>>endobj
4 0 obj<</Length 43>>stream
BT /F1 18 Tf 20 100 Td (Opened at nine) Tj ET
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
trailer<</Root 1 0 R>>
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "book.html").write_text(HTML)
    (tmp_path / "inside" / "rules.md").write_text(MARKDOWN)
    (tmp_path / "note.txt").write_text("One.\n\nTwo.")
    (tmp_path / "hours.pdf").write_bytes(PDF)
    (tmp_path / "broken.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "photo.jpg").write_bytes(b"no document")
    return tmp_path


def found(folder):
    access = {"staff": Access(documents=("inside/*",))}
    return {each.name: each for each in documents.found(Source(url=str(folder)), access)}


def test_a_page_is_divided_at_its_headings(folder):
    made = documents.sections(found(folder)["book.html"])
    assert [(each.source, each.headings) for each in made] == [
        ("book.html", ("Handbook", "Kitchen")),
        ("book.html#tea", ("Handbook", "Kitchen", "How is tea made?")),
        ("book.html#green", ("Handbook", "Kitchen", "How is tea made?", "Green tea")),
        ("book.html", ("Handbook", "Kitchen", "Food")),
    ]
    assert made[1].blocks == ("Boil water. Wait.", "put kettle\npour water")
    assert made[2].blocks == ("Less heat", "Less time")


def test_other_formats(folder):
    named = found(folder)
    rules = documents.sections(named["inside/rules.md"])
    assert [each.headings for each in rules] == [("Rules",), ("Rules", "Who may enter?")]
    assert rules[1].source == "inside/rules.md#who-may-enter"
    assert rules[1].blocks == ("Staff.", "```\n# not a heading\n```")
    assert documents.sections(named["note.txt"])[0].blocks == ("One.", "Two.")
    (page,) = documents.sections(named["hours.pdf"])
    assert page == ("hours.pdf#page=1", ("hours", "page 1"), ("Opened at nine",))


def test_a_document_belongs_to_the_group_that_names_it(folder):
    named = found(folder)
    assert "photo.jpg" not in named
    assert named["inside/rules.md"].group == "staff"
    assert named["book.html"].group == "public"


def test_a_document_that_cannot_be_read_says_why(folder):
    read = chunks.read(found(folder)["broken.txt"], Chat(encoder="unused"))
    assert read.passages == []
    assert "not UTF-8" in read.fault
    with pytest.raises(DataError, match="no documents"):
        documents.found(Source(url=str(folder / "nothing")), {})


def test_personal_data_is_masked_before_anything_is_stored(tmp_path):
    (tmp_path / "a.txt").write_text("Write to jo@example.org today.")
    (document,) = documents.found(Source(url=str(tmp_path)), {})
    (passage,) = chunks.read(document, Chat(encoder="unused", mask=("EMAIL",))).passages
    assert passage.text == "Write to <EMAIL> today."
    assert "jo@" not in passage.searched


WORDS = st.lists(st.sampled_from(["tea", "milk", "Rain", "is", "is.", "hot.", "Go!"]), min_size=1)
BLOCKS = st.lists(st.lists(WORDS, min_size=1).map(lambda p: " ".join(map(" ".join, p))), min_size=1)


@given(BLOCKS, st.integers(20, 60), st.integers(0, 10))
def test_passages_hold_every_word_in_order_and_are_no_longer_than_asked(blocks, longest, overlap):
    settings = Chunks(longest=longest, overlap=overlap)
    parts = chunks.parts(blocks, settings)
    assert all(0 < count(part) <= longest for part in parts)
    words, seen = " ".join(blocks).split(), 0
    for part in parts:
        here = part.split()
        # What overlaps the part before is at its begin, and no more than asked.
        repeated = next(
            n for n in range(overlap + 1) if words[seen : seen + len(here) - n] == here[n:]
        )
        assert here[:repeated] == words[seen - repeated : seen]
        seen += len(here) - repeated
    assert seen == len(words)


def test_sentences():
    text = 'Use apt, e.g. Debian\'s. "Is it new?" It is. Dr. No left.\n\nA list'
    assert sentences(text) == [
        "Use apt, e.g. Debian's.", '"Is it new?"', "It is.", "Dr. No left.", "A list",
    ]  # fmt: skip
