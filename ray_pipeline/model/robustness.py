"""The score on disturbed rows: under attack by gradient, and on raw rows through the whole path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from ray_pipeline.job import Robustness
from ray_pipeline.model import disturb
from ray_pipeline.model.metrics import Floats
from ray_pipeline.model.sample import Sample, mean_interval
from ray_pipeline.schema import Schema

Attack = Callable[[str, float], Floats]
"""From `fgsm` or `pgd` and a size to the attacked rows' outputs."""

_NAMES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "noise": "noise on numbers",
    "swaps": "categories of other rows",
    "typos": "misspelt words",
    "lower": "lower case",
    "upper": "upper case",
}


def results(
    sample: Sample, schema: Schema, settings: Robustness, attack: Attack | None
) -> dict[str, Any]:
    """The `score` of the sample as it is, and by disturbance and size the `score` and its `drop`,
    with `low` and `high` of the drop's 95 % interval.

    What a job's columns give no room for is left out; so are attacks if there is no `attack`.
    """
    whole = sample.scores(sample.rows)
    found: dict[str, Any] = {"rows": len(whole), "score": float(whole.mean())}
    for name, size, outputs in _disturbed(sample, schema, settings, attack):
        scores = sample.row_scores(outputs)
        drop = dict(zip(("drop", "low", "high"), mean_interval(whole - scores), strict=True))
        found.setdefault(name, {})[f"{size:g}"] = {"score": float(scores.mean()), **drop}
    return found


def findings(found: Mapping[str, Any], score: str) -> list[dict[str, Any]]:
    """The report's section: a table of all disturbances, and the curves of those with sizes."""
    tried = {name: found[name] for name in _NAMES if name in found}
    if not tried:
        return []
    rows = [
        [
            _NAMES[name],
            size,
            f"{result['score']:.4f}",
            f"{result['drop']:.4f}",
            f"{result['low']:.4f} to {result['high']:.4f}",
            f"robustness.{name}.{size}.score",
        ]
        for name, sizes in tried.items()
        for size, result in sizes.items()
    ]
    note = (
        f"On {found['rows']:,} test rows, whose {score} is {found['score']:.4f} as they are. FGSM "
        "and PGD move the numbers (or pixels) that the network reads in the worst direction, by at "
        "most so many standard deviations; all else disturbs raw rows, which then go the whole way."
    )
    columns = ["disturbance", "size", score, "fall", "95 % interval", "gate"]
    return [
        {
            "title": "Under disturbance",
            "note": note,
            "tables": [{"columns": columns, "rows": rows}],
            "plots": _plots(tried, found["score"], score),
        }
    ]


def _plots(tried: Mapping[str, Any], whole: float, score: str) -> list[dict[str, Any]]:
    groups = {
        "standard deviations": ("fgsm", "pgd", "noise"),
        "share of values": ("swaps", "typos"),
    }
    return [
        {
            "kind": "curves",
            "x": x,
            "y": score,
            "lines": {
                name: [[0.0, whole], *([float(s), r["score"]] for s, r in tried[name].items())]
                for name in names
                if name in tried
            },
        }
        for x, names in groups.items()
        if any(name in tried for name in names)
    ]


def _disturbed(
    sample: Sample, schema: Schema, settings: Robustness, attack: Attack | None
) -> Iterator[tuple[str, float, Floats]]:
    """Each disturbance, its size, and what the model answers."""
    if attack is not None:
        for name in ("fgsm", "pgd"):
            for size in settings.gradient:
                yield name, size, attack(name, size)
    for name, size, change in _changes(schema, settings):
        yield name, size, sample.answers(change(sample.rows))


def _changes(
    schema: Schema, settings: Robustness
) -> Iterator[tuple[str, float, Callable[[pa.Table], pa.Table]]]:
    sized = {
        "noise": (disturb.noisy, disturb.NUMBERS, settings.noise),
        "swaps": (disturb.swapped, disturb.CATEGORIES, settings.swaps),
        "typos": (disturb.misspelt, disturb.TEXTS, settings.typos),
    }
    for name, (disturbed, kinds, sizes) in sized.items():
        for size in sizes if disturb.named(schema, kinds) else ():
            rng = np.random.default_rng(settings.seed)
            yield name, size, partial(disturbed, schema=schema, size=size, rng=rng)
    if settings.case and disturb.named(schema, disturb.TEXTS):
        yield "lower", 1, lambda rows: disturb.cased(rows, schema, upper=False)
        yield "upper", 1, lambda rows: disturb.cased(rows, schema, upper=True)
