"""Aggregates of the past, against loops over pandas rows."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.data import dates, windows
from ray_pipeline.job import History
from ray_pipeline.job.history import length

WANTED = ("count", "mean", "sum", "min", "max", "last")
SETTINGS = History(
    source="unused",
    key="who",
    time="when",
    windows=("3d", "36h", "52w"),
    aggregates={"amount": WANTED, "size": ("mean", "last")},
)
START = datetime(2020, 2, 27, tzinfo=UTC)
MOMENTS = (
    st.none()
    | st.integers(0, 10).map(lambda day: START + timedelta(days=day))
    | st.integers(0, 10 * 24).map(lambda hour: START + timedelta(hours=hour))
)
WHO = st.none() | st.sampled_from(["ann", "bob", "cy"])
AMOUNTS = st.none() | st.integers(-5, 5).map(float) | st.sampled_from([float("nan"), 1e15, 0.1])


def table_of(rows: list[tuple], names: tuple[str, ...]) -> pa.Table:
    kinds = {"who": pa.string(), "when": dates.TYPE, "amount": pa.float64(), "size": pa.float64()}
    columns = zip(*rows, strict=True) if rows else [[] for _ in names]
    return pa.table(
        {name: pa.array(list(c), kinds[name]) for name, c in zip(names, columns, strict=True)}
    )


def naive(events: pa.Table, past: pa.Table) -> pd.DataFrame:
    """One event at a time: its key's rows in [time - window, time)."""
    frame, found = past.to_pandas(), []
    for event in events.to_pylist():
        row = {}
        for name, (column, aggregate, window) in SETTINGS.columns().items():
            seen = frame.iloc[:0]
            if event["who"] is not None and event["when"] is not None:
                since = event["when"] - length(window)
                seen = frame[
                    (frame["who"] == event["who"])
                    & (frame["when"] < event["when"])
                    & (frame["when"] >= since)
                ]
            values = seen.dropna(subset=[column]).sort_values(["when", column])[column]
            last = values.iloc[-1] if len(values) else np.nan
            row[name] = last if aggregate == "last" else getattr(values, aggregate)()
        found.append(row)
    return pd.DataFrame(found, columns=list(SETTINGS.columns()))


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(st.tuples(WHO, MOMENTS), max_size=6),
    past=st.lists(st.tuples(WHO, MOMENTS, AMOUNTS, AMOUNTS), max_size=12),
)
def test_as_a_loop_over_pandas_rows(events, past):
    events = table_of(events, ("who", "when"))
    past = table_of(past, ("who", "when", "amount", "size"))
    found = windows.added(events, past, SETTINGS)
    assert found.column_names == ["who", "when", *SETTINGS.columns()]
    expected = naive(events, past)
    for name in SETTINGS.columns():
        values = found[name].to_pandas().astype(float)
        np.testing.assert_allclose(values, expected[name].astype(float), rtol=1e-9, err_msg=name)


@given(
    later=st.lists(st.tuples(st.integers(0, 99), AMOUNTS), max_size=5),
    hours=st.integers(0, 200),
)
def test_what_is_of_the_moment_or_later_changes_nothing(later, hours):
    moment = START + timedelta(hours=hours)
    events = table_of([("ann", moment)], ("who", "when"))
    names = ("who", "when", "amount", "size")
    before = [("ann", moment - timedelta(microseconds=1), 2.0, 3.0)]
    after = [("ann", moment + timedelta(hours=more), amount, amount) for more, amount in later]
    known = windows.added(events, table_of(before, names), SETTINGS)
    assert windows.added(events, table_of(before + after, names), SETTINGS) == known
    assert known["amount_sum_36h"].to_pylist() == [2.0]


def test_the_window_begins_with_its_first_moment():
    moment = START + timedelta(days=3)
    events = table_of([("ann", moment)], ("who", "when"))
    early = moment - timedelta(days=3)
    rows = [("ann", early, 1.0, 1.0), ("ann", early - timedelta(microseconds=1), 9.0, 9.0)]
    past = table_of(rows, ("who", "when", "amount", "size"))
    assert windows.added(events, past, SETTINGS)["amount_sum_3d"].to_pylist() == [1.0]


def test_the_latest_values_are_those_of_an_event_now():
    rng = np.random.default_rng(0)
    hours = rng.integers(0, 400, 300).tolist()
    rows = [
        (f"user {rng.integers(20)}", START + timedelta(hours=hour), rng.normal(), rng.normal())
        for hour in hours
    ]
    past = table_of([*rows, (None, START, 1.0, 1.0)], ("who", "when", "amount", "size"))
    now = START + timedelta(hours=200)
    found = windows.latest(past, SETTINGS, now)
    assert sorted(found["who"].to_pylist()) == sorted({row[0] for row in rows})
    events = pa.table({"who": found["who"], "when": pa.array([now] * len(found), dates.TYPE)})
    assert found.drop_columns("when") == windows.added(events, past, SETTINGS).drop_columns("when")


def test_whole_numbers_are_keys_as_well():
    keyed = SETTINGS.model_copy(update={"aggregates": {"amount": ("count",)}, "windows": ("7d",)})
    events = pa.table({"who": [7, 8], "when": pa.array([START] * 2, dates.TYPE)})
    when = pa.array([START - timedelta(days=1)], dates.TYPE)
    past = pa.table({"who": [7], "when": when, "amount": [1.0]})
    assert windows.added(events, past, keyed)["amount_count_7d"].to_pylist() == [1, 0]


def test_many_events_of_one_key_in_no_order_are_quick():
    rng = np.random.default_rng(0)
    micros = rng.integers(0, 365 * 86_400 * 10**6, 100_000)
    moments = pa.array(micros, pa.int64()).cast(dates.TYPE)
    rows = pa.table({"who": pa.repeat("ann", 100_000), "when": moments})
    past = rows.append_column("amount", pa.array(rng.normal(size=100_000)))
    settings = History(
        source="x", key="who", time="when", windows=("1d",), aggregates={"amount": ("min", "mean")}
    )
    begun = time.process_time()  # another process's share does not count
    windows.added(rows, past, settings)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("wrong", ["7", "d", "0d", "-1d", "7 d", "1y"])
def test_a_window_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="is no window"):
        History(source="x", key="k", time="t", windows=(wrong,), aggregates={"a": ("mean",)})
