"""How often does a look see real drift, and how often drift that is not there?

Flights of 2013: the reference is half of January; windows are of its other half, drawn by flight
and by day, and of each later month. Income: the reference is half of the rows; windows are of the
other half, of which a growing share is replaced by women's. Of each window of so many rows is told
in which share of draws a look has an alarm, with the bounds as they come.

With --vectors, of texts and images: the vectors that bundles of jobs/reviews.yaml and
jobs/fashion.yaml keep, and windows of the test rows, of which a share is about something else. Both
the test that a look makes and one by a classifier are held to the same rate of false alarms.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import _vectors
import numpy as np
import pandas as pd
import pyarrow as pa
from _common import finish

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))

from fetch import fetched

from ray_pipeline.deploy import reference
from ray_pipeline.deploy.reference import Reference
from ray_pipeline.job.watch import Drift
from ray_pipeline.watch import drift

FLIGHTS = ["carrier", "origin", "dest", "hour", "distance", "dep_delay"]
WEATHER = ["temp", "humid", "wind_speed", "pressure", "visib"]
ADULT = [
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week", "country"),
]
Draw = Callable[[int, np.random.Generator], pd.DataFrame]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 1000, 5000])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--vectors", action="store_true", help="texts and images, not tables")
    parser.add_argument("--storage", type=Path, help="where their bundles are")
    options = parser.parse_args()
    if options.vectors:
        rows, figures = of_vectors(options.storage, options.rows, options.draws)
    else:
        rows, figures = of_tables(options.rows, options.draws)
    finish("drift", rows, {}, figures, options.json, packages=("pyarrow", "scipy"))


def of_vectors(
    storage: Path | None, counts: list[int], draws: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The share of draws in which each test's chance is below the rate of false alarms, and of
    MMD's those in which its size is beyond the bound as well."""
    rows, figures, settings = [], {}, Drift()
    for known, windows in (_vectors.reviews(storage), _vectors.clothes(storage)):
        for (name, draw), count in product(windows.items(), counts):
            row: dict[str, Any] = {"window": name, "rows": count}
            drawn = [draw(count, np.random.default_rng(seed)) for seed in range(draws)]
            for test, found_by in _vectors.TESTS.items():
                found = np.array([found_by(known, seen) for seen in drawn])
                sure = found[:, 1] <= settings.false_alarms
                row[f"{test}: beyond chance"] = f"{sure.mean():.2f}"
                figures[f"{name}/{count}/{test}"] = float(sure.mean())
                if test == "MMD":
                    row["alarms"] = f"{(sure & (found[:, 0] > settings.max_mmd)).mean():.2f}"
                    row["size"] = f"{np.median(found[:, 0]):.3f}"
            rows.append(row)
    return rows, figures


def of_tables(counts: list[int], draws: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The share of draws in which a look has an alarm."""
    rows, figures = [], {}
    for known, windows in (flights(), income()):
        for name, draw in windows.items():
            shares = {n: power(known, draw, n, draws) for n in counts}
            figures |= {f"{name}/{n}": share for n, share in shares.items()}
            rows.append({"window": name, **{f"{n} rows": f"{s:.2f}" for n, s in shares.items()}})
    return rows, figures


def power(known: Reference, draw: Draw, count: int, draws: int) -> float:
    """The share of looks at `count` rows that have an alarm."""
    settings, alarms = Drift(), 0
    for seed in range(draws):
        seen = columns_of(draw(count, np.random.default_rng(seed)))
        alarms += any(one.alarms(settings) for one in drift.found(known, seen, settings))
    return alarms / draws


def flights() -> tuple[Reference, dict[str, Draw]]:
    folder = fetched("flights")
    weather = pd.read_csv(folder / "weather.csv")[["origin", "time_hour", *WEATHER]]
    whole = pd.read_csv(folder / "flights.csv.zip").merge(weather, on=["origin", "time_hour"])
    first = whole[whole["month"] == 1]
    days = first["day"].to_numpy()
    half = np.random.default_rng(0).random(len(first)) < 0.5
    features = FLIGHTS + WEATHER

    def of_days(count: int, rng: np.random.Generator) -> pd.DataFrame:
        """Rows of three whole days, which share their weather."""
        chosen = np.isin(days, rng.choice(np.unique(days), 3, replace=False))
        return sampled(first[chosen & ~half][features])(count, rng)

    windows = {"flights, January": sampled(first[~half][features])}
    windows["flights, three days of January"] = of_days
    for month in (2, 3, 4, 6, 8, 10, 12):
        later = whole[whole["month"] == month][features]
        windows[f"flights, month {month}"] = sampled(later)
    return known_of(first[half][features]), windows


def income() -> tuple[Reference, dict[str, Draw]]:
    places = fetched("adult") / "adult.data"
    whole = pd.read_csv(
        places, names=[*ADULT, "income"], skipinitialspace=True, na_values="?"
    ).drop(columns="income")
    half = np.random.default_rng(0).random(len(whole)) < 0.5
    rest = whole[~half]
    women = rest[rest["sex"] == "Female"]

    def mixed(share: float) -> Draw:
        def draw(count: int, rng: np.random.Generator) -> pd.DataFrame:
            replaced = int(share * count)
            parts = [sampled(rest)(count - replaced, rng), sampled(women)(replaced, rng)]
            return pd.concat(parts)

        return draw

    windows = {
        f"income, {share:.0%} replaced by women's": mixed(share)
        for share in (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
    }
    return known_of(whole[half]), windows


def sampled(rows: pd.DataFrame) -> Draw:
    """Draws of the rows, with replacement where there are fewer."""
    return lambda count, rng: rows.iloc[rng.choice(len(rows), count, replace=count > len(rows))]


def known_of(rows: pd.DataFrame) -> Reference:
    columns = {
        name: reference.numbers(values)
        if isinstance(values, np.ndarray)
        else reference.values(pa.chunked_array([values]))
        for name, values in columns_of(rows).items()
    }
    return Reference(rows=len(rows), columns=columns)


def columns_of(rows: pd.DataFrame) -> dict[str, np.ndarray | pa.Array]:
    """Numbers [N] with NaN and texts [N] with null."""
    return {
        name: rows[name].to_numpy(float)
        if pd.api.types.is_numeric_dtype(rows[name])
        else pa.array(rows[name], pa.string(), from_pandas=True)
        for name in rows.columns
    }


if __name__ == "__main__":
    main()
