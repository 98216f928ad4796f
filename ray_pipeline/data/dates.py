"""ISO 8601 texts as points in time, in UTC, and these as seconds.

A text is a date, or a date and a time of day with or without a zone (`2013-01-31`,
`2013-01-31 05:00`, `2013-01-31T05:00:00.25+02:00`); without one it is in UTC. Basic forms
(`20130131`), weeks and leap seconds are refused: the first look like numbers.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

TYPE = pa.timestamp("us", "UTC")

_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][48]|[2468]0|[13579][26])00)"
_DAY = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_LEAP}-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_SECONDS = r"(?::[0-5][0-9](?:\.[0-9]{1,9})?)"
_ZONE = r"(?:Z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
ISO = rf"^{_DAY}(?:[T ]{_CLOCK}{_SECONDS}?{_ZONE}?)?$"
"""A text that is a date: the calendar's rules included, so that all that match can be read."""

_ISO = re.compile(ISO)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def parsed(texts: Any) -> tuple[Any, Any]:
    """The points in time of `texts` as TYPE, and which texts are none. Null stays null.

    What is finer than a microsecond is cut off.
    """
    fits = pc.match_substring_regex(texts, ISO)
    known = pc.if_else(fits, texts, pa.scalar(None, pa.string()))
    dated = pc.replace_substring_regex(known, r"^(.{10})$", r"\1T00:00")
    cut = pc.replace_substring_regex(dated, r"(\.[0-9]{6})[0-9]+", r"\1")
    zoned = pc.match_substring_regex(cut, rf"^.{{11}}.*{_ZONE}$")
    values = pc.cast(pc.if_else(zoned, cut, pc.binary_join_element_wise(cut, "Z", "")), TYPE)
    return values, pc.fill_null(pc.invert(fits), False)


def all_dates(texts: Any) -> bool:
    """Whether there are texts, and every one of them is a date."""
    return bool(len(texts)) and bool(pc.all(pc.match_substring_regex(texts, ISO)).as_py())


def moment(text: str) -> datetime | None:
    """The point in time of one text; None if it is not a date."""
    if not _ISO.match(text) or text.endswith("\n"):
        return None
    return datetime.fromisoformat(text)


def seconds_of(moment: datetime) -> float:
    """Seconds since 1970 in UTC; a moment without a zone is in UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return float((aware - _EPOCH) // _MICROSECOND) / 1e6  # rounded as `seconds` does


def seconds(values: Any) -> NDArray[np.float64]:
    """Timestamps of any unit, or days, as seconds since 1970 [N], null as NaN."""
    micros = pc.cast(pc.cast(values, TYPE, safe=False), pa.int64())
    doubles = pc.cast(micros, pa.float64(), safe=False)
    found: NDArray[np.float64] = doubles.to_numpy(zero_copy_only=False) / 1e6
    return found


def shown(seconds: float) -> str:
    """Seconds since 1970 as an ISO 8601 text; beyond the years 1 to 9999, the nearest in them."""
    bounded = min(max(seconds, -62_135_596_800), 253_402_300_799)
    moment = np.datetime64(int(bounded), "s")
    return f"{moment}Z"
