"""ISO 8601 texts to moments, against Python's own parser and calendar."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.data import dates, parsing

ZONES = st.none() | st.integers(-23 * 60, 23 * 60).map(lambda m: timezone(timedelta(minutes=m)))
MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES)
TEXTS = st.one_of(
    MOMENTS.map(lambda moment: moment.isoformat()),
    MOMENTS.map(lambda moment: moment.isoformat(" ", timespec="minutes")),
    st.dates().map(str),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", fullmatch=True),
    st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]Z?", fullmatch=True),
    st.sampled_from(
        ["20130101", "2013-W01-1", "2013-01-01T24:00", "2016-12-31T23:59:60Z", "", "x"]
    ),
    st.sampled_from(["2013-01-01T05:06:07.123456789Z", "2013-01-01T05:06:07.5-0330"]),
    st.text(max_size=12),
)


def expected(text: str) -> float | None:
    """Seconds by Python's parser, which also reads forms that are refused here."""
    separated = len(text) >= 10 and text[4] + text[7] == "--" and text[10:11] in ("", "T", " ")
    clock = len(text) == 10 or text[13:14] == ":"
    if not (separated and clock and text.isascii()) or "24:" in text[11:13] + ":":
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return dates.seconds_of(found)


@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
def test_texts_are_read_as_python_reads_them(texts):
    values, misfits = parsing.parsed(pa.chunked_array([pa.array(texts, pa.string())]), "date")
    found = zip(texts, dates.seconds(values), misfits.to_pylist(), strict=True)
    for text, by_column, misfit in found:
        wanted, alone = expected(text), dates.moment(text)
        assert misfit == (wanted is None) == (alone is None), text
        if wanted is not None:
            assert by_column == dates.seconds_of(alone) == pytest.approx(wanted, abs=2e-6)


def test_the_leap_days_of_all_years():
    texts = [f"{year:04d}-02-29" for year in range(1, 10_000)]
    _, misfits = dates.parsed(pa.array(texts))
    assert misfits.to_pylist() == [not calendar.isleap(year) for year in range(1, 10_000)]


def test_times_of_any_type_in_seconds():
    moment = datetime(1969, 12, 31, 23, 59, 59, 250_000)
    for kind in (pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms", "Asia/Tokyo")):
        values = pa.chunked_array([pa.array([moment.replace(tzinfo=UTC), None], kind)])
        assert dates.seconds(values)[0] == -0.75
        typed, misfits = parsing.parsed(values, "date")
        assert (typed.type, misfits) == (dates.TYPE, None)
    assert dates.seconds(pa.array([date(1970, 1, 2)])).tolist() == [86_400]


def test_dates_are_inferred_but_not_from_numbers():
    for texts, kind in (
        (["2013-01-01", "2013-01-01 05:00:00", None], "date"),
        (["0099-01-01"], "date"),
        (["2013-01-01", "soon"], "category"),
        (["20130101"], "integer"),
        ([None], "category"),
    ):
        assert parsing.inferred(pa.array(texts, pa.string())) == kind


def test_shown_as_iso_text_whatever_the_seconds():
    assert dates.shown(1.5e9) == "2017-07-14T02:40:00Z"
    assert dates.shown(-1e300) == "0001-01-01T00:00:00Z"
    assert dates.shown(1e300) == "9999-12-31T23:59:59Z"
