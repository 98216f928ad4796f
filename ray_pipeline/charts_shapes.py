"""Two distributions of one column in the same bins, one over the other."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ray_pipeline.svg import LEFT, RIGHT, WIDTH, Axis, drawing, path, rule, text, titled

_HEIGHT, _TOP, _BASE = 130, 8, 108
_ROW = 24


def numbers(
    edges: Sequence[float], before: Sequence[float], now: Sequence[float], ends: tuple[str, str]
) -> Markup:
    """Shares [B] between `edges` [B + 1]: what was usual as an area, what is now as a line; `ends`
    are the first and last edge in words."""
    across = Axis(edges[0], edges[-1], 0, WIDTH)
    down = Axis(0, max(*before, *now) or 1, _BASE, _TOP)
    area = [(edges[0], 0.0), *_stairs(edges, before), (edges[-1], 0.0)]
    steps = " ".join(f"{across.at(x)},{down.at(y)}" for x, y in area)
    parts = [
        titled(Markup('<polygon class="usual" points="{}"/>').format(steps), "as the model knows"),
        path(_stairs(edges, now), across, down, "now"),
        rule(0, _BASE, WIDTH, _BASE, "base"),
        text(0, _BASE + 15, ends[0], "start"),
        text(WIDTH, _BASE + 15, ends[1], "end"),
    ]
    return drawing(parts, "two distributions", height=_HEIGHT)


def values(names: Sequence[str], before: Sequence[float], now: Sequence[float]) -> Markup:
    """The shares [B] of named values: two bars each, what was usual above what is now."""
    left = min(130.0, 12 + 6.2 * max(len(name) for name in names))
    across = Axis(0, max(*before, *now) or 1, left, WIDTH - RIGHT - LEFT)
    parts: list[Markup] = []
    for index, (name, usual, latest) in enumerate(zip(names, before, now, strict=True)):
        top, room = _ROW * index + 2, int((left - 8) / 6)
        shown = name if len(name) <= room else name[: room - 1] + "…"
        bars = [
            text(left - 8, top + 12, shown, "end"),
            _bar("usual", across, usual, top),
            _bar("now", across, latest, top + 9),
            text(max(across.at(usual), across.at(latest)) + 6, top + 12, f"{latest:.1%}", "start"),
        ]
        told = f"{name}: {usual:.1%} as the model knows, {latest:.1%} now"
        parts.append(titled(Markup("").join(bars), told))
    height = _ROW * len(names) + 4
    parts.append(rule(left, 0, left, height, "base"))
    return drawing(parts, "two distributions", height=height)


def _stairs(edges: Sequence[float], shares: Sequence[float]) -> list[tuple[float, float]]:
    pairs = zip(edges, edges[1:], shares, strict=False)
    return [point for low, high, share in pairs for point in ((low, share), (high, share))]


def _bar(style: str, across: Axis, share: float, top: float) -> Markup:
    width = max(across.at(share) - across.start, 0.5)
    box = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="8"/>')
    return box.format(style, across.start, top, round(width, 2))
