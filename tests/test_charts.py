"""Charts put data where it belongs, inside their frame, whatever the data."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline import charts

SOME = st.floats(-1e9, 1e9, allow_nan=False)


def drawn(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(chart))


def points(chart: str, style: str) -> list[tuple[float, float]]:
    (line,) = drawn(chart).findall(f".//polyline[@class='{style}']")
    return [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]


@given(st.lists(SOME, min_size=1, max_size=30))
def test_curves_stay_inside_and_keep_the_order_of_values(values: list[float]) -> None:
    line = charts.Line("loss", list(enumerate(values, start=1)))
    found = points(charts.curves([line], "epoch", "loss"), "first")
    assert len(found) == len(values)
    assert all(0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in found)
    lowest = max(y for _, y in found)  # SVG's y grows downwards
    assert found[values.index(min(values))][1] == lowest


@given(SOME, st.floats(1e-6, 1e9))
def test_ticks_are_round_few_and_inside(low: float, width: float) -> None:
    axis = charts.Axis(low, low + width, 0, 100)
    if axis.high == axis.low:
        return
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 6
    slack = 1e-6 * width + 1e-9 * abs(low)
    assert all(low - slack <= tick <= low + width + slack for tick in ticks)


@given(st.lists(st.none() | st.floats(0.1, 1), min_size=1, max_size=30).filter(any))
def test_each_trial_is_a_mark_and_the_line_only_falls(losses: list[float | None]) -> None:
    best = min(range(len(losses)), key=lambda index: losses[index] or 2)
    chart = charts.trials(losses, best, "loss")
    circles = drawn(chart).findall(".//circle")
    assert len(circles) == sum(loss is not None for loss in losses)
    (chosen,) = drawn(chart).findall(".//circle[@class='chosen']")
    assert str(chart).count("no loss") == losses.count(None)
    heights = [y for _, y in points(chart, "faint")]
    assert heights == sorted(heights)  # SVG's y grows downwards
    assert float(chosen.attrib["cy"]) == heights[-1]


def test_a_calibrated_model_lies_on_the_diagonal() -> None:
    chart = charts.calibration([(0.2, 0.2, 10), (0.8, 0.8, 90)])
    (x1, y1), (x2, y2) = points(chart, "faint")
    dots = drawn(chart).findall(".//circle")
    for dot in dots:
        x, y = float(dot.attrib["cx"]), float(dot.attrib["cy"])
        assert abs((y - y1) / (y2 - y1) - (x - x1) / (x2 - x1)) < 1e-3
    first, second = (float(dot.attrib["r"]) - 2 for dot in dots)
    assert abs((second / first) ** 2 - 9) < 0.1  # areas as rows


def test_an_interval_spans_its_ends_and_holds_its_value() -> None:
    chart = drawn(charts.interval(0.5, (0.4, 0.7), 0.1, [0.45], (0.0, 1.0)))
    span = chart.find(".//rect").attrib
    start, width = float(span["x"]), float(span["width"])
    value = float(chart.find(".//circle[@class='value']").attrib["cx"])
    assert start < value < start + width
    assert abs((value - start) / width - 1 / 3) < 1e-2
    assert chart.find(".//line[@class='gate']") is not None


def test_bars_are_as_tall_as_their_counts() -> None:
    heights = [
        float(bar.attrib["height"]) for bar in drawn(charts.spark([10, 0, 5, 20])).iter("rect")
    ]
    assert heights == [12.0, 6.0, 24.0]  # nothing is drawn for nothing


def test_names_at_line_ends_do_not_overlap() -> None:
    lines = [
        charts.Line(name, [(1, 0), (2, value)])
        for name, value in [("train", 0.5), ("validation", 0.501), ("test", 0.502)]
    ]
    chart = str(charts.curves(lines, "epoch", "loss"))
    heights = sorted(
        float(y) for y in re.findall(r'class="name first" x="[\d.]+" y="([\d.]+)"', chart)
    )
    assert len(heights) == 3
    assert all(below - above >= 12 for above, below in pairwise(heights))


def test_names_are_escaped() -> None:
    chart = str(charts.curves([charts.Line("<b>&", [(1, 1), (2, 2)])], "<x>", '"y"'))
    drawn(chart)
    assert "<b>" not in chart


@given(st.lists(st.tuples(st.text(max_size=40), SOME, SOME, SOME), min_size=1, max_size=12))
def test_bars_begin_at_zero_and_stay_inside(rows: list[tuple[str, float, float, float]]) -> None:
    named = [charts.Bar("".join(filter(str.isprintable, name)), *rest) for name, *rest in rows]
    chart = drawn(charts.bars(named, "drop"))
    boxes = chart.findall(".//rect")
    assert len(boxes) == len(rows)
    (zero,) = [float(rule.attrib["x1"]) for rule in chart.findall("./line[@class='base']")]
    for box, bar in zip(boxes, named, strict=True):
        start = float(box.attrib["x"])
        end = start + float(box.attrib["width"])
        assert 0 <= start <= charts.WIDTH + 1
        assert end <= charts.WIDTH + 1
        assert (start if bar.value >= 0 else end) >= zero - 1 or bar.value < 0
        assert min(abs(start - zero), abs(end - zero)) < 1


def test_dots_are_named_and_the_higher_value_is_above() -> None:
    chart = drawn(charts.dots([("small", 10, 0.8), ("large", 90, 0.9)], "size", "accuracy"))
    small, large = chart.findall(".//circle")
    assert float(large.attrib["cy"]) < float(small.attrib["cy"])
    assert float(large.attrib["cx"]) > float(small.attrib["cx"])
    names = [text.text for text in chart.findall(".//text[@class='note']")]
    assert names == ["small", "large"]
