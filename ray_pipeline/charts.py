"""Small charts as inline SVG. Colours come from the page's style sheet, by class.

Every chart is drawn 360 units wide, so that its 11-unit text is as large as the page's small text
on a telephone and on a desk alike. Coordinates are SVG's: y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Point = tuple[float, float]

WIDTH, HEIGHT = 360, 222
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 12, 30, 34
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


@dataclass(frozen=True)
class Axis:
    """Data range [low, high] laid over pixels [start, end], with round ticks inside."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, about: int = 4, whole: bool = False) -> list[float]:
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
        step = max(1.0, round(step)) if whole else step
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def curves(lines: Sequence[Line], x: str, y: str, mark: tuple[float, str] | None = None) -> Markup:
    """Lines over x, each named at its end; `mark` is a labelled x."""
    points = [point for line in lines for point in line.points]
    whole = all(float(at).is_integer() for at, _ in points)  # epochs, say
    named = [line for line in lines if line.name]
    room = 8 + 6.2 * max((len(line.name) for line in named), default=0)
    across, down = _axes(points, right=_RIGHT + room)
    parts = [_frame(across, down, x, y, whole)]
    if mark is not None:
        at = across.at(mark[0])
        parts.append(_rule(at, down.end, at, down.start, "mark"))
        anchor = "end" if at > WIDTH * 0.75 else "start" if at < WIDTH / 4 else "middle"
        parts.append(_text(at, down.end - 4, mark[1], anchor, "note"))
    parts += [_path(line.points, across, down, line.style) for line in lines]
    parts += _end_labels(named, across, down)
    return _svg(parts, f"{y} by {x}: " + ", ".join(line.name for line in named))


def trials(losses: Sequence[float | None], best: int, y: str) -> Markup:
    """Each trial's loss in the order in which they were started, and the lowest loss so far.

    A trial without a loss is a cross on the axis; `best` is the index of the chosen one.
    """
    found = [(float(i + 1), loss) for i, loss in enumerate(losses) if loss is not None]
    across, down = _axes([*found, (1.0, found[0][1]), (float(len(losses)), found[0][1])])
    record: list[Point] = []
    so_far = math.inf
    for at, loss in found:
        if loss < so_far:
            record += [(at, so_far), (at, loss)] if record else [(at, loss)]
            so_far = loss
    record.append((float(len(losses)), so_far))
    parts = [_frame(across, down, "trial", y, whole=True), _path(record, across, down, "faint")]
    for index, value in enumerate(losses):
        at = across.at(index + 1)
        if value is None:
            cross = _text(at, down.start + 4, "×", "middle", "note")
            parts.append(_titled(cross, f"trial {index + 1}: no {y}"))
        else:
            style, radius = ("chosen", 5.0) if index == best else ("dot", 3.2)
            dot = _circle(at, down.at(value), radius, style)
            parts.append(_titled(dot, f"trial {index + 1}: {value:.4f}"))
    return _svg(parts, f"{y} of {len(losses)} trials")


def calibration(bins: Sequence[tuple[float, float, int]]) -> Markup:
    """Observed frequency over predicted probability; a dot's area is its share of the rows."""
    side = HEIGHT - _TOP - _BOTTOM
    across, down = Axis(0, 1, _LEFT, _LEFT + side * 1.25), Axis(0, 1, _TOP + side, _TOP)
    total = sum(rows for _, _, rows in bins)
    parts = [
        _frame(across, down, "predicted probability", "observed frequency"),
        _path([(0, 0), (1, 1)], across, down, "faint"),
        _path([(p, o) for p, o, _ in bins], across, down, "first thin"),
    ]
    for probability, observed, rows in bins:
        radius = 2 + 9 * math.sqrt(rows / total)
        title = f"predicted {probability:.3f}, observed {observed:.3f}, {rows:,} rows"
        dot = _circle(across.at(probability), down.at(observed), radius, "dot")
        parts.append(_titled(dot, title))
    return _svg(parts, "observed frequency by predicted probability")


def bars(rows: Sequence[Bar], x: str) -> Markup:
    """Values as bars from 0, one below the other, with their intervals as lines over the ends."""
    ends = [end for bar in rows for end in (bar.value, bar.low, bar.high) if end is not None]
    left = min(150.0, 12 + 6.4 * max(len(bar.name) for bar in rows))
    low, high = _padded([0.0, *ends], 0.0)
    across = Axis(low, high, left, WIDTH - _RIGHT)
    base = _TOP + _ROW * len(rows)
    parts = [_text(0, 9, x, "start", "axis")]
    for tick in (steps := across.ticks(4)):
        at = across.at(tick)
        parts.append(_rule(at, _TOP - 6, at, base, "grid"))
        parts.append(_text(at, base + 14, _tick(tick, steps), "middle"))
    for index, bar in enumerate(rows):
        parts.append(_bar(bar, _TOP + _ROW * index, left, across))
    parts.append(_rule(across.at(0), _TOP - 6, across.at(0), base, "base"))
    return _svg(parts, f"{x} of {len(rows)} columns", height=base + 22)


def _bar(bar: Bar, top: float, left: float, across: Axis) -> Markup:
    start, end = sorted((across.at(0), across.at(bar.value)))
    box = Markup('<rect class="bar" x="{}" y="{}" width="{}" height="9"/>')
    middle, room = top + 4.5, int((left - 12) / 6)
    name = bar.name if len(bar.name) <= room else bar.name[: room - 1] + "…"
    parts = [
        _text(left - 8, top + 8.5, name, "end"),
        box.format(start, round(top, 2), round(max(end - start, 0.5), 2)),
    ]
    span = ""
    if bar.low is not None and bar.high is not None:
        parts.append(_rule(across.at(bar.low), middle, across.at(bar.high), middle, "gate"))
        span = f", {bar.low:.4f} to {bar.high:.4f}"
    return _titled(Markup("").join(parts), f"{bar.name}: {bar.value:.4f}{span}")


def dots(named: Sequence[tuple[str, float, float]], x: str, y: str) -> Markup:
    """Named points; a name stands beside its point, on the side where there is room."""
    across, down = _axes([(at, height) for _, at, height in named])
    parts = [_frame(across, down, x, y)]
    for name, at, height in named:
        left, top = across.at(at), down.at(height)
        parts.append(_titled(_circle(left, top, 4, "dot"), f"{name}: {at:g}, {height:g}"))
        beyond = left > WIDTH * 0.66
        place = left - 8 if beyond else left + 8
        parts.append(_text(place, top + 3.5, name, "end" if beyond else "start", "note"))
    return _svg(parts, f"{y} by {x}: " + ", ".join(name for name, _, _ in named))


def interval(
    value: float,
    span: tuple[float, float] | None,
    baseline: float | None,
    bounds: Iterable[float],
    scale: tuple[float, float],
) -> Markup:
    """A value as a dot with its interval, the baseline as a ring, and gates as ticks."""
    axis = Axis(*scale, 6, 194)
    parts = [_rule(axis.start, 9, axis.end, 9, "grid")]
    if baseline is not None:
        parts.append(_rule(axis.at(baseline), 9, axis.at(value), 9, "faint"))
        parts.append(_titled(_circle(axis.at(baseline), 9, 3, "ring"), f"baseline {baseline:.4f}"))
    for bound in bounds:
        tick = _rule(axis.at(bound), 1, axis.at(bound), 17, "gate")
        parts.append(_titled(tick, f"gate {bound:g}"))
    if span is not None:
        low, high = axis.at(span[0]), axis.at(span[1])
        bar = Markup('<rect class="span" x="{}" y="6.5" width="{}" height="5" rx="2.5"/>')
        bar = bar.format(low, round(max(high - low, 1), 2))
        parts.append(_titled(bar, f"{span[0]:.4f} to {span[1]:.4f}"))
    parts.append(_circle(axis.at(value), 9, 3.4, "value"))
    return _svg(parts, f"{value:.4f}", 200, 18)


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
    return _svg(bars, "distribution", 120, 24, "spark")


def _axes(points: Sequence[Point], right: float = _RIGHT) -> tuple[Axis, Axis]:
    low_x, high_x = _padded([x for x, _ in points], 0.0)
    low_y, high_y = _padded([y for _, y in points], 0.06)
    return (
        Axis(low_x, high_x, _LEFT, WIDTH - right),
        Axis(low_y, high_y, HEIGHT - _BOTTOM, _TOP),
    )


def _padded(values: Sequence[float], share: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):  # flat, but for rounding
        return low - 0.5, high + 0.5
    return low - share * (high - low), high + share * (high - low)


def _frame(across: Axis, down: Axis, x: str, y: str, whole: bool = False) -> Markup:
    parts = []
    steps = down.ticks()
    for tick in steps:
        at = down.at(tick)
        parts.append(_rule(across.start, at, across.end, at, "grid"))
        parts.append(_text(across.start - 6, at + 3.5, _tick(tick, steps), "end"))
    for tick in across.ticks(5, whole):
        parts.append(_text(across.at(tick), down.start + 14, f"{tick:g}", "middle"))
    middle = (across.start + across.end) / 2
    parts.append(_text(middle, HEIGHT - 4, x, "middle", "axis"))
    parts.append(_rule(across.start, down.start, across.end, down.start, "base"))
    parts.append(_text(0, 9, y, "start", "axis"))
    return Markup("").join(parts)


def _tick(value: float, steps: Sequence[float]) -> str:
    """All ticks of an axis with as many decimals as their step needs."""
    step = steps[1] - steps[0] if len(steps) > 1 else abs(value) or 1
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += round(step * 10**decimals, 6) != round(step * 10**decimals)
    return f"{value:.{decimals}f}"


def _end_labels(lines: Sequence[Line], across: Axis, down: Axis) -> list[Markup]:
    """The lines' names beside their last points, moved apart where they would overlap."""
    ends = sorted((down.at(line.points[-1][1]), line) for line in lines if line.points)
    labels, lowest = [], -math.inf
    for at, line in ends:
        lowest = max(at + 3.5, lowest + _GAP)
        x = across.at(line.points[-1][0]) + 6
        labels.append(_text(x, lowest, line.name, "start", f"name {line.style}"))
    return labels


def _path(points: Sequence[Point], across: Axis, down: Axis, style: str) -> Markup:
    steps = " ".join(f"{across.at(x)},{down.at(y)}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(style, steps)


def _rule(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    line = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
    return line.format(style, x1, y1, x2, y2)


def _circle(x: float, y: float, radius: float, style: str) -> Markup:
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(
        style, x, y, round(radius, 2)
    )


def _text(x: float, y: float, text: str, anchor: str, style: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        style, round(x, 2), round(y, 2), anchor, text
    )


def _titled(shape: Markup, title: str) -> Markup:
    return Markup("<g><title>{}</title>{}</g>").format(title, shape)


def _svg(
    parts: Iterable[Markup],
    label: str,
    width: int = WIDTH,
    height: int = HEIGHT,
    style: str = "chart",
) -> Markup:
    opened = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    inner = Markup("").join(parts)
    return opened.format(style, width, height, label) + inner + Markup("</svg>")
