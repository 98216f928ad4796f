"""Aggregates of the past at points in time: of each key's rows in [time - window, time).

A row of the moment itself is not of the past. Only rows with a value count; among rows of one
moment the largest value is the last.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data import dates
from ray_pipeline.data.summary import as_doubles
from ray_pipeline.job.history import Aggregate, History, length

Doubles = NDArray[np.float64]
Places = NDArray[np.int64]


def added(events: pa.Table, past: pa.Table, settings: History) -> pa.Table:
    """`events` with the columns of `settings`, of the rows `past`: float64, counts int64.

    Both have the columns `key` (of any flat type) and `time` (timestamps); an event without either
    has no past. The cost is that of the values in all windows together.
    """
    found = _aggregates(events, past, settings)
    for name, values in found.items():
        events = events.append_column(name, values)
    return events


def latest(past: pa.Table, settings: History, at: datetime) -> pa.Table:
    """Each key of `past` with its aggregates as they are at the moment `at`.

    What an online store serves: an event at that moment has the values that `added` gives it.
    """
    keys = pc.unique(past[settings.key].combine_chunks()).drop_null()
    moments = pa.repeat(pa.scalar(at, dates.TYPE), len(keys))
    return added(pa.table({settings.key: keys, settings.time: moments}), past, settings)


def _aggregates(events: pa.Table, past: pa.Table, settings: History) -> dict[str, pa.Array]:
    keys, past_keys = _codes(events[settings.key], past[settings.key])
    times, past_times = _micros(events[settings.time]), _micros(past[settings.time])
    known = pc.is_valid(events[settings.key]).to_numpy() & (times != _NEVER)
    there = pc.is_valid(past[settings.key]).to_numpy() & (past_times != _NEVER)
    windows = {window: _micros_of(length(window)) for window in settings.windows}
    order = _Order([times, *(times - size for size in windows.values()), past_times])
    found: dict[str, pa.Array] = {}
    for column, wanted in settings.aggregates.items():
        values = as_doubles(past[column])
        use = there & np.isfinite(values)
        place = order.places(past_keys[use], past_times[use])
        sequence = np.lexsort((values[use], place))
        place, values = place[sequence], values[use][sequence]
        until = np.searchsorted(place, order.places(keys, times))
        for window, size in windows.items():
            since = np.searchsorted(place, order.places(keys, times - size))
            start, stop = np.where(known, since, 0), np.where(known, until, 0)
            for aggregate in wanted:
                name = f"{column}_{aggregate}_{window}"
                found[name] = _AGGREGATES[aggregate](values, start, stop)
    return {name: found[name] for name in settings.columns()}


_NEVER = np.iinfo(np.int64).min // 2  # so that no window before it overflows


def _micros(moments: pa.ChunkedArray) -> Places:
    micros = pc.cast(pc.cast(moments, dates.TYPE, safe=False), pa.int64())
    found: Places = pc.fill_null(micros, int(_NEVER)).to_numpy()
    return found


def _micros_of(window: timedelta) -> int:
    return window // timedelta(microseconds=1)


def _codes(keys: pa.ChunkedArray, past: pa.ChunkedArray) -> tuple[Places, Places]:
    """Keys as whole numbers, equal where the keys are."""
    texts = [pc.cast(values, pa.string()) for values in (keys, past)]
    chunks = [chunk for text in texts for chunk in text.chunks]
    known = pc.unique(pa.chunked_array(chunks, pa.string()))
    codes = [pc.index_in(text, known).to_numpy().astype(np.int64) for text in texts]
    return codes[0], codes[1]


class _Order:
    """Pairs of key and time as one number each, in their order."""

    def __init__(self, times: list[Places]) -> None:
        self.times = np.unique(np.concatenate(times))

    def places(self, keys: Places, times: Places) -> Places:
        found: Places = keys * len(self.times) + np.searchsorted(self.times, times)
        return found


Ranged = Callable[[Doubles, Places, Places], Any]


def _reduced(values: Doubles, start: Places, stop: Places, by: Any) -> Doubles:
    """`by` over values[start:stop] for each pair [N]; NaN where that is empty."""
    found = np.full(len(start), np.nan)
    some = np.flatnonzero(stop > start)
    if len(some):
        # reduceat also reduces what lies between two pairs: little where they rise. A pair may
        # end one past the last value, hence the sentinel.
        some = some[np.argsort(start[some])]
        pairs = np.column_stack([start[some], stop[some]]).ravel()
        found[some] = by.reduceat(np.append(values, 0.0), pairs)[::2]
    return found


def _number(values: Doubles) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)  # NaN is null


def _mean(values: Doubles, start: Places, stop: Places) -> pa.Array:
    with np.errstate(invalid="ignore"):
        return _number(_reduced(values, start, stop, np.add) / (stop - start))


def _last(values: Doubles, start: Places, stop: Places) -> pa.Array:
    found = np.append(values, np.nan)[np.where(stop > start, stop - 1, len(values))]
    return _number(found)


_AGGREGATES: dict[Aggregate, Ranged] = {
    "count": lambda values, start, stop: pa.array(stop - start, pa.int64()),
    "sum": lambda values, start, stop: pa.array(
        np.where(stop > start, _reduced(values, start, stop, np.add), 0.0)
    ),
    "mean": _mean,
    "min": lambda values, start, stop: _number(_reduced(values, start, stop, np.minimum)),
    "max": lambda values, start, stop: _number(_reduced(values, start, stop, np.maximum)),
    "last": _last,
}
