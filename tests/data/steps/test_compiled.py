"""All row-wise steps as one function: rows, reasons and counts add up; settings that do not fit."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.data import steps
from ray_pipeline.errors import JobError
from ray_pipeline.job import Clean
from ray_pipeline.schema import Column, Schema

SCHEMA = Schema(
    columns=(
        Column(name="review", kind="text"),
        Column(name="state", kind="category"),
        Column(name="age", kind="integer"),
        Column(name="pay", kind="number"),
        Column(name="label", kind="category", role="label"),
    )
)
STEPS = [
    {"text": {"columns": ["review", "state"], "html": "strip", "urls": "<url>", "lower": True}},
    {"spelling": {"column": "state", "like": ["paris", "rome"], "other": "missing"}},
    {"range": {"column": "age", "min": 0, "max": 99}},
    {"range": {"column": "pay", "max": 1000, "outside": "clip"}},
    {"missing": {"columns": ["review", "state"], "with": "drop"}},
]
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "review": st.none() | st.text(max_size=20) | st.just("<b>x</b> www.a.b"),
            "state": st.sampled_from(["Paris", "ROME", " paris", "Oslo", None]),
            "age": st.none() | st.integers(-5, 105),
            "pay": st.none() | st.floats(-10, 2000),
            "label": st.sampled_from(["a", "b"]),
        }
    ),
    min_size=1,
    max_size=12,
)


@given(ROWS)
def test_rows_reasons_and_counts_add_up(rows):
    table = pa.Table.from_pylist(rows, schema=SCHEMA.arrow())
    found = steps.compiled(Clean(steps=STEPS), SCHEMA)(table)
    assert found.rows.schema == table.schema
    assert len(found.rows) == len(found.reasons) == len(rows)
    reasons = [reason for reason in found.reasons.to_pylist() if reason]
    assert sum(change.quarantined for change in found.changes.values()) == len(reasons)
    for row, before, reason in zip(
        found.rows.to_pylist(), rows, found.reasons.to_pylist(), strict=True
    ):
        assert row["label"] == before["label"]
        if reason is None:
            assert row["state"] in {"paris", "rome"}
            assert row["age"] is None or 0 <= row["age"] <= 99
            assert row["pay"] is None or row["pay"] <= 1000
    texts = found.changes[0, "review"]
    assert texts.rows == len(rows)
    assert texts.changed == sum(
        row["review"] != before["review"]
        for row, before in zip(found.rows.to_pylist(), rows, strict=True)
    )
    aside = found.changes[2, "age"].quarantined + found.changes[4, "review"].quarantined
    assert found.changes[4, "state"].rows == len(rows) - aside


@given(ROWS)
def test_rows_are_tidied_each_by_itself(rows):
    tidy = steps.compiled(Clean(steps=STEPS), SCHEMA)
    whole = tidy(pa.Table.from_pylist(rows, schema=SCHEMA.arrow()))
    for index, row in enumerate(rows):
        alone = tidy(pa.Table.from_pylist([row], schema=SCHEMA.arrow()))
        assert alone.rows.to_pylist() == [whole.rows.to_pylist()[index]]
        assert alone.reasons[0].as_py() == whole.reasons[index].as_py()


def test_dictionary_texts_and_absent_columns():
    table = pa.table({"state": pa.array(["Paris", "x", None]).dictionary_encode()})
    lowering = [{"text": {"columns": ["state"], "lower": True}}, *STEPS[1:]]
    found = steps.compiled(Clean(steps=lowering), SCHEMA)(table)
    assert found.rows["state"].to_pylist() == ["paris", None, None]
    assert found.changes[0, "state"].changed == 1


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"text": {"columns": ["age"]}}, "`age` is of the kind integer"),
        ({"range": {"column": "state", "min": 0}}, "`state` is of the kind category"),
        ({"units": {"column": "age", "to": "kg"}}, "`age` is of the kind integer"),
        ({"dates": {"column": "review", "formats": ["%Y"]}}, "`review` is of the kind text"),
        ({"language": {"column": "nope", "keep": ["en"]}}, "no column is called `nope`"),
        ({"missing": {"columns": ["state", "age"], "with": "model"}}, "`state` is of the kind"),
    ],
)
def test_columns_that_a_step_cannot_be_about(step, message):
    with pytest.raises(JobError, match=message) as raised:
        steps.compiled(Clean(steps=[step]), SCHEMA)
    assert "data.clean.steps[0]" in str(raised.value)


def test_a_model_must_not_read_the_label():
    numeric = Schema(
        columns=(Column(name="a", kind="number"), Column(name="y", kind="number", role="label"))
    )
    step = {"missing": {"columns": ["a", "y"], "with": "model"}}
    with pytest.raises(JobError, match="`y` is the label"):
        steps.compiled(Clean(steps=[step]), numeric)


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"text": {"columns": ["t"]}, "range": {"column": "n", "min": 0}},
        {"text": None},
        {"spelling": {"column": "s"}},
        {"spelling": {"column": "s", "values": {"a": "b"}, "threshold": 0.5}},
        {"range": {"column": "n"}},
        {"range": {"column": "n", "min": 2, "max": 1}},
        {"missing": {"columns": ["n"], "with": "model"}},
        {"language": {"column": "t", "keep": ["en"], "among": ["de"]}},
        {"nonsense": {}},
    ],
)
def test_steps_that_say_nothing_or_too_much(step):
    with pytest.raises(ValueError, match="validation error"):
        Clean(steps=[step])


def test_settings_survive_json():
    clean = Clean(steps=[*STEPS, {"missing": {"columns": ["age", "pay"], "with": "model"}}])
    assert Clean.model_validate(steps.dumped(clean)) == clean
