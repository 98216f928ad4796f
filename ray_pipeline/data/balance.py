"""Weights of the training rows, so that group and class become independent, or classes equal.

Reweighing is that of Kamiran & Calders (2012), "Data preprocessing techniques for classification
without discrimination", Knowledge and Information Systems 33: a row of group g and class y weighs
P(g) P(y) / P(g, y), with the shares of the training rows. `classes: balanced` puts 1/K in the place
of P(y), which without groups is scikit-learn's `class_weight="balanced"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import cells, parts
from ray_pipeline.data.hashing import row_hashes, shares
from ray_pipeline.errors import JobError
from ray_pipeline.job import Balance
from ray_pipeline.schema import Schema

_SEED = 3


@dataclass(frozen=True)
class Weights:
    """`cells` has a row for each combination of group values and class, with its `weight`.

    Its columns are those of `cells.counted`; `columns` are the group columns, then the label.
    """

    cells: pa.Table
    columns: tuple[str, ...]
    method: Literal["reweigh", "resample"]

    def of(self, rows: pa.Table) -> NDArray[np.float32]:
        """The weight [N] of each of `rows`, which must be among those that were counted."""
        known, found = np.zeros(self.cells.num_rows, np.int64), np.zeros(len(rows), np.int64)
        for key, name in zip(self._keys, self.columns, strict=True):
            values = pc.unique(self.cells[key])
            known = known * len(values) + pc.index_in(self.cells[key], values).to_numpy()
            found = found * len(values) + pc.index_in(cells.texts(rows[name]), values).to_numpy()
        order = np.argsort(known)
        place = order[np.searchsorted(known, found, sorter=order)]
        weights: NDArray[np.float32] = self.cells["weight"].to_numpy().astype(np.float32)[place]
        return weights

    def applied(self, prepared: pa.Table, rows: pa.Table) -> pa.Table:
        """`prepared`, made of the training rows `rows`, with a column `weight` float32.

        To resample, rows are repeated or left out instead: as often as the weight says, where a
        fraction is rounded up for that share of the rows, chosen by their hash.
        """
        weights = self.of(rows)
        if self.method == "reweigh":
            return prepared.append_column("weight", pa.array(weights))
        chance = shares(row_hashes(rows, rows.column_names, seed=_SEED))
        copies = np.floor(weights + chance).astype(np.int64)
        return prepared.take(pa.array(np.repeat(np.arange(len(rows)), copies)))

    @property
    def _keys(self) -> list[str]:
        return [str(index) for index in range(len(self.columns) - 1)] + ["class"]


def fitted(train: UPath, balance: Balance, schema: Schema) -> Weights:
    """The weights that the training rows in the folder `train` get; one execution."""
    return weighed(cells.counted(parts.existing_files(train), balance.by, schema), balance, schema)


def weighed(found: pa.Table, balance: Balance, schema: Schema) -> Weights:
    """The weights of counted cells. Their mean over the rows is 1 if every group has every class;
    a class that a group lacks cannot be made up for, and lowers it."""
    groups = [str(index) for index in range(len(balance.by))]
    rows = found["rows"].to_numpy()
    of_group, of_class = _totals(found, groups), _totals(found, ["class"])
    target = of_class / rows.sum()
    if balance.classes == "balanced":
        target = np.full(len(rows), 1 / len(pc.unique(found["class"])))
    weights = of_group * target / rows
    return Weights(
        found.append_column("weight", pa.array(weights)),
        (*balance.by, schema.label.name),
        balance.method,
    )


def described(weights: Weights) -> dict[str, Any]:
    """The weights' range, and how many equally weighted rows would be as telling.

    The latter is Kish's effective sample size (1965), (Σ w)² / Σ w².
    """
    rows, weight = weights.cells["rows"].to_numpy(), weights.cells["weight"].to_numpy()
    total = float((rows * weight).sum())
    return {
        "method": weights.method,
        "rows": int(rows.sum()),
        "lightest": float(weight.min()),
        "heaviest": float(weight.max()),
        "effective_rows": total**2 / float((rows * weight**2).sum()),
    }


def check(balance: Balance | None, schema: Schema) -> None:
    """Refuse settings that the columns do not allow. Raises JobError."""
    if balance is None:
        return
    for name in balance.by:
        if name not in schema.names or name == schema.label.name:
            raise JobError(
                f"no column is called `{name}`"
                if name not in schema.names
                else f"`{name}` is the label",
                where="data.balance.by",
                expected="one of "
                + ", ".join(name for name in schema.names if name != schema.label.name),
            )
    if schema.label.kind in {"integer", "number"}:
        raise JobError(
            f"the label `{schema.label.name}` is a number, which has no classes to balance",
            where="data.balance",
            hint="leave `balance` out, or say under `data.columns` that the label is a category",
        )


def _totals(found: pa.Table, keys: list[str]) -> NDArray[np.float64]:
    """For each cell [C], the rows of all cells that are equal to it in `keys`."""
    rows = found["rows"].to_numpy().astype(float)
    codes = np.zeros(len(rows), np.int64)
    for key in keys:
        values = pc.unique(found[key])
        codes = codes * len(values) + pc.index_in(found[key], values).to_numpy()
    _, place = np.unique(codes, return_inverse=True)
    totals: NDArray[np.float64] = np.bincount(place, rows)[place].astype(float)
    return totals
