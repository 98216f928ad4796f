"""The steps that a request goes through as the training rows did, out of a bundle's manifest.

They change values and set none aside: a request is answered. Steps that only drop rows (language,
near duplicates, `quarantine`) are not among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data import parsing
from ray_pipeline.data.steps import applied_to, dumped, function, reading
from ray_pipeline.data.steps.found import Apply, Found
from ray_pipeline.job import Clean
from ray_pipeline.job.steps import Spelling, Step, Units
from ray_pipeline.schema import TEXTS, Column, Schema

Columns = dict[str, NDArray[Any]]
ReadValue = Callable[[str], Any]


def served(clean: Clean, fitted: Mapping[str, Any] | None, schema: Schema) -> dict[str, Any]:
    """What a bundle's manifest keeps of the cleaning; empty if requests need none.

    `fitted` is what `applied` recorded under that name, None where there are no steps.
    """
    steps = Clean.model_validate(fitted).steps if fitted else ()
    features = {column.name for column in schema.features}
    kept = [step for step in (_for_requests(step, features) for step in steps) if step is not None]
    replace = {name: found for name, found in clean.replace.items() if name in features}
    if not kept and not replace:
        return {}
    return dumped(Clean(replace=replace, steps=tuple(kept)))


def _for_requests(step: Step, features: set[str]) -> Step | None:
    """A step as it is for feature columns; None if it changes none of their values."""
    action = step.action
    if step.name in {"language", "near_duplicates", "outliers"} or not features & {*step.columns}:
        return None
    if step.missing is not None:
        return step if step.missing.fitted is not None else None
    if getattr(action, "outside", "") == "quarantine":
        return None
    if step.spelling is not None and step.spelling.other == "quarantine":
        return Step(spelling=step.spelling.model_copy(update={"other": "keep"}))
    if step.text is not None:
        columns = tuple(name for name in step.text.columns if name in features)
        return Step(text=step.text.model_copy(update={"columns": columns}))
    return step


def readers(cleaning: Mapping[str, Any], schema: Schema) -> dict[str, ReadValue]:
    """By column, a function from the text that a request has where a number or a date belongs to
    that number, or to the date in ISO 8601; to the text itself if it cannot be read."""
    clean = Clean.model_validate(cleaning)
    found: dict[str, list[reading.Reader]] = {}
    for _, step in reading.steps(clean):
        found.setdefault(step.columns[0], []).append(reading.reader(step, bare=True))
    for name in clean.replace:
        if schema[name].kind not in TEXTS:
            found.setdefault(name, [])
    return {
        name: _value_reader(schema[name], made, clean.replace.get(name, {}), schema)
        for name, made in found.items()
    }


def _value_reader(
    column: Column, made: list[reading.Reader], replace: Mapping[str, str], schema: Schema
) -> ReadValue:
    def read(text: str) -> Any:
        values = pa.chunked_array([[text.strip()]], pa.string())
        for reader in made:
            values = reader(values)
        spelled = values[0].as_py()
        spelled = replace.get(spelled, spelled)
        if spelled in schema.missing_texts:
            return None
        found, misfits = parsing.parsed(pa.chunked_array([[spelled]], pa.string()), column.kind)
        if misfits is not None and misfits[0].as_py():
            return text
        return spelled if column.kind == "date" else found[0].as_py()

    return read


def tidying(cleaning: Mapping[str, Any], schema: Schema) -> Callable[[Columns], Columns] | None:
    """A function of the columns that a Predictor reads; None if there is nothing to do.

    Only the columns that a step names are made into Arrow's and back.
    """
    if not cleaning:
        return None
    clean = Clean.model_validate(cleaning)
    functions = [
        (0, _spelled(name, values))
        for name, values in clean.replace.items()
        if schema[name].kind in TEXTS
    ]
    functions += [
        (number, made)
        for number, step in enumerate(clean.steps)
        if (made := _of_request(step, schema)) is not None
    ]
    names = {name for step in clean.steps for name in step.columns if step.dates is None}
    names |= {name for name in clean.replace if schema[name].kind in TEXTS}

    def tidied(columns: Columns) -> Columns:
        rows = pa.table({name: _as_arrow(columns[name]) for name in names})
        found = applied_to(rows, functions).rows
        return columns | {name: _as_numpy(found[name], columns[name].dtype) for name in names}

    return tidied if functions else None


def _spelled(name: str, values: dict[str, str]) -> Apply:
    step = Step(spelling=Spelling(column=name, values=values, fold=False))
    made = function(step, Schema(columns=(Column(name=name, kind="category"),)))
    assert made is not None, "spelling is row-wise"
    return made


def _of_request(step: Step, schema: Schema) -> Apply | None:
    if step.units is not None:
        return _converting(step.units)
    return function(step, schema)


def _converting(settings: Units) -> Apply | None:
    """Numbers in the unit that bare ones have, in the unit of training."""
    if settings.assume in {None, settings.to}:
        return None
    times, plus = reading.factor(str(settings.assume), settings.to)

    def apply(rows: pa.Table) -> dict[str, Found]:
        values = pc.add(pc.multiply(rows[settings.column], times), plus)
        return {settings.column: Found(values, Counter())}

    return apply


def _as_arrow(values: NDArray[Any]) -> pa.Array:
    if values.dtype == np.object_:
        return pa.array([text or None for text in values], pa.string())
    return pa.array(values, from_pandas=True)


def _as_numpy(values: pa.ChunkedArray, kind: np.dtype[Any]) -> NDArray[Any]:
    found: NDArray[Any]
    if kind == np.object_:
        found = pc.fill_null(values, "").to_numpy()
        return found.astype(np.object_)
    found = pc.fill_null(pc.cast(values, pa.float64()), np.nan).to_numpy()
    return found
