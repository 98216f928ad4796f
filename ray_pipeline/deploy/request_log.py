"""What a replica keeps of requests and of what it predicted, without any of them waiting for it.

A request pays for a random number, and if it is among the sample for a place in a queue that is
bounded: where the storage cannot keep up, requests are left out and counted. Now and then what
waits is written in a thread. Rows are kept as the model reads them, treated and cleaned as the
training rows were, so that both compare, and nothing is kept here that a treatment removes there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.bundle import Manifest
from ray_pipeline.data.privacy import recognise
from ray_pipeline.data.privacy.treatment import MASKED
from ray_pipeline.deploy import log_files, pictures
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.protocol import Columns, Rows
from ray_pipeline.errors import JobError
from ray_pipeline.job.watch import Log
from ray_pipeline.schema import Column

Prediction = dict[str, Any]
MOST_ROWS, MOST_BYTES = 20_000, 32_000_000
"""Of requests that wait to be written; bytes are those of their bodies."""
_LOGGER = logging.getLogger("ray.serve")
_SWEEP_S = 60.0
_TIME = pa.timestamp("us", "UTC")


class Waiting:
    """Requests that wait to be written, by column.

    Of a prediction only what is written is kept, and nothing here but lists is looked after by
    Python's garbage collector, which would else go through tens of thousands of objects again and
    again: that took more time than all the rest.
    """

    __slots__ = ("counts", "ids", "predicted", "probability", "rows", "size", "times")

    def __init__(self) -> None:
        self.size = 0
        """Bytes of the requests' bodies, and of their pixels if those are kept."""
        self.ids: list[str] = []
        self.times: list[float] = []
        self.counts: list[int] = []
        """How many rows each request has."""
        self.rows: Rows = []
        self.predicted: list[str | float | None] = []
        self.probability: list[float | None] = []

    def add(self, number: str, rows: Rows, predictions: list[Prediction], size: int) -> None:
        """Add a request; of images there are no rows."""
        self.size += size
        self.ids.append(number)
        self.times.append(time.time())
        self.counts.append(len(predictions))
        self.rows += rows
        for one in predictions:
            self.predicted.append(_said(one))
            self.probability.append(one.get("probability"))


class Told(NamedTuple):
    """The true label of a row that was predicted, as somebody told it."""

    id: str
    row: int
    label: str | float
    time: float
    by: str


class Kept(NamedTuple):
    """What became of what waited: rows that were written or were not, and labels."""

    rows: int
    left_out: int
    labels: int


def check(settings: Log, manifest: Manifest) -> None:
    """Raises JobError where columns to mask are not there, or what finds personal data is not
    installed."""
    names = [column.name for column in manifest.schema.features]
    if unknown := [name for name in settings.mask if name not in names]:
        raise JobError(
            f"the model reads no column `{unknown[0]}`",
            where="watch.log.mask",
            expected=", ".join(names),
        )
    if settings.texts == "mask" and any(c.kind == "text" for c in manifest.schema.features):
        recognise.check_installed()


class RequestLog:
    """The log of one replica.

    Args:
        folder: the endpoint's (`log_files.folder`).
        settings: the job file's `watch.log`.
        manifest: the bundle's.
        columns: from rows as decoded to columns as the model reads them.
        counters: where is counted what was kept and what was left out.
    """

    def __init__(
        self,
        folder: UPath,
        settings: Log,
        manifest: Manifest,
        columns: Callable[[Rows], Columns],
        counters: Counters,
    ) -> None:
        self._folder, self._settings, self._manifest = folder, settings, manifest
        self._columns, self._counters = columns, counters
        self._image = pictures.image_of(manifest)
        hidden = self._image is not None and self._image.name in settings.mask
        self._unseen = self._image is not None and (settings.images == "none" or hidden)
        self._waiting = Waiting()
        self._told: list[Told] = []
        self._swept = -_SWEEP_S
        self._writing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write now and then, on the running event loop."""
        self._writing = asyncio.get_running_loop().create_task(self._each_time())

    def stop(self) -> None:
        """Write what waits, for the last time."""
        self._count(self._kept(*self._taken()))

    def offered(self, rows: Rows, predictions: list[Prediction], size: int) -> str | None:
        """Keep a request whose body had `size` bytes, if it is among the sample and there is room;
        the id by which its labels can be told."""
        if random.random() >= self._settings.sample:  # noqa: S311 - nothing secret
            return None
        waiting = self._waiting
        if self._image is not None and not self._unseen:
            size += len(rows) * math.prod(self._image.shape)  # a few kilobytes may be many pixels
        if len(waiting.predicted) + len(rows) > MOST_ROWS or waiting.size + size > MOST_BYTES:
            self._counters.left_out(len(rows))
            return None
        number = secrets.token_hex(16)
        # Else only what was predicted is kept: pixels would fill the memory.
        waiting.add(number, [] if self._unseen else rows, predictions, size)
        return number

    def told(self, labels: Sequence[Told]) -> bool:
        """Keep labels; False, and none of them, where too many wait."""
        if len(self._told) + len(labels) > MOST_ROWS:
            return False
        self._told += labels
        return True

    async def _each_time(self) -> None:
        while True:
            await asyncio.sleep(self._settings.every_s)
            taken = self._taken()
            self._count(await asyncio.to_thread(self._kept, *taken))

    def _taken(self) -> tuple[Waiting, list[Told]]:
        taken = self._waiting, self._told
        self._waiting, self._told = Waiting(), []
        return taken

    def _count(self, kept: Kept) -> None:
        self._counters.kept(kept.rows)
        self._counters.left_out(kept.left_out)
        self._counters.labelled(kept.labels)

    def _kept(self, waiting: Waiting, told: list[Told]) -> Kept:
        """Write what was taken, in a thread of its own; what cannot be written is left out."""
        rows, written, labels = len(waiting.predicted), 0, 0
        try:
            if rows and self._added(log_files.REQUESTS, self._table(waiting)):
                written = rows
            named = self._manifest.classes is not None
            if told and self._added(log_files.FEEDBACK, _labels(told, named)):
                labels = len(told)
            if time.monotonic() - self._swept >= _SWEEP_S:
                self._swept = time.monotonic()
                self._sweep()
        # The storage may be away for a while; the endpoint answers on.
        except Exception as error:  # noqa: BLE001 - counted, and logged without values
            _LOGGER.warning("the request log: %s", type(error).__name__)
        return Kept(written, rows - written, labels)

    def _added(self, what: str, table: pa.Table) -> int:
        return log_files.added(self._folder / what, table, *self._bounds(what))

    def _sweep(self) -> None:
        for what in (log_files.REQUESTS, log_files.FEEDBACK):
            log_files.swept(self._folder / what, *self._bounds(what))

    def _bounds(self, what: str) -> tuple[float, float]:
        """The bytes that a folder of the log may have, and the age in days of what is in it."""
        share = log_files.FEEDBACK_SHARE if what == log_files.FEEDBACK else 1
        return self._settings.max_bytes * share, self._settings.max_age_days

    def _table(self, waiting: Waiting) -> pa.Table:
        """The columns `id`, `row`, `time`, `version`, `predicted`, `probability` and `input`, a
        struct of the row's columns."""
        counts = np.array(waiting.counts)
        request = pa.array(np.repeat(np.arange(len(counts)), counts))
        places = np.arange(len(request)) - np.repeat(np.cumsum(counts) - counts, counts)
        moments = (np.array(waiting.times) * 1e6).astype("datetime64[us]")
        found = {
            "id": pa.array(waiting.ids).take(request),
            "row": pa.array(places, pa.int32()),
            "time": pa.array(moments, pa.timestamp("us")).cast(_TIME).take(request),
            "version": pa.repeat(self._manifest.version, len(request)),
            **_answers(waiting, self._manifest),
        }
        if waiting.rows:
            found["input"] = self._inputs(self._columns(waiting.rows))
        return pa.table(found)

    def _inputs(self, columns: Columns) -> pa.StructArray:
        features = self._manifest.schema.features
        made = [self._input(column, columns[column.name]) for column in features]
        return pa.StructArray.from_arrays(made, [column.name for column in features])

    def _input(self, column: Column, values: NDArray[Any]) -> pa.Array:
        if column.kind == "image":
            return pa.array([one.tobytes() for one in values], pa.binary(values[0].nbytes))
        text = values.dtype == object
        absent = np.array([not value for value in values]) if text else np.isnan(values)
        if column.name in self._settings.mask:
            return pa.array(np.full(len(values), MASKED, object), pa.string(), mask=absent)
        if column.kind == "text" and self._settings.texts == "length":
            return pa.array([float(len(value)) for value in values], pa.float64(), mask=absent)
        if column.kind == "text" and self._settings.texts == "mask":
            values = np.array(recognise.masked(values.tolist(), recognise.ENTITIES), object)
        return pa.array(values, pa.string() if text else pa.float64(), mask=absent)


def _said(one: Prediction) -> str | float | None:
    """What is kept of a prediction: a class, labels with `|` between, a value; no vector."""
    if "labels" in one:
        return "|".join(one["labels"])
    found: str | float | None = one.get("label", one.get("value"))
    return found


def _answers(waiting: Waiting, manifest: Manifest) -> dict[str, pa.Array]:
    if manifest.task == "regression":
        return {"predicted": pa.array(waiting.predicted, pa.float64())}
    told = {"predicted": pa.array(waiting.predicted, pa.string())}
    if manifest.thresholds is None:
        told["probability"] = pa.array(waiting.probability, pa.float64())
    return told


def _labels(told: list[Told], named: bool) -> pa.Table:
    return pa.table(
        {
            "id": pa.array([one.id for one in told]),
            "row": pa.array([one.row for one in told], pa.int32()),
            "time": pa.array([datetime.fromtimestamp(one.time, UTC) for one in told], _TIME),
            "label": pa.array([one.label for one in told], pa.string() if named else pa.float64()),
            "by": pa.array([one.by for one in told]),
        }
    )
