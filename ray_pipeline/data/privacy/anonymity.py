"""How well people are hidden among others in what is stored.

k-anonymity (Sweeney 2002): the smallest number of rows that share a combination of the
quasi-identifiers. l-diversity (Machanavajjhala et al. 2007): the smallest number of different
labels among the rows of one combination; at 1, who knows the combination knows the label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ray_pipeline.data import cells, parts
from ray_pipeline.errors import GateRefused
from ray_pipeline.job import Privacy
from ray_pipeline.schema import Schema


def write(cleaned: UPath, privacy: Privacy, schema: Schema, out: UPath) -> dict[str, Any]:
    """Measure the stored rows in `cleaned`; writes nothing but its record.

    The record has `k`, `below` (rows in combinations of fewer than `privacy.k`), `unique` (the
    share of rows that are alone in theirs), `combinations`, and `l` where the label has classes.
    """
    files = parts.files(cleaned / "rows") + parts.files(cleaned / "test")
    record: dict[str, Any] = {}
    tables = []
    if privacy.quasi_identifiers:
        record = measured(cells.counted(files, privacy.quasi_identifiers, schema), privacy)
        tables.append(_table(record, privacy))
    if privacy.retention_days:
        now = datetime.now(UTC)
        until = now + timedelta(days=privacy.retention_days)
        record["kept_until"] = until.isoformat(timespec="seconds")
        rows = [[f"{now:%Y-%m-%d}", privacy.retention_days, f"{until:%Y-%m-%d}"]]
        tables.append(
            {
                "caption": "Retention",
                "columns": ["Stored on", "Days", "To be erased by"],
                "rows": rows,
            }
        )
    return record | {
        "findings": [{"title": "Anonymity and retention", "note": _NOTE, "tables": tables}]
    }


_NOTE = (
    "Of the rows as they are stored, after treatment. Combinations of the quasi-identifiers that "
    "few rows share could single a person out."
)


def measured(counted: pa.Table, privacy: Privacy) -> dict[str, Any]:
    """The figures of `write` out of cells, as `cells.counted` makes them."""
    keys = [str(index) for index in range(len(privacy.quasi_identifiers))]
    wanted: list[tuple[Any, ...]] = [("rows", "sum")]
    if "class" in counted.column_names:
        wanted.append(("class", "count_distinct"))
    groups = counted.group_by(keys).aggregate(wanted)
    sizes = groups["rows_sum"]
    total = pc.sum(sizes).as_py() or 0
    alone = pc.sum(pc.equal(sizes, 1)).as_py() or 0
    record = {
        "rows": total,
        "k": pc.min(sizes).as_py() or 0,
        "below": pc.sum(sizes.filter(pc.less(sizes, privacy.k))).as_py() or 0,
        "unique": alone / total if total else 0.0,
        "combinations": len(groups),
    }
    if "class" in counted.column_names:
        record["l"] = pc.min(groups["class_count_distinct"]).as_py() or 0
    return record


def gate(record: Mapping[str, Any], privacy: Privacy) -> None:
    """Raises GateRefused where `on_found: refuse` and fewer than `k` rows share a combination."""
    if privacy.on_found == "refuse" and record.get("k", privacy.k) < privacy.k:
        raise GateRefused(
            f"{record['below']:,} of {record['rows']:,} rows are hidden among fewer than "
            f"{privacy.k}: k = {record['k']}",
            where=f"data.privacy.quasi_identifiers: {', '.join(privacy.quasi_identifiers)}",
            expected=f"k at least {privacy.k}",
            hint="generalise these columns further, drop one, lower `k`, or set `on_found: warn`",
        )


def _table(record: Mapping[str, Any], privacy: Privacy) -> dict[str, Any]:
    rows: Sequence[Sequence[Any]] = [
        ["Quasi-identifiers", ", ".join(privacy.quasi_identifiers)],
        ["k, the fewest rows of a combination", f"{record['k']:,} (wanted: {privacy.k:,})"],
        [f"Rows in combinations of fewer than {privacy.k}", f"{record['below']:,}"],
        ["Share of rows alone in theirs", f"{record['unique']:.2%}"],
        ["Combinations", f"{record['combinations']:,}"],
        *([["l, the fewest labels of a combination", record["l"]]] if "l" in record else []),
    ]
    return {"columns": ["", ""], "rows": rows}
