"""What each of two versions answered while one is tried beside the other, and whether they differ.

A replica counts in plain dicts and sends what is new once a second; the board adds it up. Chance
is allowed for: a share of a few answers is refused only where it is three deviations beyond its
bound, so that gates neither wait for a fixed number of answers nor trip over the first one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict, TypeVar

from ray_pipeline.data.statistics import LabelStatistics
from ray_pipeline.errors import GateRefused
from ray_pipeline.job import Trial

Key = TypeVar("Key")
Outcome = str | int
"""A prediction's class; or a value, in tenths of the label's deviation from its mean."""
_PER_E_FOLD = 20
"""Steps of latency in a factor of e: a quantile is off by at most 5 percent."""
_FURTHEST = 1000
_FEW = 3
"""Fewer answers than these are no reason to refuse."""
_DEVIATIONS = 3
_KOLMOGOROV = 1.63
_BEYOND_P99 = 0.01


class Tally(TypedDict):
    """Figures of one version that add up over replicas and time."""

    answers: int
    failures: dict[str, int]
    """By what went wrong; they are among the answers."""
    latencies: dict[int, int]
    """Answers by the logarithm of their seconds."""
    outcomes: dict[Outcome, int]
    """Rows by outcome."""
    differing: int
    """Rows, among those in `outcomes`, for which the other version says something else."""


def nothing() -> Tally:
    """Nothing counted yet."""
    return {"answers": 0, "failures": {}, "latencies": {}, "outcomes": {}, "differing": 0}


def answered(tally: Tally, seconds: float, outcomes: list[Outcome], differing: int = 0) -> None:
    """Count one answer."""
    tally["answers"] += 1
    tally["differing"] += differing
    _count(tally["latencies"], round(math.log(max(seconds, 1e-6)) * _PER_E_FOLD))
    for outcome in outcomes:
        _count(tally["outcomes"], outcome)


def failed(tally: Tally, why: str) -> None:
    """Count one failure to answer."""
    tally["answers"] += 1
    _count(tally["failures"], why)


def add(total: Tally, more: Tally) -> None:
    """Add `more` to `total`, in place."""
    total["answers"] += more["answers"]
    total["differing"] += more["differing"]
    _add_up(total["failures"], more["failures"])
    _add_up(total["latencies"], more["latencies"])
    _add_up(total["outcomes"], more["outcomes"])


def said(prediction: Mapping[str, Any]) -> str | float:
    """What a prediction says: a class, or a value; of a vector nothing that compares."""
    found: str | float = prediction.get("label", prediction.get("value", 0.0))
    return found


def outcomes_by(label: LabelStatistics) -> Callable[[str | float], Outcome]:
    """A function from what a prediction says to its outcome."""
    mean, tenth = label.mean, (label.deviation or 1.0) / 10

    def outcome(said: str | float) -> Outcome:
        if isinstance(said, str):
            return said
        steps = (said - mean) / tenth
        return round(max(-_FURTHEST, min(_FURTHEST, steps))) if math.isfinite(steps) else _FURTHEST

    return outcome


def differ(ours: Outcome, theirs: Outcome) -> bool:
    """Whether two versions' outcomes for a row are another class, or values apart."""
    if isinstance(ours, int) and isinstance(theirs, int):
        return abs(ours - theirs) > 1
    return ours != theirs


def p99(tally: Tally) -> float | None:
    """The 99th percentile of latency in seconds; None where nothing was answered."""
    left = sum(tally["latencies"].values()) * (1 - _BEYOND_P99)
    for step, count in sorted(tally["latencies"].items()):
        left -= count
        if left <= 0:
            return math.exp(step / _PER_E_FOLD)
    return None


def distance(old: Tally, new: Tally) -> tuple[float, float]:
    """The largest difference in a share of outcomes, and how much of it may be chance: two samples
    of one distribution are further apart once in a hundred times (Kolmogorov and Smirnov)."""
    rows, others = sum(old["outcomes"].values()), sum(new["outcomes"].values())
    if not rows or not others:
        return 0.0, 1.0
    shares = _shares(old["outcomes"], new["outcomes"])
    return max(abs(a - b) for a, b in shares), _KOLMOGOROV * math.sqrt(1 / rows + 1 / others)


def refusal(old: Tally, new: Tally, settings: Trial) -> GateRefused | None:
    """Why the new version may not take over, by what was counted; None where nothing is wrong."""
    return next(_refusals(old, new, settings), None)


def _refusals(old: Tally, new: Tally, settings: Trial) -> Iterator[GateRefused]:
    count, failures = new["answers"], sum(new["failures"].values())
    if _beyond_chance(failures, count, settings.max_error_share):
        why = ", ".join(f"{why}: {n}" for why, n in sorted(new["failures"].items()))
        yield _refused(
            f"{failures} of {count} answers failed ({why})",
            "max_error_share",
            f"at most {settings.max_error_share:.3g} of them",
            "the replicas' log in Ray's session folder has each failure",
        )
    yield from _slow(old, new, settings)
    if settings.max_distance is not None:
        apart, chance = distance(old, new)
        if apart - chance > settings.max_distance:
            yield _refused(
                f"the share of an answer differs by {apart:.3g} from the old version's, "
                f"of which {chance:.2g} may be chance",
                "max_distance",
                f"at most {settings.max_distance:.3g}",
                "compare the two on one file with `ray-pipeline predict`",
            )
    rows = sum(new["outcomes"].values())
    if settings.max_differing is not None and _beyond_chance(
        new["differing"], rows, settings.max_differing
    ):
        yield _refused(
            f"{new['differing']} of {rows} rows are answered otherwise than by the old version",
            "max_differing",
            f"at most {settings.max_differing:.3g} of them",
            "compare the two on one file with `ray-pipeline predict`",
        )


def _slow(old: Tally, new: Tally, settings: Trial) -> Iterator[GateRefused]:
    """Refusals for more answers above a bound of the 99th percentile than one in a hundred."""
    bounds: list[tuple[str, float, str]] = []
    usual, late = p99(old), p99(new)
    if settings.max_p99_ms is not None:
        bounds.append(("max_p99_ms", settings.max_p99_ms / 1000, ""))
    if settings.max_p99_ratio is not None and usual is not None and old["answers"] >= 100:
        times = f", {settings.max_p99_ratio:g} times the old version's"
        bounds.append(("max_p99_ratio", settings.max_p99_ratio * usual, times))
    for name, seconds, how in bounds:
        slow = sum(n for step, n in new["latencies"].items() if _seconds(step) > seconds)
        if late is not None and _beyond_chance(slow, new["answers"], _BEYOND_P99):
            yield _refused(
                f"the 99th percentile of {new['answers']} answers took {late * 1000:.3g} ms",
                name,
                f"at most {seconds * 1000:.3g} ms{how}",
                "make the model smaller (`compress`), or raise the bound",
            )


def _seconds(step: int) -> float:
    return math.exp(step / _PER_E_FOLD)


def _refused(what: str, setting: str, expected: str, hint: str) -> GateRefused:
    return GateRefused(what, where=f"serve.release.{setting}", expected=expected, hint=hint)


def _beyond_chance(count: int, of: int, share: float) -> bool:
    """Whether `count` of `of` is more than `share` would give, and not by chance."""
    expected = of * share
    return count >= _FEW and count > expected + _DEVIATIONS * math.sqrt(expected)


def _shares(ours: dict[Outcome, int], theirs: dict[Outcome, int]) -> Iterator[tuple[float, float]]:
    """Of both, the share of each class, or of values below each bound."""
    all_ours, all_theirs = sum(ours.values()), sum(theirs.values())
    below, other = 0, 0
    for key in sorted({*ours, *theirs}):
        cumulated = isinstance(key, int)
        below = ours.get(key, 0) + (below if cumulated else 0)
        other = theirs.get(key, 0) + (other if cumulated else 0)
        yield below / all_ours, other / all_theirs


def _add_up(total: dict[Key, int], more: dict[Key, int]) -> None:
    for key, count in more.items():
        total[key] = total.get(key, 0) + count


def _count(counts: dict[Any, int], key: Outcome) -> None:
    counts[key] = counts.get(key, 0) + 1
