"""What a replica keeps of requests and of what it predicted, without any of them waiting for it.

A request pays for a random number, and if it is among the sample for a place in a queue that is
bounded: where the storage cannot keep up, requests are left out and counted. Now and then what
waits is written in a thread. Rows are kept as the model reads them, treated and cleaned as the
training rows were, so that both compare, and nothing is kept here that a treatment removes there.
"""

from __future__ import annotations

import asyncio
import logging
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
from ray_pipeline.deploy import log_files
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


class Entry(NamedTuple):
    """A request that waits to be written."""

    id: str
    time: float
    rows: Rows
    predictions: list[Prediction]


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
        self._seen = any(column.kind == "image" for column in manifest.schema.features)
        self._entries: list[Entry] = []
        self._told: list[Told] = []
        self._rows = self._bytes = 0
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
        if self._rows + len(rows) > MOST_ROWS or self._bytes + size > MOST_BYTES:
            self._counters.left_out(len(rows))
            return None
        self._rows += len(rows)
        self._bytes += size
        number = secrets.token_hex(16)
        # Of images only what was predicted is kept: pixels would fill the memory.
        self._entries.append(Entry(number, time.time(), [] if self._seen else rows, predictions))
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

    def _taken(self) -> tuple[list[Entry], list[Told]]:
        taken = self._entries, self._told
        self._entries, self._told, self._rows, self._bytes = [], [], 0, 0
        return taken

    def _count(self, kept: Kept) -> None:
        self._counters.kept(kept.rows)
        self._counters.left_out(kept.left_out)
        self._counters.labelled(kept.labels)

    def _kept(self, entries: list[Entry], told: list[Told]) -> Kept:
        """Write what was taken, in a thread of its own; what cannot be written is left out."""
        rows, labels = sum(len(entry.predictions) for entry in entries), 0
        written = 0
        try:
            if entries and self._added(log_files.REQUESTS, self._table(entries)):
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

    def _table(self, entries: list[Entry]) -> pa.Table:
        """The columns `id`, `row`, `time`, `version`, `predicted`, `probability` and `input`, a
        struct of the row's columns."""
        counts = [len(entry.predictions) for entry in entries]
        predictions = [one for entry in entries for one in entry.predictions]
        moments = [datetime.fromtimestamp(entry.time, UTC) for entry in entries]
        found = {
            "id": pa.array(np.repeat([entry.id for entry in entries], counts).tolist()),
            "row": pa.array([place for count in counts for place in range(count)], pa.int32()),
            "time": pa.array(np.repeat(np.array(moments), counts).tolist(), _TIME),
            "version": pa.array([self._manifest.version] * len(predictions)),
            **_said(predictions, self._manifest),
        }
        rows = [row for entry in entries for row in entry.rows]
        if rows:
            found["input"] = self._inputs(self._columns(rows))
        return pa.table(found)

    def _inputs(self, columns: Columns) -> pa.StructArray:
        features = [c for c in self._manifest.schema.features if c.kind != "image"]
        made = [self._input(column, columns[column.name]) for column in features]
        return pa.StructArray.from_arrays(made, [column.name for column in features])

    def _input(self, column: Column, values: NDArray[Any]) -> pa.Array:
        text = values.dtype == object
        absent = np.array([not value for value in values]) if text else np.isnan(values)
        if column.name in self._settings.mask:
            return pa.array(np.full(len(values), MASKED, object), pa.string(), mask=absent)
        if column.kind == "text" and self._settings.texts == "length":
            return pa.array([float(len(value)) for value in values], pa.float64(), mask=absent)
        if column.kind == "text":
            values = np.array(recognise.masked(values.tolist(), recognise.ENTITIES), object)
        return pa.array(values, pa.string() if text else pa.float64(), mask=absent)


def _said(predictions: list[Prediction], manifest: Manifest) -> dict[str, pa.Array]:
    """What was predicted: a class and how probable it is, labels with `|` between, or a value."""
    if manifest.task == "regression":
        values = [one["value"] for one in predictions]
        return {"predicted": pa.array(values, pa.float64())}
    if manifest.thresholds is not None:
        labels = ["|".join(one["labels"]) for one in predictions]
        return {"predicted": pa.array(labels, pa.string())}
    return {
        "predicted": pa.array([one.get("label") for one in predictions], pa.string()),
        "probability": pa.array([one.get("probability") for one in predictions], pa.float64()),
    }


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
