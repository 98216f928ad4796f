"""Dates and units: against datetime with zoneinfo, and conversions that standards define."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.data import parsing
from ray_pipeline.data.steps import reading
from ray_pipeline.errors import JobError
from ray_pipeline.job import Clean, Step


def read(values, bare=False, **step):
    return reading.reader(Step(**step), bare)(pa.chunked_array([pa.array(values)]))


def dated(values, *formats, **settings):
    texts = read(values, dates={"column": "d", "formats": formats, **settings})
    found, misfits = parsing.parsed(texts, "date")
    return found.to_pylist(), misfits.to_pylist()


def test_the_first_format_that_fits_and_iso():
    found, misfits = dated(
        ["31.01.2013", "2013-02-01", "5/6/13", None, "31.02.2013", "1.1.13 extra"],
        "%d.%m.%Y",
        "%m/%d/%y",
    )
    assert [day and day.date().isoformat() for day in found] == [
        *("2013-01-31", "2013-02-01", "2013-05-06", None, None, None)
    ]
    assert misfits == [False, False, False, False, True, True]


ZONES = st.sampled_from(["Europe/Paris", "America/New_York", "Asia/Kolkata", "UTC"])


@settings(max_examples=60)
@given(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)), ZONES)
def test_times_of_a_zone_are_zoneinfos(moment, zone):
    local = moment.replace(second=0, microsecond=0)
    wanted = local.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    exists = wanted.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == local
    found, _ = dated([local.strftime("%d.%m.%Y %H:%M")], "%d.%m.%Y %H:%M", timezone=zone)
    if exists:
        assert found == [wanted]
    else:  # the hour that summer time leaves out: moved to its end
        assert found[0] >= wanted.replace(minute=0)


def test_a_time_that_occurs_twice_is_the_earlier():
    found, _ = dated(["27.10.2013 02:30"], "%d.%m.%Y %H:%M", timezone="Europe/Berlin")
    assert found == [datetime(2013, 10, 27, 0, 30, tzinfo=UTC)]


def test_a_day_is_that_day_in_any_zone_and_an_own_offset_counts():
    assert dated(["31.01.2013"], "%d.%m.%Y", timezone="Asia/Tokyo")[0] == [
        datetime(2013, 1, 31, tzinfo=UTC)
    ]
    assert dated(["31.01.2013 10:00 +0200"], "%d.%m.%Y %H:%M %z", timezone="Asia/Tokyo")[0] == [
        datetime(2013, 1, 31, 8, tzinfo=UTC)
    ]


def test_typed_dates_pass_as_they_are():
    typed = pa.chunked_array([pa.array([datetime(2013, 1, 1, tzinfo=UTC)])])
    step = Step(dates={"column": "d", "formats": ["%Y"]})
    assert reading.reader(step)(typed) is typed


@pytest.mark.parametrize(
    ("text", "to", "wanted"),
    [
        ("500 g", "kg", 0.5),
        ("1 lb", "kg", 0.45359237),
        ("16oz", "lb", 1.0),
        ("12 inches", "cm", 30.48),
        ("-40 °F", "degC", -40.0),
        ("212 degF", "degC", 100.0),
        ("90 km/h", "m/s", 25.0),
        ("1.5e3 µm", "mm", 1.5),
        ("3 m²", "cm²", 30_000.0),
        ("7", "kg", 7.0),
    ],
)
def test_units_are_what_standards_say(text, to, wanted):
    found = read([text], units={"column": "w", "to": to})
    assert float(found[0].as_py()) == pytest.approx(wanted, rel=1e-12)


def test_what_is_no_such_unit_stays_as_it_is():
    texts = ["5 foo", "3 m", "kg", "1,5 kg", "5 kg kg kg", None, "1 2", "9 dB", "4 ((("]
    assert read(texts, units={"column": "w", "to": "kg"}).to_pylist() == texts


def test_bare_numbers_have_the_unit_that_is_assumed():
    step = {"column": "w", "to": "kg", "assume": "g"}
    assert read(["500", "2 kg"], units=step).to_pylist() == ["0.5", "2.0"]
    assert read(["500", "2 kg"], bare=True, units=step).to_pylist() == ["500", "2000.0"]
    assert read([500.0, None], units=step).to_pylist() == ["0.5", None]


@given(st.text("0123456789.eE+-/^%kgmlbo °", max_size=12))
def test_no_text_breaks_the_reader(text):
    (found,) = read([text], units={"column": "w", "to": "kg"}).to_pylist()
    assert found == text or float(found) is not None


@pytest.mark.parametrize(
    "step",
    [
        {"units": {"column": "w", "to": "nonsense"}},
        {"units": {"column": "w", "to": "kg", "assume": "m"}},
        {"dates": {"column": "d", "formats": ["%Y"], "timezone": "Mars/Base"}},
    ],
)
def test_wrong_settings_are_said_at_once(step):
    with pytest.raises(JobError) as raised:
        reading.reader(Step(**step))
    assert raised.value.exit_code == 2


def test_rows_that_were_read_are_marked_by_step():
    clean = Clean(
        steps=[
            {"text": {"columns": ["t"]}},
            {"units": {"column": "w", "to": "kg"}},
            {"dates": {"column": "d", "formats": ["%d.%m.%Y"]}},
        ]
    )
    rows = pa.table({"t": ["a", "b"], "w": ["5 g", "5"], "d": ["1.2.2013", "2.2.2013"]})
    found = reading.read(rows, clean)
    assert found[reading.READ].to_pylist() == [0b110, 0b100]
    assert found["w"].to_pylist() == ["0.005", "5"]
