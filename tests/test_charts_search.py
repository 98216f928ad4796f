"""A search's charts put each trial where it belongs, inside their frame, whatever was searched."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline import charts_search
from ray_pipeline.svg import WIDTH

WORDS = st.text(st.characters(categories=["L", "N", "P"]), max_size=9)
VALUE = st.one_of(st.integers(-9, 10**6), st.floats(-1e6, 1e6), st.booleans(), WORDS)
ROWS = st.integers(1, 5).flatmap(
    lambda columns: st.lists(
        st.tuples(*[VALUE] * columns, st.floats(0, 1e6)), min_size=1, max_size=12
    )
)


def lines(chart: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(str(chart)).findall(".//polyline")


@given(ROWS, st.booleans())
def test_each_trial_is_a_line_through_all_its_settings(rows, log):
    names = [f"n{index}" for index in range(len(rows[0]) - 1)] + ["loss"]
    chart = charts_search.parallel(names, rows, 0, names if log else [])
    found = lines(chart)
    assert len(found) == len(rows)
    assert [line.attrib["class"] for line in found].count("second") == 1
    assert found[-1].attrib["class"] == "second"  # above all others
    height = float(ElementTree.fromstring(str(chart)).attrib["viewBox"].split()[3])
    for line in found:
        points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        assert len(points) == len(names)
        assert all(0 <= x <= WIDTH and 0 <= y <= height for x, y in points)


def test_values_keep_their_order_and_logarithmic_axes_their_distances():
    rows = [[1e-4, "a", 0.3], [1e-3, "b", 0.2], [1e-2, "a", 0.1]]
    chart = charts_search.parallel(["rate", "kind", "loss"], rows, 2, ["rate"])
    firsts = sorted(float(line.attrib["points"].split(",")[0]) for line in lines(chart))
    assert round(firsts[1] - firsts[0], 1) == round(firsts[2] - firsts[1], 1) > 50


@given(
    st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), min_size=1, max_size=9),
    st.none() | st.floats(0.1, 1e3),
)
def test_quality_against_time_shows_every_trial_and_the_chosen_one(points, bound):
    chart = ElementTree.fromstring(str(charts_search.front(points, [0], 0, bound)))
    dots = [dot.attrib for dot in chart.iter("circle")]
    assert len(dots) == len(points)
    assert [dot["class"] for dot in dots].count("chosen") == 1
    assert all(0 <= float(dot["cx"]) <= WIDTH for dot in dots)
