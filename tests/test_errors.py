"""Errors say four things, and cross process boundaries unharmed."""

from __future__ import annotations

import pickle

import pytest

from ray_pipeline import errors


def test_an_error_says_what_where_expected_and_what_to_do():
    error = errors.DataError("is empty", where="a.csv", expected="rows", hint="look at the export")
    assert str(error) == "a.csv: is empty\n  expected: rows\n  do: look at the export"


@pytest.mark.parametrize(
    "error",
    [
        errors.JobError("wrong", where="job.yaml", expected="right", hint="mend it"),
        errors.RequestError("wrong", status=422, code="invalid", where="rows[0].age"),
    ],
)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_exit_codes():
    codes = {kind.__name__: kind.exit_code for kind in errors.PipelineError.__subclasses__()}
    assert codes["GateRefused"] == 3
    assert {codes[name] for name in ("JobError", "DataError", "BundleError", "UsageError")} == {2}
    assert {codes[name] for name in ("ClusterError", "TrainingError")} == {1}
