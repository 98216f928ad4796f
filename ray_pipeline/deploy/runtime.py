"""Predicting with a bundle: raw columns in, probabilities or values out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.bundle import Bundle
from ray_pipeline.data import dates, parsing
from ray_pipeline.data.encoders import image
from ray_pipeline.data.privacy import treatment
from ray_pipeline.data.statistics import ImageStatistics
from ray_pipeline.data.steps import serving
from ray_pipeline.deploy import accelerated, texts
from ray_pipeline.deploy.accelerated import Opened
from ray_pipeline.deploy.halves import Columns, Predict
from ray_pipeline.deploy.providers import LOADING_ERRORS, PIXELS, session
from ray_pipeline.errors import BundleError, DataError
from ray_pipeline.job.providers import Providers
from ray_pipeline.schema import TEXTS, Column, Schema

_ONNX_TYPES = {
    "integer": "tensor(double)",
    "number": "tensor(double)",
    "boolean": "tensor(double)",
    "category": "tensor(string)",
    "date": "tensor(double)",
    "text": "tensor(string)",
    "image": "tensor(uint8)",
}


class Predictor:
    """A bundle's graph, loaded.

    Args:
        bundle: an opened bundle.
        threads: threads that one `predict` may use.
        providers: what may run the model on this machine's GPU; None for the CPU alone.

    Raises:
        BundleError: the graph cannot be loaded, or does not read the schema's columns.
        ClusterError: no provider may run it here.
    """

    def __init__(
        self, bundle: Bundle, threads: int = 1, providers: Providers | None = None
    ) -> None:
        self.manifest = bundle.manifest
        check_predicts(bundle)
        self.by = accelerated.opened(bundle, providers, threads) if providers else Opened("cpu")
        self._both: Predict | None = None
        self._run = self.by.run or self._on_cpu(bundle, threads)
        self._treated = treatment.of_requests(self.manifest.schema, self.manifest.privacy)
        self._tidied = serving.tidying(self.manifest.cleaning, self.manifest.schema)

    def _on_cpu(self, bundle: Bundle, threads: int) -> Predict:
        try:
            loaded = session(str(bundle.model), threads)
        except LOADING_ERRORS as error:
            raise BundleError(
                f"cannot be loaded: {str(error).splitlines()[0]}",
                where=str(bundle.model),
                expected=f"a graph for ONNX Runtime {onnxruntime.__version__}",
            ) from error
        _check_inputs(loaded, bundle)
        outputs = [value.name for value in loaded.get_outputs()]

        def run(columns: Columns) -> NDArray[Any]:
            output: NDArray[np.float32] = loaded.run(outputs[:1], columns)[0]
            return output

        def both(columns: Columns) -> NDArray[Any]:
            output, numbers = loaded.run(outputs, columns)
            return np.concatenate([output.reshape(len(numbers), -1), numbers], axis=1)

        tokenized = texts.columns_of(bundle)
        if len(outputs) > 1:
            self._both = texts.reading(both, tokenized)
        return texts.reading(run, tokenized)

    def predict(self, columns: Columns) -> NDArray[np.float32]:
        """Probabilities [N, K] in the order of `manifest.classes`, or values [N].

        `columns` holds an array [N] for every feature column, and nothing else: float64 with NaN
        for no value (of a date, its seconds since 1970), or object (str) with "" for no value; of
        images the pixels [N, H, W, C] uint8.
        """
        return self.of_clean(self.cleaned(columns))

    def cleaned(self, columns: Columns) -> Columns:
        """The columns of a request, treated and cleaned as the training rows were."""
        if self._treated is not None:
            columns = self._treated(columns)
        if self._tidied is not None:
            columns = self._tidied(columns)
        return columns

    def of_clean(self, columns: Columns) -> NDArray[np.float32]:
        """As `predict`, of rows that were treated and cleaned before, as the path's are."""
        return self._run(columns)

    def with_numbers(
        self, columns: Columns
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As `of_clean`, and the numbers [N, D] that the model reads (distance.py); None of a
        bundle that does not tell them, or on a GPU."""
        if self._both is None:
            return self._run(columns), None
        both = self._both(columns)
        classes = self.manifest.classes
        if classes is None:
            return both[:, 0], both[:, 1:]
        return both[:, : len(classes)], both[:, len(classes) :]


def check_predicts(bundle: Bundle) -> None:
    """Raises BundleError for a language model: it writes texts, and takes no rows."""
    if bundle.manifest.task == "chat":
        raise BundleError(
            "a chatbot, which is asked questions and does not predict rows",
            where=str(bundle.path),
            expected="a bundle of a model that predicts a class or a value",
            hint="`ray-pipeline deploy` gives it an endpoint that speaks OpenAI's protocol",
        )
    if bundle.manifest.task == "generation":
        raise BundleError(
            "a language model, which answers in words and does not predict rows",
            where=str(bundle.path),
            expected="a bundle of a model that predicts a class or a value",
            hint="its folder `model` can be served by any server of language models, "
            "say `vllm serve`, or read by transformers",
        )


def predicting(model: bytes) -> Callable[[Columns], NDArray[Any]]:
    """A function from columns to the first output of a graph that is not in a bundle yet."""
    loaded = session(model)

    def predict(columns: Columns) -> NDArray[Any]:
        return _output(loaded, columns)

    return predict


def _output(loaded: onnxruntime.InferenceSession, columns: Columns) -> NDArray[Any]:
    """The graph's first output; images go through it a few at a time."""
    pixels = [math.prod(values.shape[1:3]) for values in columns.values() if values.ndim == 4]
    rows = len(next(iter(columns.values())))
    step = max(1, PIXELS // pixels[0]) if pixels else max(rows, 1)
    parts: list[NDArray[Any]] = [
        loaded.run(None, {name: v[start : start + step] for name, v in columns.items()})[0]
        for start in range(0, max(rows, 1), step)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def columns_from_table(
    table: pa.Table, schema: Schema, seen: ImageStatistics | None = None
) -> Columns:
    """The feature columns of `table` as `Predictor.predict` takes them; others are left out.

    `seen` is what the model knows of its image column, of which `table` has encoded images.

    Raises:
        DataError: a column is absent, or cannot be read as its kind.
    """
    return {column.name: _array(table, column, schema, seen) for column in schema.features}


def _array(
    table: pa.Table, column: Column, schema: Schema, seen: ImageStatistics | None
) -> NDArray[Any]:
    if column.name not in table.column_names:
        raise DataError(
            "the column is absent",
            where=column.name,
            expected=f"columns {', '.join(feature.name for feature in schema.features)}",
        )
    values = table.column(column.name)
    try:
        if column.kind in TEXTS:
            return _texts(values, schema)
        if column.kind == "date":
            return _seconds(values)
        if column.kind == "image":
            assert seen is not None, "a model reads each image column that its schema has"
            return image.encoding(seen)(values.cast(pa.binary()))
        return _floats(values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"cannot be read: {error}", where=column.name, expected=f"the kind {column.kind}"
        ) from error


def _floats(values: pa.ChunkedArray) -> NDArray[np.float64]:
    floats: NDArray[np.float64] = pc.fill_null(
        values.cast(pa.float64(), safe=False), np.nan
    ).to_numpy()
    return floats


def _seconds(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """Times, ISO 8601 texts or numbers as seconds since 1970. Raises ArrowInvalid."""
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return _floats(values)
    moments, misfits = parsing.parsed(values, "date")
    if misfits is not None and pc.any(misfits).as_py():
        raise pa.ArrowInvalid("a text is not a date (ISO 8601)")
    return dates.seconds(moments)


def _texts(values: pa.ChunkedArray, schema: Schema) -> NDArray[np.object_]:
    texts = pc.utf8_trim_whitespace(pc.fill_null(values.cast(pa.string()), ""))
    if schema.missing:
        given = pc.is_in(texts, value_set=pa.array(schema.missing, pa.string()))
        texts = pc.if_else(given, "", texts)
    array: NDArray[np.object_] = texts.to_numpy()
    return array


def _check_inputs(loaded: onnxruntime.InferenceSession, bundle: Bundle) -> None:
    found = {value.name: value.type for value in loaded.get_inputs()}
    wanted = {column.name: _ONNX_TYPES[column.kind] for column in bundle.manifest.schema.features}
    wanted |= {column.name: "tensor(int64)" for column in texts.columns_of(bundle)}
    if found != wanted:
        name = sorted({name for name, _ in found.items() ^ wanted.items()})[0]
        raise BundleError(
            f"column {name!r} is {found.get(name, 'not read')} in the graph",
            where=str(bundle.model),
            expected=f"{wanted.get(name, 'no such column')}, by the manifest's schema",
            hint="the graph and the manifest are not of one export; export again",
        )
