"""The bundle as MLflow's `python_function`: `mlflow.pyfunc.load_model(bundle).predict(rows)`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ray_pipeline import bundle
from ray_pipeline.bundle import Manifest
from ray_pipeline.data.label_sets import named
from ray_pipeline.deploy import pictures
from ray_pipeline.deploy.runtime import Predictor, columns_from_table
from ray_pipeline.errors import DataError
from ray_pipeline.model.multilabel import decided


class BundleModel:
    """What MLflow calls, once it has checked the rows against the signature."""

    def __init__(self, path: str) -> None:
        self._predictor = Predictor(bundle.opened(path))

    def predict(self, rows: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """`label`, `probability`, `probabilities` (by class) for raw rows; or `labels` and
        `probabilities`, or `value`, or `vector`.

        Raises:
            DataError: a column is absent, or cannot be read as its kind.
        """
        manifest = self._predictor.manifest
        table = pa.table(
            {
                column.name: _array(rows[column.name])
                for column in manifest.schema.features
                if column.name in rows
            }
        )
        columns = columns_from_table(table, manifest.schema, pictures.image_of(manifest))
        outputs = self._predictor.predict(columns)
        return pd.DataFrame(predictions(outputs, manifest), index=rows.index)


def predictions(outputs: NDArray[np.float32], manifest: Manifest) -> dict[str, Any]:
    """The endpoint's answer, by column instead of by row."""
    if manifest.task == "retrieval":
        return {"vector": outputs.astype(float).tolist()}
    if manifest.classes is None:
        return {"value": outputs.astype(float)}
    shares = [dict(zip(manifest.classes, row, strict=True)) for row in outputs.tolist()]
    if manifest.thresholds is not None:
        given = decided(outputs.astype(float), manifest.thresholds)
        return {"labels": named(given, manifest.classes), "probabilities": shares}
    best = outputs.argmax(axis=1)
    return {
        "label": np.array(manifest.classes, dtype=object)[best],
        "probability": outputs.max(axis=1).astype(float),
        "probabilities": shares,
    }


def _array(values: pd.Series[Any]) -> pa.Array:
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"values of different types: {error}", where=str(values.name), expected="one type"
        ) from error


def _load_pyfunc(path: str) -> BundleModel:  # the name that MLflow looks for
    return BundleModel(path)
