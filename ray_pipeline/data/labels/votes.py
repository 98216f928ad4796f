"""Labelling functions: each row's votes, one column a function, null where it abstains."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline import bundle
from ray_pipeline.data import conditions
from ray_pipeline.data.labels import label_studio
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.job import Function, Label
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
    """Refuse rules on columns that are not there, or do not hold what they compare, bundles that
    have other columns, and exports that cannot be read.

    Raises:
        BundleError, DataError, JobError: what is wrong, and where.
    """
    label_studio.read(settings.annotations, settings.classes)
    for name, function in settings.functions.items():
        where = f"label.functions.{name}"
        if function.bundle is not None:
            check_bundle(function.bundle, schema, where)
        if function.when is not None:
            conditions.check(function.when, schema, where)


def check_bundle(path: str, schema: Schema, where: str) -> tuple[str, ...]:
    """The classes of a bundle that can predict rows of `schema`.

    Raises:
        BundleError: there is no such bundle.
        JobError: it does not classify, or reads other columns.
    """
    manifest = bundle.opened(path, verify=False).manifest
    if manifest.classes is None:
        raise JobError("the bundle predicts values", where=where, expected="one with classes")
    for column in manifest.schema.features:
        if column.name not in schema.names:
            known = ", ".join(schema.names)
            raise JobError(f"the bundle reads `{column.name}`", where=where, expected=known)
    return manifest.classes


def fingerprint(settings: Label) -> str:
    """A digest of what labels hang on besides the settings: the files of the user's own functions,
    the bundles that vote, the exports of annotations. Raises DataError, JobError."""
    found = hashlib.sha256(label_studio.fingerprint(settings.annotations).encode())
    for name, function in settings.functions.items():
        if function.call is not None:
            source = inspect.getsourcefile(_imported(function.call, name))
            found.update(Path(source).read_bytes() if source else b"")
        if function.bundle is not None:
            found.update(bundle.opened(function.bundle).manifest.digest.encode())
    return found.hexdigest()[:16]


def _of(function: Function, rows: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    if function.when is not None:
        return pc.if_else(conditions.holds(function.when, rows), function.vote, ABSTAINED)
    if function.call is not None:
        return _checked(_imported(function.call, name)(rows), rows, name)
    return _predicted(str(function.bundle), function.at_least, rows)


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


def _predicted(path: str, at_least: float, rows: pa.Table) -> pa.Array:
    answer = predictions(path, rows)
    return pc.if_else(
        pa.array(answer["probability"] >= at_least),
        pa.array(answer["label"], pa.string()),
        ABSTAINED,
    )


def predictions(path: str, rows: pa.Table) -> pd.DataFrame:
    """What a bundle says of `rows`: `label`, `probability`, `probabilities` by class.

    Through MLflow, which every bundle can be opened with.

    Raises BundleError.
    """
    import mlflow.pyfunc

    manifest = bundle.opened(path).manifest
    named = [column.name for column in manifest.schema.features]
    answer: pd.DataFrame = mlflow.pyfunc.load_model(path).predict(rows.select(named).to_pandas())
    return answer
