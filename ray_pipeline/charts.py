"""Small charts as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ray_pipeline.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Point,
    axes,
    circle,
    drawing,
    frame,
    padded,
    path,
    rule,
    text,
    tick_text,
    titled,
)

__all__ = [
    "HEIGHT",
    "WIDTH",
    "Axis",
    "Bar",
    "Line",
    "Point",
    "bars",
    "calibration",
    "curves",
    "dots",
    "interval",
    "spark",
    "trials",
]

_ROW = 17  # height of a bar and the space below it
_GAP = 13  # between the labels of two lines that end close together


@dataclass(frozen=True)
class Line:
    """A named line through points in data units; `style` is its CSS class."""

    name: str
    points: Sequence[Point]
    style: str = "first"


@dataclass(frozen=True)
class Bar:
    """A named value, and the ends of its interval where there is one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def curves(lines: Sequence[Line], x: str, y: str, mark: tuple[float, str] | None = None) -> Markup:
    """Lines over x, each named at its end; `mark` is a labelled x."""
    points = [point for line in lines for point in line.points]
    whole = all(float(at).is_integer() for at, _ in points)  # epochs, say
    named = [line for line in lines if line.name]
    room = 8 + 6.2 * max((len(line.name) for line in named), default=0)
    across, down = axes(points, right=RIGHT + room)
    parts = [frame(across, down, x, y, whole)]
    if mark is not None:
        at = across.at(mark[0])
        parts.append(rule(at, down.end, at, down.start, "mark"))
        anchor = "end" if at > WIDTH * 0.75 else "start" if at < WIDTH / 4 else "middle"
        parts.append(text(at, down.end - 4, mark[1], anchor, "note"))
    parts += [path(line.points, across, down, line.style) for line in lines]
    parts += _end_labels(named, across, down)
    return drawing(parts, f"{y} by {x}: " + ", ".join(line.name for line in named))


def trials(losses: Sequence[float | None], best: int, y: str) -> Markup:
    """Each trial's loss in the order in which they were started, and the lowest loss so far.

    A trial without a loss is a cross on the axis; `best` is the index of the chosen one.
    """
    found = [(float(i + 1), loss) for i, loss in enumerate(losses) if loss is not None]
    across, down = axes([*found, (1.0, found[0][1]), (float(len(losses)), found[0][1])])
    record: list[Point] = []
    so_far = math.inf
    for at, loss in found:
        if loss < so_far:
            record += [(at, so_far), (at, loss)] if record else [(at, loss)]
            so_far = loss
    record.append((float(len(losses)), so_far))
    parts = [frame(across, down, "trial", y, whole=True), path(record, across, down, "faint")]
    for index, value in enumerate(losses):
        at = across.at(index + 1)
        if value is None:
            cross = text(at, down.start + 4, "×", "middle", "note")
            parts.append(titled(cross, f"trial {index + 1}: no {y}"))
        else:
            style, radius = ("chosen", 5.0) if index == best else ("dot", 3.2)
            dot = circle(at, down.at(value), radius, style)
            parts.append(titled(dot, f"trial {index + 1}: {value:.4f}"))
    return drawing(parts, f"{y} of {len(losses)} trials")


def calibration(bins: Sequence[tuple[float, float, int]]) -> Markup:
    """Observed frequency over predicted probability; a dot's area is its share of the rows."""
    side = HEIGHT - TOP - BOTTOM
    across, down = Axis(0, 1, LEFT, LEFT + side * 1.25), Axis(0, 1, TOP + side, TOP)
    total = sum(rows for _, _, rows in bins)
    parts = [
        frame(across, down, "predicted probability", "observed frequency"),
        path([(0, 0), (1, 1)], across, down, "faint"),
        path([(p, o) for p, o, _ in bins], across, down, "first thin"),
    ]
    for probability, observed, rows in bins:
        radius = 2 + 9 * math.sqrt(rows / total)
        title = f"predicted {probability:.3f}, observed {observed:.3f}, {rows:,} rows"
        dot = circle(across.at(probability), down.at(observed), radius, "dot")
        parts.append(titled(dot, title))
    return drawing(parts, "observed frequency by predicted probability")


def bars(rows: Sequence[Bar], x: str) -> Markup:
    """Values as bars from 0, one below the other, with their intervals as lines over the ends."""
    ends = [end for bar in rows for end in (bar.value, bar.low, bar.high) if end is not None]
    left = min(150.0, 12 + 6.4 * max(len(bar.name) for bar in rows))
    low, high = padded([0.0, *ends], 0.0)
    across = Axis(low, high, left, WIDTH - RIGHT)
    base = TOP + _ROW * len(rows)
    parts = [text(0, 9, x, "start", "axis")]
    for tick in (steps := across.ticks(4)):
        at = across.at(tick)
        parts.append(rule(at, TOP - 6, at, base, "grid"))
        parts.append(text(at, base + 14, tick_text(tick, steps), "middle"))
    for index, bar in enumerate(rows):
        parts.append(_bar(bar, TOP + _ROW * index, left, across))
    parts.append(rule(across.at(0), TOP - 6, across.at(0), base, "base"))
    return drawing(parts, f"{x} of {len(rows)} columns", height=base + 22)


def _bar(bar: Bar, top: float, left: float, across: Axis) -> Markup:
    start, end = sorted((across.at(0), across.at(bar.value)))
    box = Markup('<rect class="bar" x="{}" y="{}" width="{}" height="9"/>')
    middle, room = top + 4.5, int((left - 12) / 6)
    name = bar.name if len(bar.name) <= room else bar.name[: room - 1] + "…"
    parts = [
        text(left - 8, top + 8.5, name, "end"),
        box.format(start, round(top, 2), round(max(end - start, 0.5), 2)),
    ]
    span = ""
    if bar.low is not None and bar.high is not None:
        parts.append(rule(across.at(bar.low), middle, across.at(bar.high), middle, "gate"))
        span = f", {bar.low:.4f} to {bar.high:.4f}"
    return titled(Markup("").join(parts), f"{bar.name}: {bar.value:.4f}{span}")


def dots(named: Sequence[tuple[str, float, float]], x: str, y: str) -> Markup:
    """Named points; a name stands beside its point, on the side where there is room."""
    across, down = axes([(at, height) for _, at, height in named])
    parts = [frame(across, down, x, y)]
    for name, at, height in named:
        left, top = across.at(at), down.at(height)
        parts.append(titled(circle(left, top, 4, "dot"), f"{name}: {at:g}, {height:g}"))
        beyond = left > WIDTH * 0.66
        place = left - 8 if beyond else left + 8
        parts.append(text(place, top + 3.5, name, "end" if beyond else "start", "note"))
    return drawing(parts, f"{y} by {x}: " + ", ".join(name for name, _, _ in named))


def interval(
    value: float,
    span: tuple[float, float] | None,
    baseline: float | None,
    bounds: Iterable[float],
    scale: tuple[float, float],
) -> Markup:
    """A value as a dot with its interval, the baseline as a ring, and gates as ticks."""
    axis = Axis(*scale, 6, 194)
    parts = [rule(axis.start, 9, axis.end, 9, "grid")]
    if baseline is not None:
        parts.append(rule(axis.at(baseline), 9, axis.at(value), 9, "faint"))
        parts.append(titled(circle(axis.at(baseline), 9, 3, "ring"), f"baseline {baseline:.4f}"))
    for bound in bounds:
        tick = rule(axis.at(bound), 1, axis.at(bound), 17, "gate")
        parts.append(titled(tick, f"gate {bound:g}"))
    if span is not None:
        low, high = axis.at(span[0]), axis.at(span[1])
        bar = Markup('<rect class="span" x="{}" y="6.5" width="{}" height="5" rx="2.5"/>')
        bar = bar.format(low, round(max(high - low, 1), 2))
        parts.append(titled(bar, f"{span[0]:.4f} to {span[1]:.4f}"))
    parts.append(circle(axis.at(value), 9, 3.4, "value"))
    return drawing(parts, f"{value:.4f}", 200, 18)


def spark(counts: Sequence[float]) -> Markup:
    """A distribution as a row of bars."""
    tallest, width = max(counts), 120 / len(counts)
    bars = [
        Markup('<rect x="{}" y="{}" width="{}" height="{}"/>').format(
            round(index * width, 2), round(24 - height, 2), round(max(width - 1, 0.5), 2), height
        )
        for index, count in enumerate(counts)
        if count and (height := round(max(24 * count / tallest, 0.6), 2))
    ]
    return drawing(bars, "distribution", 120, 24, "spark")


def _end_labels(lines: Sequence[Line], across: Axis, down: Axis) -> list[Markup]:
    """The lines' names beside their last points, moved apart where they would overlap."""
    named = [line for line in lines if line.points]
    ends = sorted(((down.at(line.points[-1][1]), line) for line in named), key=lambda end: end[0])
    labels, lowest = [], -math.inf
    for at, line in ends:
        lowest = max(at + 3.5, lowest + _GAP)
        x = across.at(line.points[-1][0]) + 6
        labels.append(text(x, lowest, line.name, "start", f"name {line.style}"))
    return labels
