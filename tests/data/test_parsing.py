"""Texts to values, against Python's own parsers, and typed values that stay as they are."""

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


TYPED = [
    (pa.array([1, None], pa.int16()), "integer", [1, None]),
    (pa.array([1, None], pa.uint32()), "number", [1.0, None]),
    (pa.array([1.0, 40.0, None]), "integer", [1, 40, None]),
    (pa.array([0.1, math.nan, math.inf, None], pa.float32()), "number", [0.1, None, None, None]),
    (pa.array([True, None]), "boolean", [True, None]),
    (pa.array([1, 0, None], pa.int8()), "boolean", [True, False, None]),
    (pa.array([1.5, 2.0, None]), "category", ["1.5", "2", None]),
    (pa.array(["7", None]).dictionary_encode(), "integer", [7, None]),
    (pa.array(["x", None]).dictionary_encode(), "category", ["x", None]),
    (pa.array(["x", None], pa.large_string()), "category", ["x", None]),
    (pa.array([2**64 - 1, 1], pa.uint64()), "number", [float(2**64), 1.0]),
]


@pytest.mark.parametrize(("values", "kind", "expected"), TYPED, ids=str)
def test_typed_values_keep_their_meaning(values, kind, expected):
    parsed, misfits = parsing.parsed(pa.chunked_array([values]), kind)
    assert parsed.to_pylist() == pytest.approx(expected, abs=1e-7, nan_ok=False)
    assert misfits is None or not any(misfits.to_pylist())


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([1.5, 2.0]), "integer"),
        (pa.array([2**64 - 1, 1], pa.uint64()), "integer"),
        (pa.array([7, 1]), "boolean"),
        (pa.array([True, None]), "number"),
    ],
    ids=str,
)
def test_typed_values_that_do_not_fit(values, kind):
    assert parsing.parsed(pa.chunked_array([values]), kind)[1].to_pylist() == [True, False]


@given(
    texts=st.lists(st.none() | st.sampled_from([" a", "a", "b ", "?", "", "NA"])),
    cut=st.integers(0, 5),
)
def test_missing_texts_are_found_by_dictionary_as_by_row(texts, cut):
    plain = pa.chunked_array(
        [pa.array(texts[:cut], pa.string()), pa.array(texts[cut:], pa.string())]
    )
    expected = [
        None if text is None or text.strip() in ("", "?") else text.strip() for text in texts
    ]
    assert parsing.present(plain, {"", "?"}).to_pylist() == expected
    encoded = pa.chunked_array([chunk.dictionary_encode() for chunk in plain.chunks])
    found = parsing.present(encoded, {"", "?"})
    assert found.to_pylist() == expected
    assert pa.types.is_dictionary(found.type)


def test_missing_texts_also_mean_typed_values():
    values = pa.chunked_array([[1, -999, None]])
    assert parsing.present(values, {"", "-999", "?"}).to_pylist() == [1, None, None]
    assert parsing.present(values, {""}) is values
