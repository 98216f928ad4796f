"""What a step makes of a column, and the count of it: small enough to be sent and added up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc


class Found(NamedTuple):
    """A column after a step: its values, how many rows had what done to them, and the rows that
    belong in quarantine (a mask without nulls, or None) with the reason. `changed` counts the
    changed rows where a comparison with the values before cannot."""

    values: Any
    kinds: Counter[str]
    faults: Any = None
    reason: Any = ""
    changed: int | None = None


Apply = Callable[[pa.Table], dict[str, Found]]
"""A step: from typed rows to what becomes of the columns that it is about, by name."""


@dataclass(frozen=True)
class State:
    """Of a column at one moment: values that are not there, the range of numbers, or all
    characters of texts."""

    missing: int = 0
    low: float = math.inf
    high: float = -math.inf
    characters: int = 0

    @classmethod
    def of(cls, values: Any) -> State:
        if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
            found = pc.min_max(values)
            low, high = found["min"].as_py(), found["max"].as_py()
            if low is None:
                return cls(values.null_count)
            return cls(values.null_count, float(low), float(high))
        if pa.types.is_string(values.type):
            characters = pc.sum(pc.utf8_length(values)).as_py() or 0
            return cls(values.null_count, characters=characters)
        return cls(values.null_count)

    def __add__(self, other: State) -> State:
        return State(
            self.missing + other.missing,
            min(self.low, other.low),
            max(self.high, other.high),
            self.characters + other.characters,
        )

    def described(self) -> dict[str, Any]:
        found: dict[str, Any] = {"missing": self.missing}
        if self.low <= self.high:
            found |= {"min": self.low, "max": self.high}
        if self.characters:
            found["characters"] = self.characters
        return found


@dataclass(frozen=True)
class Change:
    """What a step did to one column: rows that it saw, changed, emptied and set aside."""

    rows: int = 0
    changed: int = 0
    emptied: int = 0
    quarantined: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    before: State = field(default_factory=State)
    after: State = field(default_factory=State)

    @classmethod
    def between(cls, before: Any, found: Found, usable: Any) -> Change:
        """The change of a column's usable rows. Those set aside still count as `after`."""
        old, new = before.filter(usable), found.values.filter(usable)
        emptied = pc.and_(pc.is_valid(old), pc.is_null(new))
        filled = pc.and_(pc.is_null(old), pc.is_valid(new))
        other = pc.fill_null(pc.not_equal(old, new), False)
        aside = 0 if found.faults is None else count(pc.and_(usable, found.faults))
        return cls(
            rows=len(old),
            changed=count(pc.or_(pc.or_(emptied, filled), other))
            if found.changed is None
            else found.changed,
            emptied=count(emptied),
            quarantined=aside,
            kinds=found.kinds,
            before=State.of(old),
            after=State.of(new),
        )

    def __add__(self, other: Change) -> Change:
        return Change(
            self.rows + other.rows,
            self.changed + other.changed,
            self.emptied + other.emptied,
            self.quarantined + other.quarantined,
            self.kinds + other.kinds,
            self.before + other.before,
            self.after + other.after,
        )

    def described(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "changed": self.changed,
            "set_missing": self.emptied,
            "quarantined": self.quarantined,
            "kinds": dict(self.kinds.most_common()),
            "before": self.before.described(),
            "after": self.after.described(),
        }


def count(mask: Any) -> int:
    return int(pc.sum(mask).as_py() or 0)


def differing(old: Any, new: Any) -> int:
    """Rows whose texts differ, null with null alike."""
    return count(pc.fill_null(pc.not_equal(old, new), pc.is_valid(old)))


def no_value(like: Any) -> pa.Scalar:
    return pa.scalar(None, like.type)
