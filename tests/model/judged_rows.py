"""Raw rows whose label follows a known rule, and a model that is that rule: no training needed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ray_pipeline.data.statistics import (
    CategoryStatistics,
    LabelStatistics,
    NumberStatistics,
    Statistics,
)
from ray_pipeline.model.metrics import Floats
from ray_pipeline.model.sample import Sample
from ray_pipeline.schema import Column, Schema

SCHEMA = Schema(
    columns=(
        Column(name="age", kind="integer"),
        Column(name="income", kind="number"),
        Column(name="town", kind="category"),
        Column(name="said", kind="text"),
        Column(name="label", kind="category", role="label"),
    )
)
CLASSES = ("no", "yes")


def rows(count: int = 400, seed: int = 0) -> pa.Table:
    """`age` and `income` are standard normal times 10, some ages missing; `town` is Ulm or Bonn."""
    rng = np.random.default_rng(seed)
    columns = {
        "age": pa.array(
            np.rint(rng.normal(0, 10, count)).astype(int), mask=rng.random(count) < 0.1
        ),
        "income": pa.array(rng.normal(0, 10, count)),
        "town": pa.array(rng.choice(["Ulm", "Bonn", "Bonn"], count)),
        "said": pa.array(rng.choice(["quite good tea", "Bad Coffee", None], count)),
    }
    return pa.table(columns)


def rule(table: pa.Table) -> Floats:
    """Probabilities [N, 2]: `yes` grows with age and in Ulm; income and texts do not matter."""
    age = table["age"].to_pandas().fillna(0).to_numpy(dtype=float)
    ulm = np.array([town == "Ulm" for town in table["town"].to_pylist()])
    yes = 1 / (1 + np.exp(-(age / 5 + 2.0 * ulm - 1)))
    return np.stack([1 - yes, yes], 1)


def value_rule(table: pa.Table) -> Floats:
    """Values [N]: twice the age."""
    return 2 * table["age"].to_pandas().fillna(0).to_numpy(dtype=float)


def sample(count: int = 400, noise: float = 0.1) -> Sample:
    """Labels of the rule, a share of them wrong."""
    table = rows(count)
    labels = rule(table).argmax(1)
    wrong = np.random.default_rng(1).random(count) < noise
    return Sample(table, np.where(wrong, 1 - labels, labels), rule)


def statistics(regression: bool = False) -> Statistics:
    """What training rows like these would have taught."""
    number = {"missing": 0, "mean": 0, "deviation": 10, "median": 0, "minimum": -40, "maximum": 40}
    label = {"classes": None, "deviation": 20.0} if regression else {"classes": CLASSES}
    return Statistics(
        rows=400,
        numbers=(
            NumberStatistics(name="age", **(number | {"missing": 40})),
            NumberStatistics(name="income", **number),
        ),
        categories=(
            CategoryStatistics(
                name="town", missing=0, unknown=0, values=("Bonn", "Ulm"), counts=(2, 1)
            ),
        ),
        label=LabelStatistics(name="label", counts=() if regression else (250, 150), **label),
    )
