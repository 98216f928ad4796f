"""What an endpoint makes of rows: it reads, checks and predicts them, and finds odd ones.

Every way in (REST, GraphQL, the Open Inference Protocol, jobs) goes through here, so that the same
rows have the same answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.bundle import Manifest
from ray_pipeline.data.steps import serving
from ray_pipeline.deploy import auth, bodies, label_lists, pictures
from ray_pipeline.deploy.batcher import Batcher
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.guard import Flag, Guard
from ray_pipeline.deploy.protocol import Columns, Protocol, Rows
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.errors import RequestError
from ray_pipeline.job import Serve

if TYPE_CHECKING:  # its client is an extra
    from ray_pipeline.deploy.online import Lookup

Prediction = dict[str, Any]
Read = TypeVar("Read")


class Predicted(NamedTuple):
    """A prediction for each row, and the flags of those unlike the training rows."""

    predictions: list[Prediction]
    flags: list[Flag]


class Predictions:
    """The predictions of one model.

    Args:
        predictor: the model.
        settings: the job's `serve` section.
        counters: where flags and runs of the model are counted.
        online: reads the features that rows lack.
        guard: finds rows unlike the training rows; None for `serve.guard: off`.
        max_rows: rows that are read at a time, if not those of a request.
    """

    def __init__(
        self,
        predictor: Predictor,
        settings: Serve,
        *,
        counters: Counters,
        online: Lookup | None = None,
        guard: Guard | None = None,
        max_rows: int | None = None,
    ) -> None:
        self.manifest = manifest = predictor.manifest
        self._settings, self._guard = settings, guard
        self.protocol = Protocol(
            manifest.schema,
            max_rows or settings.max_rows,
            serving.readers(manifest.cleaning, manifest.schema),
            pictures.image_of(manifest),
        )
        self._bare = bodies.reading(manifest.schema)
        seconds = settings.batch_ms / 1000
        self._batcher = Batcher(self._outputs, settings.max_rows, seconds, ran=self._ran)
        self._predictor, self._counters, self._online = predictor, counters, online
        self._prediction = prediction_maker(manifest, settings.round)

    async def read(self, body: bytes, headers: auth.Headers) -> Rows:
        """The rows of a request's body. Raises RequestError, as Protocol.rows does."""
        row = self._bare(body, headers) if self._bare else None
        if row is None and self._online is None:
            return await self.decoded(lambda: self.protocol.rows(body))
        return await self.checked(self.protocol.documents(body) if row is None else [row])

    async def checked(self, documents: Sequence[Any]) -> Rows:
        """Rows as they stood in a body, decoded. Raises RequestError: 422, and where; 503."""
        if self._online is not None:
            documents = await self._online.filled(documents)
        return await self.decoded(lambda: self.protocol.checked(documents))

    async def decoded(self, read: Callable[[], Read]) -> Read:
        """`read()`; in a thread where there are images, which take a while to decode."""
        return read() if self.protocol.image is None else await asyncio.to_thread(read)

    async def of(self, rows: Rows) -> Predicted:
        """What the model says of `rows`, in their order.

        Raises:
            RequestError: 422 where some are unlike the training rows, and those are refused.
        """
        results = await self._batcher.results(rows)
        flags = [
            flag._replace(row=index) for index, (_, found) in enumerate(results) for flag in found
        ]
        if flags:
            self._counters.flagged(flags)
            if self._settings.guard == "refuse":
                raise RequestError(
                    flags[0].why, status=422, code="unlike_training", where=flags[0].where
                )
        return Predicted([self._prediction(output) for output, _ in results], flags)

    def _ran(self, rows: int, waited: list[float], took: float) -> None:
        """Count a run of the model."""
        counters = self._counters
        counters.ran(rows)
        for seconds in waited:
            counters.staged("wait", seconds)
            counters.staged("predict", took)

    def columns(self, rows: Rows) -> Columns:
        """The columns that the model reads of `rows`, treated and cleaned."""
        return self._predictor.cleaned(self.protocol.columns(rows))

    def _outputs(self, rows: Rows) -> list[tuple[Any, Sequence[Flag]]]:
        """For each row the model's output, and its flags."""
        columns = self.columns(rows)
        numbers = None
        if self._guard and self._guard.by_distance:
            made, numbers = self._predictor.with_numbers(columns)
        else:
            made = self._predictor.of_clean(columns)
        outputs = plain_numbers(made)
        found = self._guard.flags(columns, numbers) if self._guard else ()
        if not found:
            return [(output, ()) for output in outputs]
        by_row: dict[int, list[Flag]] = {}
        for flag in found:
            by_row.setdefault(flag.row, []).append(flag)
        return [(output, by_row.get(row, ())) for row, output in enumerate(outputs)]


def answered(predicted: Predicted, version: str, number: str | None = None) -> dict[str, Any]:
    """The document that callers get; with the `number` by which labels can be told, if there is
    one."""
    answer: dict[str, Any] = {"predictions": predicted.predictions, "version": version}
    if number is not None:
        answer["id"] = number
    if predicted.flags:
        answer["warnings"] = [
            {"where": flag.where, "message": flag.why} for flag in predicted.flags
        ]
    return answer


def prediction_maker(manifest: Manifest, digits: int | None = None) -> Callable[[Any], Prediction]:
    """A function from a model's output for a row to the prediction that callers get.

    Probabilities have at most `digits` decimals and values as many significant digits; the label
    is that of the model's own output.
    """
    classes = manifest.classes
    if classes is not None and manifest.thresholds is not None:
        return label_lists.predicting(classes, manifest.thresholds, digits)
    if manifest.task == "retrieval":
        if digits is None:
            return lambda vector: {"vector": vector}
        return lambda vector: {"vector": [round(number, digits) for number in vector]}
    if classes is None:
        return lambda value: {"value": value if digits is None else float(f"{value:.{digits}g}")}

    def classified(probabilities: list[float]) -> Prediction:
        best = max(probabilities)
        label = classes[probabilities.index(best)]
        if digits is not None:
            best = round(best, digits)
            probabilities = [round(share, digits) for share in probabilities]
        return {
            "label": label,
            "probability": best,
            "probabilities": dict(zip(classes, probabilities, strict=True)),
        }

    return classified


def plain_numbers(output: NDArray[np.float32]) -> list[Any]:
    """Python numbers without the digits that float32 does not hold.

    Probabilities and vectors [N, K] are rounded to 7 decimals; values [N] have the fewest digits
    that read back as the same float32.
    """
    if output.ndim == 2:
        rounded: list[list[float]] = np.round(output.astype(np.float64), 7).tolist()
        return rounded
    return [float(str(value)) for value in output]
