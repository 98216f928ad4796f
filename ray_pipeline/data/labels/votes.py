"""Labelling functions: each row's votes, one column a function, null where it abstains."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.errors import DataError, JobError
from ray_pipeline.job import Function, Label, When
from ray_pipeline.schema import Schema

ABSTAINED = pa.scalar(None, pa.string())


def votes(rows: pa.Table, functions: dict[str, Function]) -> pa.Table:
    """The class that each function votes for in each of `rows`, as texts; null if for none.

    Raises:
        JobError: a function of the user's, or a bundle, cannot be loaded.
        DataError: a function's answer is no Array of one class or null a row.
    """
    return pa.table({name: _of(function, rows, name) for name, function in functions.items()})


def check(settings: Label, schema: Schema) -> None:
    """Refuse rules on columns that are not there, or do not hold what they compare. JobError."""
    for name, function in settings.functions.items():
        if (rule := function.when) is None:
            continue
        where = f"label.functions.{name}"
        if rule.column not in schema.names:
            known = ", ".join(schema.names)
            raise JobError(f"no column is called `{rule.column}`", where=where, expected=known)
        number = schema[rule.column].kind in {"integer", "number"}
        if not number and (rule.above is not None or rule.below is not None):
            raise JobError(f"`{rule.column}` is no number", where=where, expected="contains, in …")
        if number and (rule.contains is not None or rule.matches is not None):
            raise JobError(f"`{rule.column}` is a number", where=where, expected="above, below, in")


def code_digest(settings: Label) -> str:
    """A digest of the files that the user's own functions are in. Raises JobError."""
    code = hashlib.sha256()
    for name, function in settings.functions.items():
        if function.call is not None:
            source = inspect.getsourcefile(_imported(function.call, name))
            code.update(Path(source).read_bytes() if source else b"")
    return code.hexdigest()[:16]


def _of(function: Function, rows: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    if function.when is not None:
        return pc.if_else(holds(function.when, rows), function.vote, ABSTAINED)
    if function.call is not None:
        return _checked(_imported(function.call, name)(rows), rows, name)
    return _predicted(str(function.bundle), function.at_least, rows)


def holds(rule: When, rows: pa.Table) -> pa.ChunkedArray:
    """Whether the rule's condition holds, for each row; a missing value meets none."""
    values = rows[rule.column]
    texts = values if pa.types.is_string(values.type) else pc.cast(values, pa.string())
    found = []
    if rule.contains is not None:
        found.append(pc.match_substring(texts, rule.contains, ignore_case=True))
    if rule.matches is not None:
        found.append(pc.match_substring_regex(texts, rule.matches))
    if rule.among is not None:
        found.append(pc.is_in(values, pa.array(list(rule.among)).cast(values.type)))
    if rule.above is not None:
        found.append(pc.greater(values, rule.above))
    if rule.below is not None:
        found.append(pc.less(values, rule.below))
    return pc.fill_null(reduce(pc.and_, found), False)


def _imported(path: str, name: str) -> Any:
    module, _, function = path.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise JobError(
            f"`{path}` cannot be imported: {error}",
            where=f"label.functions.{name}",
            expected="module:function",
            hint="put its folder on PYTHONPATH",
        ) from error


def _checked(answer: Any, rows: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    if not isinstance(answer, pa.Array | pa.ChunkedArray) or len(answer) != len(rows):
        raise DataError(
            f"the function answered {type(answer).__name__} for {len(rows)} rows",
            where=f"label.functions.{name}",
            expected="a pyarrow Array with a class or null for each row",
        )
    return pc.cast(answer, pa.string())


def _predicted(bundle: str, at_least: float, rows: pa.Table) -> pa.Array:
    """A bundle's predictions, through MLflow, which every bundle can be opened with."""
    import mlflow.pyfunc

    try:
        model = mlflow.pyfunc.load_model(bundle)
    except mlflow.MlflowException as error:
        raise JobError(f"no bundle can be opened: {error}", where=f"label: {bundle}") from error
    named = [column.name for column in model.metadata.get_input_schema().inputs]
    answer = model.predict(rows.select(named).to_pandas())
    return pc.if_else(
        pa.array(answer["probability"] >= at_least),
        pa.array(answer["label"], pa.string()),
        ABSTAINED,
    )
