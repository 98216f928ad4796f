"""Treated columns against pandas; requests treated as rows are."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ray_pipeline.data import parsing
from ray_pipeline.data.privacy import keys, treatment
from ray_pipeline.data.privacy.keys import Key
from ray_pipeline.errors import JobError
from ray_pipeline.job import Data, Privacy
from ray_pipeline.schema import Column, Schema

KEY = Key(b"0123456789abcdef")


def schema_of(**kinds: str) -> Schema:
    return Schema(columns=tuple(Column(name=n, kind=k) for n, k in kinds.items()))


def table_of(**columns: list[Any]) -> pa.Table:
    count = len(next(iter(columns.values())))
    texts = {name: pa.array(values) for name, values in columns.items()}
    empty = pa.nulls(count, pa.string())
    lineage = {"_source": pa.repeat("f", count), "_row": pa.array(range(1, count + 1))}
    return pa.table(texts | lineage | {"_error": empty, "_raw": empty})


def treated(privacy: Privacy, schema: Schema, table: pa.Table) -> pa.Table:
    stored = treatment.stored_schema(schema, privacy)
    return treatment.Treat(privacy, stored, (KEY,))(table)


def test_each_treatment_does_what_it_says():
    privacy = Privacy(
        key=KEY.id,
        columns={
            "mail": "drop",
            "name": "mask",
            "note": {"mask": ["EMAIL"]},
            "ssn": "hash",
            "age": {"generalise": 10},
            "zip": {"generalise": 3},
            "born": {"generalise": "year"},
        },
    )
    kinds = dict.fromkeys(["mail", "name", "note", "ssn", "zip"], "category")
    schema = schema_of(**kinds, age="integer", born="date")
    table = table_of(
        mail=["a@example.com", None],
        name=["Ann", None],
        note=["write to a@example.com", None],
        ssn=["536-22-8145", None],
        zip=["90210", None],
        age=["37", "-1"],
        born=["1986-07-04", None],
    )
    out = treated(privacy, schema, table)
    assert out.select(["name", "note", "ssn", "zip", "age"]).to_pylist() == [
        {
            "name": "<MASKED>",
            "note": "write to <EMAIL>",
            "ssn": KEY.hashed("536-22-8145"),
            "zip": "902",
            "age": "30",
        },
        {"name": None, "note": None, "ssn": None, "zip": None, "age": "-10"},
    ]
    assert parsing.parsed(out["born"], "date")[0].to_pylist()[0].isoformat()[:10] == "1986-01-01"
    assert "mail" not in out.column_names


def test_the_stored_schema_says_so_too():
    privacy = Privacy(
        subject="id", columns={"mail": "drop", "name": "mask", "id": "hash", "ssn": "hash"}
    )
    schema = schema_of(id="integer", mail="category", name="category", ssn="integer", age="number")
    stored = treatment.stored_schema(schema, privacy)
    assert [(c.name, c.kind, c.role) for c in stored] == [
        ("id", "category", "ignore"),
        ("name", "category", "ignore"),
        ("ssn", "category", "feature"),
        ("age", "number", "feature"),
    ]
    assert treatment.stored_schema(schema, None) == schema


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1), st.integers(1, 1000))
def test_integer_bins_are_pandas(values, width):
    found = treatment.generalised(pa.chunked_array([values]), "integer", width)
    wanted = (pd.Series(values) // width * width).tolist()
    assert parsing.parsed(found, "integer")[0].to_pylist() == wanted


numbers = st.floats(-1e9, 1e9)


@given(st.lists(numbers | st.none(), min_size=1), st.floats(0.01, 1e4))
def test_a_request_is_treated_as_rows_are(values, width):
    column = pa.chunked_array([pa.array(values, pa.float64())])
    stored = parsing.parsed(treatment.generalised(column, "number", width), "number")[0]
    work = treatment.of_requests(schema_of(x="number"), {"x": {"generalise": width}})
    asked = {"x": np.array([math.nan if v is None else v for v in values])}
    wanted = [math.nan if v is None else v for v in stored.to_pylist()]
    np.testing.assert_array_equal(work(asked)["x"], wanted)


@given(st.lists(st.datetimes(pd.Timestamp("1900-01-01"), pd.Timestamp("2100-01-01")), min_size=1))
def test_dates_in_a_request_are_treated_as_rows_are(moments):
    column = pa.chunked_array([pa.array(moments, pa.timestamp("us", "UTC"))])
    for unit, letter in (("month", "M"), ("year", "Y")):
        stored = parsing.parsed(treatment.generalised(column, "date", unit), "date")[0]
        wanted = pd.Series(moments).dt.to_period(letter).dt.start_time.dt.tz_localize("UTC")
        assert stored.to_pylist() == wanted.tolist()
        work = treatment.of_requests(schema_of(x="date"), {"x": {"generalise": unit}})
        seconds = np.array([pd.Timestamp(m, tz="UTC").timestamp() for m in moments])
        assert work({"x": seconds})["x"].tolist() == [m.timestamp() for m in wanted]


def test_texts_and_hashes_in_a_request_are_treated_as_rows_are(monkeypatch):
    monkeypatch.setenv(keys.VARIABLE, "a-new-long-secret 0123456789abcdef")
    schema = schema_of(zip="category", ssn="category", age="number")
    privacy = Privacy(key=KEY.id, columns={"zip": {"generalise": 3}, "ssn": "hash"})
    said = treatment.at_serving(schema, privacy)
    assert said == {"zip": {"generalise": 3}, "ssn": {"hash": KEY.id}}
    asked = {
        "zip": np.array(["90210", ""], object),
        "ssn": np.array(["536-22-8145", ""], object),
        "age": np.array([1.0, 2.0]),
    }
    found = pickle.loads(pickle.dumps(treatment.of_requests(schema, said)))(asked)
    assert found["zip"].tolist() == ["902", ""]
    assert found["ssn"].tolist() == [KEY.hashed("536-22-8145"), ""]
    assert found["age"] is asked["age"]


def test_a_hashed_feature_needs_the_key_it_was_trained_with():
    with pytest.raises(JobError, match="abcdef"):
        treatment.of_requests(schema_of(ssn="category"), {"ssn": {"hash": "abcdef"}})


def test_without_treatment_requests_pass_as_they_are():
    assert treatment.of_requests(schema_of(a="number"), {}) is None
    assert treatment.at_serving(schema_of(a="number"), None) == {}


def test_what_does_not_fit_goes_to_quarantine_without_its_value():
    privacy = Privacy(columns={"age": {"generalise": 10}, "note": "mask"})
    table = table_of(age=["secret", "41"], note=["x", "y"])
    broken = table.set_column(table.column_names.index("_raw"), "_raw", pa.array(["Ann,1", None]))
    out = treated(privacy, schema_of(age="integer", note="category"), broken)
    assert out["age"].to_pylist() == ["<withheld>", "40"]
    assert out["_raw"].to_pylist() == ["<withheld>", None]
    assert "secret" not in str(out.to_pylist())
    assert "Ann" not in str(out.to_pylist())


def test_different_people_do_not_become_duplicates():
    privacy = Privacy(columns={"mail": "drop", "name": "mask"})
    schema = schema_of(mail="category", name="category", sex="category")
    table = table_of(mail=["a", "b", "a"], name=["A", "B", "A"], sex=["f", "f", "f"])
    first, second, third = treated(privacy, schema, table)[treatment.IDENTITY].to_pylist()
    assert first == third != second


@pytest.mark.parametrize("hashed", [False, True])
def test_rows_of_an_erased_subject_lose_every_value(hashed):
    privacy = Privacy(
        subject="id",
        key=KEY.id,
        erased=(KEY.hashed("7"),),
        columns={"id": "hash"} if hashed else {},
    )
    schema = schema_of(id="integer", name="category")
    out = treated(privacy, schema, table_of(id=[7, 8, None], name=["Ann", "Bob", "Cid"]))
    assert out["_error"].to_pylist() == [treatment.ERASED, None, None]
    assert out["name"].to_pylist() == [None, "Bob", "Cid"]
    assert out["id"].to_pylist()[0] is None


def test_types_do_not_depend_on_the_values_of_a_block():
    privacy = Privacy(columns={"age": {"generalise": 10}})
    blocks = [
        treated(privacy, schema_of(age="integer"), table_of(age=[age])) for age in ("41", "old")
    ]
    assert blocks[0].schema == blocks[1].schema


@pytest.mark.parametrize(
    ("kind", "by"), [("integer", 2.5), ("category", "year"), ("date", 10), ("boolean", 2)]
)
def test_a_treatment_that_does_not_fit_the_kind_is_an_error(kind, by):
    privacy = Privacy(columns={"x": {"generalise": by}})
    with pytest.raises(JobError, match="generalised"):
        treatment.stored_schema(schema_of(x=kind), privacy)


@pytest.mark.parametrize(
    "wrong",
    [
        {"columns": {"a": {}}},
        {"columns": {"a": {"hash": True, "drop": True}}},
        {"columns": {"a": {"hash": False}}},
        {"columns": {"a": {"generalise": -1}}},
        {"columns": {"a": {"mask": ["SHOE_SIZE"]}}},
        {"columns": {"a": "burn"}},
        {"columns": {"id": "drop"}, "subject": "id"},
        {"columns": {"a": "mask"}, "quasi_identifiers": ["a"]},
        {"k": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        Privacy(**wrong)


def test_a_bare_off_is_off():
    assert Privacy(find=False).find == "off"


def test_the_label_is_not_treated_and_a_split_needs_what_it_goes_by():
    with pytest.raises(ValidationError, match="predicted"):
        Data(source="x", label="y", privacy={"columns": {"y": "mask"}})
    with pytest.raises(ValidationError, match="not stored"):
        Data(source="x", label="y", split={"by": ["a"]}, privacy={"columns": {"a": "drop"}})
