"""Values that are not there: rows set aside, or numbers filled by regression on other columns."""

from __future__ import annotations

import math
import warnings
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data.steps.extra import needed
from ray_pipeline.data.steps.found import Apply, Found, count
from ray_pipeline.data.summary import as_doubles
from ray_pipeline.errors import DataError
from ray_pipeline.job.steps import LinearFill, Missing
from ray_pipeline.schema import Schema

SAMPLE = 20_000
"""Rows that a model is fitted on, at most."""


def applying(settings: Missing, schema: Schema) -> Apply | None:
    """The step as a function of typed rows; None where a model is still to be fitted."""
    if settings.how == "drop":
        return _dropping(settings)
    return None if settings.fitted is None else _filling(settings, settings.fitted, schema)


def _dropping(settings: Missing) -> Apply:
    """The step that sets rows aside."""

    def apply(rows: pa.Table) -> dict[str, Found]:
        found = {}
        for name in settings.columns:
            absent = pc.is_null(rows[name])
            kinds = +Counter({"missing": count(absent)})
            found[name] = Found(rows[name], kinds, absent, f"{name}: missing")
        return found

    return apply


def fitted(values: NDArray[np.float64], settings: Missing) -> Missing:
    """The step with what scikit-learn's IterativeImputer learns from rows [n, C], NaN where
    nothing is: Bayesian ridge regressions, in turns (van Buuren and Groothuis-Oudshoorn 2011).

    Raises:
        DataError: a column has no value at all.
    """
    needed("sklearn.experimental.enable_iterative_imputer", "`missing: {with: model}`")
    impute = needed("sklearn.impute", "`missing: {with: model}`")
    present = np.isfinite(values)
    if not present.any(axis=0).all():
        name = settings.columns[int(np.argmin(present.any(axis=0)))]
        raise DataError("no row has a value", where=f"column {name}", hint="leave the column out")
    rows = np.where(present, values, np.nan)
    low, high = np.nanmin(rows, axis=0), np.nanmax(rows, axis=0)
    imputer = impute.IterativeImputer(
        initial_strategy="median", min_value=low, max_value=high, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten rounds do, settled or not
        imputer.fit(rows)
    rounds = tuple(
        (int(turn.feat_idx), tuple(turn.estimator.coef_.tolist()), float(turn.estimator.intercept_))
        for turn in imputer.imputation_sequence_
    )
    fill = LinearFill(
        initial=tuple(imputer.initial_imputer_.statistics_.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        rounds=rounds,
    )
    return settings.model_copy(update={"fitted": fill})


def filled(values: NDArray[np.float64], fill: LinearFill) -> NDArray[np.float64]:
    """Rows [N, C] without NaN, each by itself, as IterativeImputer.transform fills them."""
    absent = ~np.isfinite(values)
    whole = np.where(absent, np.array(fill.initial), values)
    others = [[o for o in range(values.shape[1]) if o != c] for c in range(values.shape[1])]
    for column, weights, constant in fill.rounds:
        rows = absent[:, column]
        guess = whole[rows][:, others[column]] @ np.array(weights) + constant
        whole[rows, column] = guess.clip(fill.low[column], fill.high[column])
    return whole


def _filling(settings: Missing, fill: LinearFill, schema: Schema) -> Apply:
    """The step that fills numbers; integers get whole numbers."""

    def apply(rows: pa.Table) -> dict[str, Found]:
        doubles = [as_doubles(rows[name]) for name in settings.columns]
        matrix = np.array(doubles).reshape(len(settings.columns), len(rows)).T
        whole = filled(matrix, fill)
        found = {}
        for index, name in enumerate(settings.columns):
            values, guesses = rows[name], whole[:, index]
            if schema[name].kind == "integer":
                guesses = np.rint(guesses).clip(
                    math.ceil(fill.low[index]), math.floor(fill.high[index])
                )
            absent = pc.is_null(values, nan_is_null=True)
            kinds = +Counter({"filled": count(absent)})
            guessed = pa.array(guesses).cast(values.type, safe=False)
            found[name] = Found(pc.if_else(absent, guessed, values), kinds)
        return found

    return apply
