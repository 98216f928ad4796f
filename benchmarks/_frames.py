"""The same preparation in Polars, DuckDB and pandas, each as one would write it by hand.

Each writes the standardised numbers, a flag `<name>_missing` for those with gaps, the categories'
indices and the label to `out/rows.parquet`, and returns how many rows there are.
"""

from __future__ import annotations

from pathlib import Path

from _flights import CATEGORIES, LABEL, NUMBERS


def with_polars(source: Path, out: Path) -> int:
    import polars as pl

    rows = pl.scan_parquet(source).filter(pl.col(LABEL).is_not_null()).unique().collect()
    flagged = [name for name in NUMBERS if rows[name].null_count()]
    codes = []
    for name in CATEGORIES:
        counts = (
            rows[name].drop_nulls().value_counts().sort(["count", name], descending=[True, False])
        )
        code = pl.col(name).cast(pl.Enum(counts[name])).to_physical().cast(pl.Int32) + 2
        codes.append(code.fill_null(0))
    scaled = [
        ((pl.col(name) - pl.col(name).mean()) / pl.col(name).std(ddof=0)).fill_null(0.0)
        for name in NUMBERS
    ]
    rows.select(
        *(expression.cast(pl.Float32) for expression in scaled),
        *(pl.col(name).is_null().alias(f"{name}_missing") for name in flagged),
        *codes,
        pl.col(LABEL).cast(pl.Float32),
    ).write_parquet(out / "rows.parquet")
    return len(rows)


def with_duckdb(source: Path, out: Path) -> int:
    import duckdb

    database = duckdb.connect()
    database.execute("SET enable_progress_bar = false")
    database.execute(
        "CREATE TEMP TABLE rows AS SELECT DISTINCT * "
        f"FROM read_parquet('{source}/*.parquet') WHERE {LABEL} IS NOT NULL"
    )
    wanted = [f"avg({n}), stddev_pop({n}), count(*) - count({n})" for n in NUMBERS]
    found = iter(database.execute(f"SELECT {', '.join(wanted)} FROM rows").fetchone() or ())
    columns, joins = [], []
    flags = []
    for name in NUMBERS:
        mean, deviation, missing = next(found), next(found), next(found)
        columns.append(f"coalesce(({name} - {mean!r}) / {deviation!r}, 0)::FLOAT AS {name}")
        if missing:
            flags.append(f"{name} IS NULL AS {name}_missing")
    for name in CATEGORIES:
        database.execute(
            f"CREATE TEMP TABLE {name}_codes AS SELECT {name} AS value, "
            f"(row_number() OVER (ORDER BY count(*) DESC, {name}) + 1)::INTEGER AS code "
            f"FROM rows WHERE {name} IS NOT NULL GROUP BY {name}"
        )
        flags.append(f"coalesce({name}_codes.code, 0) AS {name}")
        joins.append(f"LEFT JOIN {name}_codes ON rows.{name} = {name}_codes.value")
    database.execute(
        f"COPY (SELECT {', '.join(columns + flags)}, {LABEL}::FLOAT AS {LABEL} "
        f"FROM rows {' '.join(joins)}) TO '{out}/rows.parquet' (FORMAT parquet)"
    )
    return int((database.execute("SELECT count(*) FROM rows").fetchone() or (0,))[0])


def with_pandas(source: Path, out: Path) -> int:
    import pandas as pd

    rows = pd.read_parquet(source)
    rows = rows[rows[LABEL].notna()].drop_duplicates()
    found = {}
    for name in NUMBERS:
        values = rows[name]
        scaled = (values - values.mean()) / values.std(ddof=0)
        found[name] = scaled.fillna(0.0).astype("float32")
        if values.hasnans:
            found[f"{name}_missing"] = values.isna()
    for name in CATEGORIES:
        counts = rows[name].value_counts().rename_axis("value").reset_index(name="n")
        order = counts.sort_values(["n", "value"], ascending=[False, True])["value"]
        codes = pd.Categorical(rows[name], categories=order).codes.astype("int32")
        found[name] = pd.Series(codes, index=rows.index).where(codes >= 0, -2) + 2
    found[LABEL] = rows[LABEL].astype("float32")
    pd.DataFrame(found).to_parquet(out / "rows.parquet", index=False)
    return len(rows)


RIVALS = {"polars": with_polars, "duckdb": with_duckdb, "pandas": with_pandas}
