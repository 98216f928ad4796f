"""Charts of a search: the trials' settings side by side, and quality against time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from ray_pipeline.svg import (
    WIDTH,
    Point,
    axes,
    circle,
    drawing,
    frame,
    path,
    rule,
    text,
    titled,
)

_STEP = 36  # between two axes
_START, _END, _FIRST = 118, WIDTH - 14, 12


def parallel(
    names: Sequence[str], rows: Sequence[Sequence[Any]], chosen: int | None, log: Sequence[str]
) -> Markup:
    """Parallel coordinates, turned so that they fit a telephone: an axis for each of `names`, one
    below the other, and a line through a row's values.

    The last column is the loss. The rows of its lowest quarter stand out, and the `chosen` one
    more; `log` are the names of logarithmic axes. A column that is not of numbers has its values
    spread over the axis.
    """
    parts: list[Markup] = []
    words: list[Markup] = []
    places: list[list[float]] = [[] for _ in rows]
    for index, name in enumerate(names):
        y = _FIRST + _STEP * index
        column = [row[index] for row in rows]
        at, labels = _scale(column, name in log)
        parts.append(rule(_START, y, _END, y, "base"))
        parts.append(text(_START - 10, y + 3.5, name, "end"))
        words += [text(x, y + 14, label, anchor, "over") for x, label, anchor in labels]
        for place, value in zip(places, column, strict=True):
            place.append(at(value))
    order = sorted(range(len(rows)), key=lambda row: float(rows[row][-1]), reverse=True)
    best = set(order[-max(1, len(rows) // 4) :])
    order.sort(key=lambda row: (row == chosen, row in best))  # those that stand out come last
    for row in order:
        style = "second" if row == chosen else "first thin" if row in best else "faint"
        points = " ".join(f"{x},{_FIRST + _STEP * index}" for index, x in enumerate(places[row]))
        line = Markup('<polyline class="{}" points="{}"/>').format(style, points)
        values = ", ".join(f"{n} {_words(v)}" for n, v in zip(names, rows[row], strict=True))
        parts.append(titled(line, values))
    return drawing(
        [*parts, *words], f"settings of {len(rows)} trials", height=_FIRST + _STEP * len(names)
    )


def _scale(
    column: Sequence[Any], log: bool
) -> tuple[Callable[[Any], float], list[tuple[float, str, str]]]:
    """Where a value of `column` stands on its axis, and the labels: place, words, anchor."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in column)
    if not numbers:
        kinds = list(dict.fromkeys(map(str, column)))
        spots = dict(zip(kinds, _spread(len(kinds)), strict=True))
        return (lambda value: spots[str(value)]), _labels(list(spots.items()))
    low, high = min(column), max(column)
    shown = math.log if log and low > 0 else float
    span = shown(high) - shown(low)

    def at(value: Any) -> float:
        share = (shown(value) - shown(low)) / span if span else 0.5
        return round(_START + share * (_END - _START), 2)

    ends = dict.fromkeys([low, high])
    return at, _labels([(_words(end), at(end)) for end in ends])


def _spread(count: int) -> list[float]:
    """So many places over the axis, from end to end; a single one in the middle."""
    if count == 1:
        return [(_START + _END) / 2]
    gap = (_END - _START) / (count - 1)
    return [round(_START + gap * place, 2) for place in range(count)]


def _labels(named: Sequence[tuple[str, float]]) -> list[tuple[float, str, str]]:
    anchors = {_START: "start", _END: "end"}
    return [(x, words, anchors.get(round(x), "middle")) for words, x in named]


def _words(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def front(points: Sequence[Point], best: Sequence[int], chosen: int, bound: float | None) -> Markup:
    """The validation loss over the milliseconds of one row, of each trial.

    `best` are the places of those that no other beats in both; a line joins them. `chosen` is one
    of the points, `bound` the most milliseconds that were asked for.
    """
    across, down = axes([*points, *([(bound, points[0][1])] if bound is not None else [])])
    parts = [frame(across, down, "milliseconds a row", "validation loss")]
    if bound is not None:
        at = across.at(bound)
        parts.append(rule(at, down.end, at, down.start, "mark"))
        anchor = "end" if at > WIDTH * 0.75 else "middle"
        parts.append(text(at, down.end - 4, f"at most {bound:g}", anchor, "note"))
    parts.append(path([points[place] for place in best], across, down, "faint"))
    for place in sorted(range(len(points)), key=lambda place: (place == chosen, place in best)):
        latency, loss = points[place]
        radius, style = (5.0, "chosen") if place == chosen else (3.2, "dot")
        style = style if place in best or place == chosen else "ring"
        dot = circle(across.at(latency), down.at(loss), radius, style)
        parts.append(titled(dot, f"{latency:.3g} ms, loss {loss:.4f}"))
    return drawing(parts, f"validation loss by milliseconds of {len(points)} trials")
