"""Behavioural tests of a model that is a known rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from judged_rows import SCHEMA, rows, sample, statistics, value_rule

from ray_pipeline.errors import JobError
from ray_pipeline.job import Behaviour, Evaluate
from ray_pipeline.model import behaviour
from ray_pipeline.model.sample import Sample


def share(test: dict[str, Any], regression: bool = False) -> float | None:
    declared = Behaviour.model_validate(test)
    table = rows()
    tried = Sample(table, value_rule(table), value_rule) if regression else sample()
    found = behaviour.results([declared], tried, statistics(regression), SCHEMA, positive=1)
    (result,) = found.values()
    assert result["passed"] == (result["share"] is not None and result["share"] >= 1)
    return result["share"]


def test_what_the_rule_does_not_read_changes_nothing() -> None:
    assert share({"invariance": {"column": "said"}}) == 1
    assert share({"invariance": {"column": "income", "to": [0, 1e6]}}) == 1


def test_what_the_rule_reads_is_seen_to_matter() -> None:
    found = share({"invariance": {"column": "town"}})
    logit = rows()["age"].to_pandas().fillna(0).to_numpy(dtype=float) / 5 - 1
    flips = (logit <= 0) & (logit + 2 > 0)  # Ulm and Bonn are answered otherwise
    assert found == pytest.approx(1 - flips.mean())
    assert 0.5 < found < 1


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ({"column": "age", "by": 1, "of": "yes", "expect": "rises"}, 1),
        ({"column": "age", "by": 1, "of": "no", "expect": "falls"}, 1),
        ({"column": "age", "by": 1, "expect": "never falls"}, 1),
        ({"column": "age", "by": 1, "of": "yes", "expect": "never rises"}, 0),
        ({"column": "income", "by": 5, "of": "yes", "expect": "rises"}, 0),
        ({"column": "income", "by": 5, "of": "yes", "expect": "never falls"}, 1),
        ({"column": "town", "to": "Ulm", "of": "yes", "expect": "rises"}, 1),
        ({"column": "age", "by": 1, "of": "yes", "expect": "rises", "tolerance": 0.5}, 0),
    ],
)
def test_directions(test: dict[str, Any], expected: float) -> None:
    assert share({"direction": test}) == expected


def test_a_direction_speaks_of_the_rows_that_change() -> None:
    table = rows()
    tests = [
        Behaviour.model_validate({"direction": {**change, "of": "yes", "expect": "rises"}})
        for change in ({"column": "age", "by": 1}, {"column": "town", "to": "Ulm"})
    ]
    found = behaviour.results(tests, sample(), statistics(), SCHEMA, positive=1)
    counts = [result["rows"] for result in found.values()]
    assert counts[0] == len(table) - table["age"].null_count
    assert counts[1] == table["town"].to_pylist().count("Bonn")


def test_minimum_rows_have_their_label_or_a_value_within_bounds() -> None:
    given = [{"age": 40, "town": "Ulm"}, {"age": 25}, {}]
    assert share({"minimum": {"rows": given, "label": "yes"}}) == pytest.approx(2 / 3)
    assert share({"minimum": {"rows": [{"age": 5}, {"age": 9}], "min": 9, "max": 11}}, True) == 0.5


def test_values_may_move_within_a_tolerance() -> None:
    moved = {"column": "age", "to": [0]}
    near = share({"invariance": {**moved, "tolerance": 20}}, True)
    small = abs(value_rule(rows())) <= 20
    assert near == pytest.approx(small.mean())
    assert share({"direction": {"column": "age", "by": 2, "expect": "rises"}}, True) == 1


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ({"invariance": {"column": "agee"}}, "no feature is called `agee`"),
        ({"invariance": {"column": "label"}}, "no feature is called `label`"),
        ({"invariance": {"column": "age", "to": ["old"]}}, "`old` is no value of age"),
        ({"direction": {"column": "town", "by": 1, "expect": "rises"}}, "no number to add to"),
        ({"minimum": {"rows": [{"agee": 1}], "label": "yes"}}, "no feature is called `agee`"),
        ({"minimum": {"rows": [{"age": "old"}], "label": "yes"}}, "`old` is no value of age"),
    ],
)
def test_tests_are_checked_before_anything_is_trained(test: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        behaviour.check([Behaviour.model_validate(test)], SCHEMA)


def test_a_class_that_is_none_is_named() -> None:
    for of, said in (("maybe", "no class is called `maybe`"), (None, "needs a class")):
        test = {"direction": {"column": "age", "by": 1, "of": of, "expect": "rises"}}
        with pytest.raises(JobError, match=said):
            behaviour.results(
                [Behaviour.model_validate(test)], sample(), statistics(), SCHEMA, positive=None
            )


def test_a_required_test_is_a_gate_and_the_report_says_which_failed() -> None:
    settings = Evaluate.model_validate(
        {
            "behaviour": [
                {"invariance": {"column": "town"}, "required": True, "at_least": 0.95},
                {"invariance": {"column": "said"}, "called": "deaf"},
            ]
        }
    )
    assert settings.bounds["behaviour.invariance town.share"].min == 0.95
    assert len(settings.bounds) == 1
    found = behaviour.results(settings.behaviour, sample(), statistics(), SCHEMA, positive=1)
    (section,) = behaviour.findings(found)
    (table,) = section["tables"]
    assert [(row[0], row[-1]) for row in table["rows"]] == [
        ("invariance town", "✗ required"),
        ("deaf", "✓"),
    ]
    assert np.isclose(found["deaf"]["share"], 1)
