"""What charts are drawn of: axes, lines, circles and texts, as inline SVG.

Colours come from the page's style sheet, by class. Every chart is drawn 360 units wide, so that its
11-unit text is as large as the page's small text on a telephone and on a desk alike. Coordinates
are SVG's: y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Point = tuple[float, float]

WIDTH, HEIGHT = 360, 222
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 30, 34


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


def axes(points: Sequence[Point], right: float = RIGHT) -> tuple[Axis, Axis]:
    low_x, high_x = padded([x for x, _ in points], 0.0)
    low_y, high_y = padded([y for _, y in points], 0.06)
    return (
        Axis(low_x, high_x, LEFT, WIDTH - right),
        Axis(low_y, high_y, HEIGHT - BOTTOM, TOP),
    )


def padded(values: Sequence[float], share: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):  # flat, but for rounding
        return low - 0.5, high + 0.5
    return low - share * (high - low), high + share * (high - low)


def frame(across: Axis, down: Axis, x: str, y: str, whole: bool = False) -> Markup:
    parts = []
    steps = down.ticks()
    for tick in steps:
        at = down.at(tick)
        parts.append(rule(across.start, at, across.end, at, "grid"))
        parts.append(text(across.start - 6, at + 3.5, tick_text(tick, steps), "end"))
    for tick in across.ticks(5, whole):
        parts.append(text(across.at(tick), down.start + 14, f"{tick:g}", "middle"))
    middle = (across.start + across.end) / 2
    parts.append(text(middle, HEIGHT - 4, x, "middle", "axis"))
    parts.append(rule(across.start, down.start, across.end, down.start, "base"))
    parts.append(text(0, 9, y, "start", "axis"))
    return Markup("").join(parts)


def tick_text(value: float, steps: Sequence[float]) -> str:
    """All ticks of an axis with as many decimals as their step needs."""
    step = steps[1] - steps[0] if len(steps) > 1 else abs(value) or 1
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += round(step * 10**decimals, 6) != round(step * 10**decimals)
    return f"{value:.{decimals}f}"


def path(points: Sequence[Point], across: Axis, down: Axis, style: str) -> Markup:
    steps = " ".join(f"{across.at(x)},{down.at(y)}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(style, steps)


def rule(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    line = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
    return line.format(style, x1, y1, x2, y2)


def circle(x: float, y: float, radius: float, style: str) -> Markup:
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(
        style, x, y, round(radius, 2)
    )


def text(x: float, y: float, words: str, anchor: str, style: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        style, round(x, 2), round(y, 2), anchor, words
    )


def titled(shape: Markup, title: str) -> Markup:
    return Markup("<g><title>{}</title>{}</g>").format(title, shape)


def drawing(
    parts: Iterable[Markup],
    label: str,
    width: int = WIDTH,
    height: int = HEIGHT,
    style: str = "chart",
) -> Markup:
    opened = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    inner = Markup("").join(parts)
    return opened.format(style, width, height, label) + inner + Markup("</svg>")
