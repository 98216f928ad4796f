"""Texts without markup, control characters, addresses of the web and needless space."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.data.steps.extra import needed
from ray_pipeline.data.steps.found import Apply, Found, differing, no_value
from ray_pipeline.job.steps import Text

# Control characters but tab, line and page ends; zero-width, direction and other invisible ones.
_CONTROL = (
    r"[\x00-\x08\x0E-\x1F\x7F-\x84\x86-\x9F\x{AD}\x{200B}\x{200E}\x{200F}\x{202A}-\x{202E}"
    r"\x{2060}-\x{2064}\x{2066}-\x{206F}\x{FEFF}\x{FFF9}-\x{FFFB}\x{FDD0}-\x{FDEF}]"
)
# The sentence's own full stop, comma or bracket behind an address is not part of it.
_URL = r"(?i)\b(?:(?:https?|ftp)://|www\.)[^\s<>\"]*[^\s<>\".,;:!?)\]}'’”]"
_STAND_IN = "\ufdd0"  # a character that no text may hold; not punctuation, without a case
_SPACE = r"[\s\x0B\p{Z}\x{85}]+"
_MARKUP = "[<&]"
_APART = "address,article,blockquote,br,dd,div,dt,h1,h2,h3,h4,h5,h6,hr,li,p,pre,td,th,tr"
_UNSEEN = ["script", "style", "template", "noscript"]


def applying(settings: Text) -> Apply:
    """The step as a function of typed rows."""
    edits = list(_edits(settings))

    def apply(rows: pa.Table) -> dict[str, Found]:
        return {name: _edited(rows[name], edits) for name in settings.columns}

    return apply


Edit = tuple[str, Callable[[Any], Any]]


def _edited(texts: Any, edits: list[Edit]) -> Found:
    kinds: Counter[str] = Counter()
    for kind, edit in edits:
        edited = edit(texts)
        if rows := differing(texts, edited):
            kinds[kind] += rows
        texts = edited
    empty = pc.fill_null(pc.equal(texts, ""), False)
    return Found(pc.if_else(empty, no_value(texts), texts), kinds)


def _edits(settings: Text) -> Iterator[Edit]:
    replaced = partial(_replaced, pattern="", by="")
    if settings.html == "strip":
        yield "html", _without_markup
    if settings.control == "drop":
        yield "control characters", partial(replaced, pattern=_CONTROL)
    if settings.form:
        yield "unicode form", partial(_normal, form=settings.form)
    if settings.urls != "keep":
        mark = "" if settings.urls == "drop" else _STAND_IN
        yield "URLs", partial(_marked, mark=mark)
    if settings.punctuation == "drop":
        yield "punctuation", _without_punctuation
    if settings.lower:
        yield "lower case", pc.utf8_lower
    if settings.urls not in {"keep", "drop"}:
        yield "URLs' mark", partial(_written_out, by=settings.urls)
    if settings.form and (settings.lower or settings.punctuation == "drop"):
        yield "unicode form", partial(_normal, form=settings.form)
    if settings.collapse_spaces:
        yield "spaces", partial(replaced, pattern=_SPACE, by=" ")
    if settings.trim:
        yield "outer spaces", pc.utf8_trim_whitespace


def _replaced(texts: Any, pattern: str, by: str) -> Any:
    return pc.replace_substring_regex(texts, pattern, by)


def _normal(texts: Any, form: Literal["NFC", "NFD", "NFKC", "NFKD"]) -> Any:
    """By Python: Arrow's own (as of 25.0) takes characters apart and never together again."""
    return _each(texts, pc.invert(pc.string_is_ascii(texts)), partial(unicodedata.normalize, form))


def _each(texts: Any, wanted: Any, edit: Callable[[str], str]) -> Any:
    """`edit` on the texts `wanted`, the others as they are."""
    mask = pc.fill_null(wanted, False)
    some = texts.filter(mask).to_pylist()
    if not some:
        return texts
    whole, mask = (values.combine_chunks() for values in (texts, mask))
    edited = pa.array([edit(text) for text in some], pa.string())
    return pa.chunked_array([pc.replace_with_mask(whole, mask, edited)])


def _marked(texts: Any, mark: str) -> Any:
    return _replaced(pc.replace_substring(texts, _STAND_IN, ""), _URL, mark)


def _written_out(texts: Any, by: str) -> Any:
    return pc.replace_substring(texts, _STAND_IN, by)


def _without_punctuation(texts: Any) -> Any:
    return _replaced(_replaced(texts, r"['’`]", ""), r"[\p{P}\p{S}]", " ")


def _without_markup(texts: Any) -> Any:
    """Only texts that hold `<` or `&` are parsed; `a < b` is no markup, as in a browser."""
    return _each(texts, pc.match_substring_regex(texts, _MARKUP), _plain)


def _plain(text: str) -> str:
    selectolax = needed("selectolax.lexbor", "taking HTML out of texts")
    tree = selectolax.LexborHTMLParser(text)
    tree.strip_tags(_UNSEEN)
    if tree.body is None:
        return ""
    for node in tree.body.css(_APART):
        node.insert_before(" ")
        node.insert_after(" ")
    return str(tree.body.text())
