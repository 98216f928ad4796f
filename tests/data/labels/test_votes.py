"""Rules against pandas' conditions; the user's own functions; what is refused."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small_bundles import FEATURES, Exported, raw_rows

from ray_pipeline.data import conditions
from ray_pipeline.data.labels import votes
from ray_pipeline.deploy.runtime import Predictor, columns_from_table
from ray_pipeline.errors import BundleError, DataError, JobError
from ray_pipeline.job import Function, Label, When
from ray_pipeline.schema import Column, Schema

ROWS = pa.table(
    {
        "text": ["Best tea", "worst. coffee", None, "the BEST coffee", "plain"],
        "price": pa.array([1.0, 20.0, 3.0, None, 10.0]),
        "stars": pa.array([5, 1, 4, 3, None]),
        "fresh": pa.array([True, False, None, True, True]),
    }
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"column": "text", "contains": "best"}, [0, 3]),
        ({"column": "text", "contains": "worst."}, [1]),  # a text, no expression
        ({"column": "text", "matches": r"(?i)^the|tea$"}, [0, 3]),
        ({"column": "price", "above": 3}, [1, 4]),
        ({"column": "price", "above": 2, "below": 11}, [2, 4]),
        ({"column": "stars", "in": [1, 4]}, [1, 2]),
        ({"column": "fresh", "in": [True]}, [0, 3, 4]),
        ({"column": "text", "in": ["plain"], "contains": "plain"}, [4]),
    ],
)
def test_a_rule_holds_where_its_conditions_do(rule: dict[str, Any], expected: list[int]) -> None:
    held = conditions.holds(When.model_validate(rule), ROWS).to_pylist()
    assert [row for row, holds in enumerate(held) if holds] == expected


def module(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    made = types.ModuleType("own_votes")
    made.vote = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_votes", made)


def test_functions_vote_side_by_side_and_may_abstain(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, lambda rows: pc.if_else(pc.greater(rows["price"], 5), "bad", None))
    rule = Function(when=When(column="text", contains="best"), vote="good")
    found = votes.votes(ROWS, {"praise": rule, "dear": Function(call="own_votes:vote")})
    assert found["praise"].to_pylist() == ["good", None, None, "good", None]
    assert found["dear"].to_pylist() == [None, "bad", None, None, "bad"]


def test_an_answer_of_another_length_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, lambda rows: pa.array(["bad"]))
    with pytest.raises(DataError, match="for 5 rows"):
        votes.votes(ROWS, {"own": Function(call="own_votes:vote")})
    with pytest.raises(JobError, match="cannot be imported"):
        votes.votes(ROWS, {"own": Function(call="own_votes:other")})


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"column": "txt", "contains": "a"}, "no column is called `txt`"),
        ({"column": "text", "above": 1}, "`text` is no number"),
        ({"column": "price", "matches": "1"}, "`price` is a number"),
    ],
)
def test_rules_are_checked_against_the_columns(rule: dict[str, Any], said: str) -> None:
    columns = (Column(name="text", kind="category"), Column(name="price", kind="number"))
    function = Function(when=When.model_validate(rule), vote="good")
    with pytest.raises(JobError, match=said):
        votes.check(Label(functions={"one": function}), Schema(columns=columns))


def test_an_expression_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        When(column="text", matches="(")


def test_a_bundle_votes_where_it_is_sure(voting_bundle: Exported) -> None:
    features = Schema(columns=FEATURES)
    rows = pa.table(raw_rows(200), schema=features.arrow())
    rows = rows.append_column("other", pa.nulls(200, pa.string()))
    predictor = Predictor(voting_bundle.bundle)
    chances = predictor.predict(columns_from_table(rows, predictor.manifest.schema))
    sure = float(np.median(chances.max(1)))
    path = str(voting_bundle.bundle.path)
    function = Function(bundle=path, at_least=sure)
    [found] = votes.votes(rows, {"older": function}).to_pydict().values()
    names = np.array(predictor.manifest.classes)[chances.argmax(1)]
    expected = [n if c >= sure else None for n, c in zip(names, chances.max(1), strict=True)]
    assert found == expected
    assert 0 < found.count(None) < 200
    votes.check(Label(functions={"older": function}), Schema(columns=FEATURES))


def test_a_bundle_that_cannot_vote_is_refused_before_anything_runs(
    voting_bundle: Exported, tmp_path: Any
) -> None:
    older = Label(functions={"older": Function(bundle=str(voting_bundle.bundle.path))})
    with pytest.raises(JobError, match="the bundle reads `age`"):
        votes.check(older, Schema(columns=FEATURES[1:]))
    nowhere = Label(functions={"older": Function(bundle=str(tmp_path))})
    with pytest.raises(BundleError):
        votes.check(nowhere, Schema(columns=FEATURES))


def test_the_fingerprint_is_of_all_that_labels_hang_on(
    voting_bundle: Exported, tmp_path: Any
) -> None:
    rules = {"rule": Function(when=When(column="text", contains="a"), vote="good")}
    bundle = {"older": Function(bundle=str(voting_bundle.bundle.path))}
    export = tmp_path / "export.json"
    found = set()
    for content in ("[]", "[{}]"):
        export.write_text(content)
        found |= {
            votes.fingerprint(Label(functions=functions, annotations=(str(export),)))
            for functions in (rules, rules | bundle)
        }
    assert len(found) == 4
    before = votes.fingerprint(Label(functions=rules, annotations=(str(export),)))
    export.write_text("[{}]")
    assert votes.fingerprint(Label(functions=rules, annotations=(str(export),))) == before
