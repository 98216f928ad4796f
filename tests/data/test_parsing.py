"""Texts to values, against Python's own parsers."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.data import parsing

TEXTS = st.one_of(
    st.none(),
    st.integers(-(10**20), 10**20).map(str),
    st.integers(-9, 9).map("{:+d}".format),
    st.floats().map(repr),
    st.sampled_from(
        [
            "39.0",
            "1e5",
            "1e999",
            "inf",
            "-Infinity",
            "NaN",
            "0x10",
            "1_0",
            ".",
            "-",
            "+",
            "1.",
            ".5",
            "٣",
            "5-",
            "abc",
        ]
    ),
    st.text(max_size=5).filter(lambda text: text == text.strip() and "\0" not in text),
)


def found(texts: list, kind: str) -> tuple[list, list]:
    """Values and misfits; a column alone, and one with a misfit, which takes the slow way."""
    values, misfits = parsing.parsed(pa.chunked_array([pa.array(texts, pa.string())]), kind)
    return values.to_pylist(), [False] * len(texts) if misfits is None else misfits.to_pylist()


def number(text: str | None) -> float | None:
    """The finite number a text stands for, None for one that is not; ValueError if it is none."""
    if text is None:
        return None
    if "_" in text or not text.isascii():
        raise ValueError(text)
    value = float(text)
    return value if math.isfinite(value) else None


def integer(text: str | None) -> int | None:
    if text is None or (number(text) is None and not any(c.isdigit() for c in text)):
        return None
    whole, _, fraction = text.partition(".")
    value = int(whole)
    if fraction.strip("0") or not -(2**63) <= value < 2**63:
        raise ValueError(text)
    return value


@given(texts=st.lists(TEXTS, min_size=1))
@pytest.mark.parametrize(("kind", "parse"), [("number", number), ("integer", integer)])
def test_as_python_parses(kind, parse, texts):
    expected, wrong = [], []
    for text in texts:
        try:
            expected.append(parse(text))
            wrong.append(False)
        except ValueError:
            expected.append(None)
            wrong.append(True)
    assert found(texts, kind) == (expected, wrong)
    for text, value, misfit in zip(texts, expected, wrong, strict=True):
        assert found([text], kind) == ([value], [misfit])


def test_booleans():
    texts = ["true", "FALSE", "1", "0", "Yes", "n", None, "maybe"]
    values, misfits = found(texts, "boolean")
    assert values == [True, False, True, False, True, False, None, None]
    assert misfits == [False] * 7 + [True]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", None, "-2"], "integer"),
        (["1", "2.5"], "number"),
        (["1", "nan"], "number"),
        (["nan", "inf"], "category"),
        (["true", "False"], "boolean"),
        (["0", "1"], "integer"),
        (["01", "2"], "category"),
        (["1", "x"], "category"),
        ([None, None], "category"),
        (["99999999999999999999"], "number"),
    ],
)
def test_inferred_kinds(texts, kind):
    assert parsing.inferred(pa.chunked_array([pa.array(texts, pa.string())])) == kind
