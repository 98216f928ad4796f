"""The flights of 2013 (jobs/fetch.py) repeated to any number of rows, with faults put in."""

from __future__ import annotations

import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).parents[1] / "jobs"))
import fetch

LABEL = "arr_delay"
CATEGORIES = ("carrier", "tailnum", "origin", "dest", "time_hour")
NUMBERS = (
    *("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time"),
    *("sched_arr_time", "flight", "air_time", "distance", "hour", "minute"),
)
FILE_ROWS = 1_000_000
SHARE = 0.01  # of rows that stand twice, and of values that are missing besides those that are


def settings(source: Path) -> Any:
    """What a job does to them: missing values become the mean, numbers are standardised."""
    from ray_pipeline.job import Data

    return Data(
        source=str(source),
        label=LABEL,
        columns={
            **dict.fromkeys(NUMBERS, "integer"),
            **dict.fromkeys(CATEGORIES, "category"),
            LABEL: "number",
        },
        features={
            "numbers": "standard",
            "max_categories": 1_000_000,
            "min_count": 1,
            "columns": {name: {"missing": "mean"} for name in NUMBERS},
        },
    )


def prepared(source: Path, out: Path) -> dict[str, Any]:
    """Clean and prepare them, in `out`; cleaning's record, with its seconds as `clean_s`."""
    from upath import UPath

    from ray_pipeline.data import clean, collect, features

    data = settings(source)
    schema = collect.schema(data)
    cleaned, ready = UPath(out) / "clean", UPath(out) / "features"
    for folder in (cleaned, ready):
        folder.mkdir(parents=True)
    begun = time.monotonic()
    record = clean.write(data, schema, cleaned)
    clean_s = time.monotonic() - begun
    features.write_sides({"train": cleaned / "rows"}, data, schema, ready)
    return record | {"clean_s": clean_s}


def written(folder: Path, rows: int, seed: int = 0) -> int:
    """Write about `rows` rows below `folder`, in files of up to FILE_ROWS; how many there are.

    Each repetition has a year of its own, so that only the rows copied on purpose are duplicates:
    they stand in the file of the repetition after.
    """
    base, chance = _flights(), np.random.default_rng(seed)
    folder.mkdir(parents=True)
    repetitions = max(round(rows / len(base) / (1 + SHARE)), 1)
    held, before, count = [], _with_gaps(base, 2013, np.random.default_rng(seed)), 0
    for number in range(repetitions):
        table = _with_gaps(base, 2013 + number, chance)
        repeated = before.take(chance.choice(len(base), round(len(base) * SHARE), replace=False))
        held += [table, repeated]
        before = table
        count += len(table) + len(repeated)
        if sum(map(len, held)) + len(base) > FILE_ROWS or number == repetitions - 1:
            pq.write_table(pa.concat_tables(held), folder / f"{number:04d}.parquet")
            held = []
    return count


def _flights() -> pa.Table:
    with zipfile.ZipFile(fetch.fetched("flights") / "flights.csv.zip") as archive:
        text = archive.open(archive.namelist()[0])
        options = pacsv.ConvertOptions(
            null_values=["NA", ""],
            strings_can_be_null=True,
            column_types=dict.fromkeys(CATEGORIES, pa.string()),
        )
        return pacsv.read_csv(text, convert_options=options)


def _with_gaps(base: pa.Table, year: int, chance: np.random.Generator) -> pa.Table:
    columns = {}
    for name in base.column_names:
        values = base[name].combine_chunks()
        gaps = pa.array(chance.random(len(base)) < SHARE)
        nothing = pa.scalar(None, values.type)
        columns[name] = values if name == "year" else pc.if_else(gaps, nothing, values)
    columns["year"] = pa.repeat(pa.scalar(year, pa.int64()), len(base))
    return pa.table(columns)
