"""Rows that stand twice, found by 128-bit hashes: only those travel to the driver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data.hashing import row_hashes
from ray_pipeline.data.privacy.treatment import IDENTITY
from ray_pipeline.schema import Schema

_ROWS = 40
"""Bits of a row's number in its id; the file's number is above them."""


NONE = pa.table(
    {
        "id": pa.array([], pa.int64()),
        "high": pa.array([], pa.uint64()),
        "low": pa.array([], pa.uint64()),
        "test": pa.array([], pa.bool_()),
    }
)


@dataclass(frozen=True)
class Repeated:
    """Rows to leave out: their ids [D] in rising order, the equal row each repeats, and whether
    that one is in the test file."""

    ids: NDArray[np.int64]
    firsts: NDArray[np.int64]
    leaked: NDArray[np.bool_]

    def reasons(self, ids: NDArray[np.int64], files: list[str]) -> pa.Array:
        """Why each row of `ids` is left out, null for those that are not."""
        places = np.searchsorted(self.ids, ids)
        inside = places < len(self.ids)
        inside[inside] = self.ids[places[inside]] == ids[inside]
        # A null index takes a null.
        return self._texts(files).take(pa.array(places, mask=~inside))

    def _texts(self, files: list[str]) -> pa.Array:
        names = pa.array([name.rsplit("/", 1)[-1] for name in files], pa.string())
        return pc.binary_join_element_wise(
            pc.if_else(pa.array(self.leaked), "also in the test file", "duplicate"),
            ", the same as row ",
            pc.cast(pa.array(self.firsts & (2**_ROWS - 1)), pa.string()),
            " of ",
            names.take(pa.array(self.firsts >> _ROWS)),
            "",
        )


def row_ids(table: pa.Table, files: list[str]) -> NDArray[np.int64]:
    """A number [N] for each row's `_source` and `_row`; ordered as the files, then as the rows."""
    sources = pc.index_in(table["_source"].combine_chunks(), pa.array(files)).to_numpy()
    ids: NDArray[np.int64] = (sources.astype(np.int64) << _ROWS) | table["_row"].to_numpy()
    return ids


def place_of(id_: int, files: list[str]) -> str:
    """Where the row with this id is, in words."""
    return f"row {id_ & (2**_ROWS - 1)} of {files[id_ >> _ROWS].rsplit('/', 1)[-1]}"


def hashed(table: pa.Table, schema: Schema, files: list[str]) -> pa.Table:
    """The id of each usable row, its 128 bits, and whether it is a row of the test file."""
    usable = table.filter(pc.is_null(table["_reason"]))
    names = [*schema.names, *(name for name in (IDENTITY,) if name in table.column_names)]
    return pa.table(
        {
            "id": row_ids(usable, files),
            "high": row_hashes(usable, names, seed=0),
            "low": row_hashes(usable, names, seed=1),
            "test": usable["_test"],
        }
    )


def repeated(hashes: pa.Table, drop: bool) -> Repeated:
    """The training rows equal to a test row or, if `drop`, to an earlier training row.

    `hashes` are all rows of all files as `hashed`. Of equal rows the first test row, or else the
    first training row, is the one that the others repeat. Test rows are never left out.
    """
    frame = hashes.to_pandas()
    # 64 bits first: what is alone there is alone in 128, and nearly all rows are.
    frame = frame[frame["high"].duplicated(keep=False).to_numpy()]
    frame = frame.sort_values(["test", "id"], ascending=[False, True])
    groups = frame.groupby(["high", "low"], sort=False)
    firsts = groups["id"].transform("first").to_numpy()
    leaked = groups["test"].transform("first").to_numpy().astype(bool)
    ids, test = frame["id"].to_numpy(), frame["test"].to_numpy().astype(bool)
    out = ~test & (leaked | ((ids != firsts) & drop))
    order = np.argsort(ids[out])
    return Repeated(ids[out][order], firsts[out][order], leaked[out][order])
