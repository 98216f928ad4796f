"""Requests as they should be, and every way in which they should not."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.deploy.protocol import EXPECTED, Protocol
from ray_pipeline.deploy.runtime import columns_from_table
from ray_pipeline.errors import DataError, RequestError
from ray_pipeline.schema import ARROW_TYPES, Column, Schema

SCHEMA = Schema(
    columns=(
        Column(name="age", kind="integer"),
        Column(name="hours-per-week", kind="number"),
        Column(name="job", kind="category"),
        Column(name="member", kind="boolean"),
        Column(name="note", kind="category", role="ignore"),
        Column(name="class", kind="category", role="label"),
    ),
    missing=("?",),
)
PROTOCOL = Protocol(SCHEMA, max_rows=5)
ROW = {"age": 39, "hours-per-week": 37.5, "job": "nurse", "member": True}


def body(*rows, **more) -> bytes:
    return json.dumps({"rows": list(rows), **more}, allow_nan=False).encode()


def columns(*rows):
    return {name: list(v) for name, v in PROTOCOL.columns(PROTOCOL.rows(body(*rows))).items()}


def refused(content: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        PROTOCOL.rows(content)
    return caught.value


def test_rows_become_columns_in_their_order():
    found = columns(ROW, {**ROW, "age": 17, "job": "clerk", "member": False})
    assert found == {
        "age": [39.0, 17.0],
        "hours-per-week": [37.5, 37.5],
        "job": ["nurse", "clerk"],
        "member": [1.0, 0.0],
    }


def test_null_is_no_value():
    found = columns(dict.fromkeys(ROW))
    assert found["job"] == [""]
    assert all(math.isnan(found[name][0]) for name in ("age", "hours-per-week", "member"))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("  nurse ", "nurse"),
        ("?", ""),
        (" ? ", ""),
        ("", ""),
        (5, "5"),
        (5.0, "5"),
        (5.5, "5.5"),
        (True, "true"),
        (False, "false"),
        ("Genève 東京", "Genève 東京"),
    ],
)
def test_a_category_is_its_text(given, text):
    assert columns({**ROW, "job": given})["job"] == [text]


def test_a_whole_float_is_an_integer():
    assert columns({**ROW, "age": 39.0})["age"] == [39.0]


def test_known_columns_that_are_not_features_are_not_looked_at():
    assert columns({**ROW, "class": "<=50K", "note": {"any": ["thing"]}}) == columns(ROW)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("age", "abc", '"abc"'),
        ("age", 1.5, "1.5"),
        ("age", True, "true"),
        ("age", 2**63, "9223372036854775808"),
        ("age", 1e30, "1e+30"),
        ("hours-per-week", "40", '"40"'),
        ("hours-per-week", False, "false"),
        ("member", 1, "1"),
        ("member", "yes", '"yes"'),
        ("job", ["nurse"], '["nurse"]'),
        ("job", {"a": 1}, '{"a": 1}'),
    ],
)
def test_a_wrong_value_is_named_with_its_place(name, value, shown):
    error = refused(body(ROW, {**ROW, name: value}))
    assert (error.status, error.where) == (422, f"rows[1].{name}")
    assert error.what == f"expected {EXPECTED[SCHEMA[name].kind]}, found {shown}"


def test_a_long_value_is_not_repeated_whole():
    assert len(refused(body({**ROW, "age": "x" * 10_000})).what) < 120


def test_a_misspelt_column_is_named_with_the_nearest():
    error = refused(body({**{k: v for k, v in ROW.items() if k != "age"}, "aeg": 39}))
    assert (error.status, error.where) == (422, "rows[0].aeg")
    assert "did you mean `age`?" in error.what


def test_an_absent_column_is_an_error():
    error = refused(body(ROW, {k: v for k, v in ROW.items() if k != "hours-per-week"}))
    assert (error.status, error.where) == (422, "rows[1].hours-per-week")
    assert "expected number" in error.what


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b'{"rows": [',
        b'{"rows": [{"age": NaN}]}',
        b'{"rows": [{"age": Infinity}]}',
        b"\xff\xfe",
        b'{"rows": [{"job": "\xff"}]}',
        b"[" * 100_000,
        b'{"rows": [{"note": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
        b'{"rows": []} trailing',
    ],
)
def test_what_is_not_json_is_a_400(content):
    error = refused(content)
    assert (error.status, error.code) == (400, "not_json")


@pytest.mark.parametrize(
    "content",
    [b"[]", b"null", b"{}", b'{"rows": {}}', b'{"rows": [1]}', body(ROW, more=1), body()],
)
def test_json_of_another_form_is_a_422(content):
    assert refused(content).status == 422


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400])
def test_a_number_no_float_can_hold_is_a_422(number):
    content = body(ROW, ROW).replace(b"37.5", number.encode())
    error = refused(content)
    assert (error.status, error.where) == (422, "rows[0].hours-per-week")


def test_more_rows_than_allowed_are_a_413():
    assert len(PROTOCOL.rows(body(*[ROW] * 5))) == 5
    error = refused(body(*[ROW] * 6))
    assert (error.status, error.code, error.where) == (413, "too_many_rows", "rows")


def test_one_feature_is_enough():
    protocol = Protocol(Schema(columns=(Column(name="x", kind="number"),)), max_rows=9)
    found = protocol.columns(protocol.rows(b'{"rows":[{"x":1},{"x":null}]}'))
    assert found["x"].tolist()[0] == 1.0
    assert np.isnan(found["x"][1])


def outcome(content: bytes):
    """The columns of a body, or the error that refuses it."""
    try:
        return PROTOCOL.columns(PROTOCOL.rows(content))
    except RequestError as error:
        return error


texts = st.text(st.characters(codec="utf-8"), max_size=12)
rows = st.fixed_dictionaries(
    {
        "age": st.none() | st.integers(-(2**63), 2**63 - 1),
        "hours-per-week": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "job": st.none() | texts | st.sampled_from([" ?", "?", " nurse "]),
        "member": st.none() | st.booleans(),
    }
)


@given(st.lists(rows, min_size=1, max_size=5))
def test_a_request_reads_as_the_same_rows_in_a_table(given_rows):
    """The endpoint and the batch path must feed the model the same."""
    table = pa.table(
        {
            column.name: pa.array(
                [row[column.name] for row in given_rows], ARROW_TYPES[column.kind]
            )
            for column in SCHEMA.features
        }
    )
    expected = columns_from_table(table, SCHEMA)
    found = PROTOCOL.columns(PROTOCOL.rows(body(*given_rows)))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*ROW, "class", "aeg"]), json_values))
def test_any_row_is_read_or_refused_with_a_place(changes):
    found = outcome(body({**ROW, **changes}))
    if isinstance(found, RequestError):
        assert found.status == 422
        assert found.where.startswith("rows[0]")
    else:
        assert all(len(values) == 1 for values in found.values())
        assert "aeg" not in changes


@given(st.binary(max_size=60) | texts.map(str.encode))
def test_no_body_at_all_crashes_it(content):
    found = outcome(content)
    assert not isinstance(found, RequestError) or found.status in (400, 413, 422)


DATED = Protocol(
    Schema(
        columns=(
            Column(name="when", kind="date"),
            Column(name="said", kind="text"),
            Column(name="y", kind="number", role="label"),
        )
    ),
    max_rows=9,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2013-01-01T05:00:00Z", 1357016400.0),
        ("2013-01-01T05:00:00.25+02:00", 1357009200.25),
        ("2013-01-01 05:00:00", 1357016400.0),
        ("2013-01-01", 1356998400.0),  # not RFC 3339, found at leisure
        ("2013-01-01 05:00", 1357016400.0),
        ("1960-02-29T00:00:00Z", -310521600.0),
        (1357016400, 1357016400.0),
        (-0.5, -0.5),
    ],
)
def test_dates_come_as_texts_or_seconds(value, seconds):
    rows = DATED.rows(body({"when": value, "said": " fine "}))
    assert {name: list(column) for name, column in DATED.columns(rows).items()} == {
        "when": [seconds],
        "said": ["fine"],
    }
    assert DATED.columns(DATED.rows_from({"when": [value], "said": ["x"]}, 1))["when"] == [seconds]


def test_a_date_or_text_without_value():
    found = DATED.columns(DATED.rows(body({"when": None, "said": None})))
    assert math.isnan(found["when"][0])
    assert list(found["said"]) == [""]


@pytest.mark.parametrize("wrong", ["soon", "20130101", "2013-02-30", "2013-01-01T24:00", True, []])
def test_what_is_no_date_is_refused(wrong):
    with pytest.raises(RequestError, match=r"expected date \(ISO 8601") as caught:
        DATED.rows(body({"when": wrong, "said": "x"}))
    assert caught.value.where == "rows[0].when"


@pytest.mark.parametrize("wrong", [5, True, ["x"]])
def test_what_is_no_text_is_refused(wrong):
    with pytest.raises(RequestError, match="expected text"):
        DATED.rows(body({"when": 0, "said": wrong}))


def test_dates_in_tables_and_in_requests_are_the_same():
    schema = Schema(columns=DATED.features)
    texts = ["2013-01-01T05:00:00Z", "2016-02-29", None]
    said = pa.array(["a", "b", None])
    typed = pa.array([1357016400, 1456704000, None], pa.timestamp("s", "UTC"))
    for when in (pa.array(texts), typed, pa.array([1357016400, 1456704000, None])):
        found = columns_from_table(pa.table({"when": when, "said": said}), schema)
        np.testing.assert_array_equal(found["when"], [1357016400, 1456704000, np.nan])
        assert found["said"].tolist() == ["a", "b", ""]
    rows = DATED.rows(body(*({"when": text, "said": "a"} for text in texts)))
    np.testing.assert_array_equal(DATED.columns(rows)["when"], found["when"])
    with pytest.raises(DataError, match="not a date"):
        columns_from_table(pa.table({"when": ["soon"], "said": ["a"]}), schema)


@pytest.mark.parametrize("name", ["age", "hours-per-week", "job"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_whole_number_no_float_can_hold_is_refused(name, sign):
    error = refused(body({**ROW, name: sign * 3 * 10**308}))
    assert (error.status, error.where) == (422, f"rows[0].{name}")
    with pytest.raises(RequestError, match="expected date"):
        DATED.rows(body({"when": sign * 3 * 10**308, "said": "x"}))


def test_a_category_may_be_a_large_number():
    assert columns({**ROW, "job": 10**30})["job"] == [str(10**30)]
