"""Trials compared by what is sought: the loss alone, or the loss and the latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_pipeline.errors import GateRefused
from ray_pipeline.job import Tune

Record = dict[str, Any]
LOSS, LATENCY = "validation_loss", "latency_ms"
Point = tuple[float, ...]


def keys(tune: Tune) -> tuple[str, ...]:
    """What is to be low, as trials name it."""
    return (LOSS, LATENCY) if tune.timed else (LOSS,)


def dominates(one: Point, other: Point) -> bool:
    """Whether `one` is nowhere above `other`, and somewhere below it."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def front(points: Sequence[Point]) -> list[int]:
    """The Pareto front of points [N, K]: the places of those that no other dominates, by their
    first number."""
    places = [i for i, own in enumerate(points) if not any(dominates(p, own) for p in points)]
    return sorted(places, key=lambda place: points[place])


def knee(points: Sequence[tuple[float, float]]) -> int:
    """Of a front of points [N, 2], the place of the one that lies furthest below the straight line
    between its two ends (Das, "On characterizing the 'knee' of the Pareto curve", 1999).

    With both numbers scaled to [0, 1] over the front that is the lowest sum.
    """
    lows = [min(point[axis] for point in points) for axis in (0, 1)]
    spans = [max(point[axis] for point in points) - lows[axis] for axis in (0, 1)]

    def height(place: int) -> float:
        return sum((points[place][axis] - lows[axis]) / (spans[axis] or 1.0) for axis in (0, 1))

    return min(range(len(points)), key=lambda place: (height(place), points[place]))


def chosen(usable: Sequence[Record], tune: Tune) -> Record:
    """The trial that the search ends with: the lowest loss; of trials that are timed too, the
    lowest within `tune.max_latency`, or the front's knee.

    Raises:
        GateRefused: no trial is as fast as `tune.max_latency` asks.
    """
    if not tune.timed:
        return min(usable, key=lambda trial: float(trial[LOSS]))
    points = [(float(trial[LOSS]), float(trial[LATENCY])) for trial in usable]
    if tune.max_latency is None:
        places = front(points)
        return usable[places[knee([points[place] for place in places])]]
    within = [place for place, (_, latency) in enumerate(points) if latency <= tune.max_latency]
    if not within:
        raise GateRefused(
            f"the fastest of {len(points)} trials takes {min(p[1] for p in points):.3g} ms a row",
            where="tune.max_latency",
            expected=f"at most {tune.max_latency:g} ms",
            hint="raise it, or let the space hold smaller networks",
        )
    return usable[min(within, key=points.__getitem__)]
