"""Rows that stand twice, found by 128-bit hashes: only those travel to the driver.

Each task writes its rows' hashes to disk, sorted into BUCKETS by their first bits; then one task
compares a range of buckets of all of them, a few million hashes at a time.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import parts
from ray_pipeline.data.hashing import digests
from ray_pipeline.data.privacy.treatment import IDENTITY
from ray_pipeline.data.shares import Share
from ray_pipeline.schema import Schema

_ROWS = 40
"""Bits of a row's number in its id; the file's number is above them."""


BUCKETS = 256
"""By the first 8 bits of a hash."""
TASK_ROWS = 2_000_000
"""Hashes that one task compares: about 50 MB."""
_RECORD = np.dtype([("id", "<i8"), ("high", "<u8"), ("low", "<u8"), ("test", "<u8")])  # aligned

NONE = pa.table(
    {
        "id": pa.array([], pa.int64()),
        "high": pa.array([], pa.uint64()),
        "low": pa.array([], pa.uint64()),
        "test": pa.array([], pa.bool_()),
    }
)


class Repeated(NamedTuple):
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


NOTHING = Repeated(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_))


def row_ids(table: pa.Table, files: list[str]) -> NDArray[np.int64]:
    """A number [N] for each row's `_source` and `_row`; ordered as the files, then as the rows."""
    sources = pc.index_in(table["_source"].combine_chunks(), pa.array(files)).to_numpy()
    ids: NDArray[np.int64] = (sources.astype(np.int64) << _ROWS) | table["_row"].to_numpy()
    return ids


def place_of(id_: int, files: list[str]) -> str:
    """Where the row with this id is, in words."""
    return f"row {id_ & (2**_ROWS - 1)} of {files[id_ >> _ROWS].rsplit('/', 1)[-1]}"


def found(
    shares: list[Share], schema: Schema, files: list[str], drop: bool, scratch: UPath
) -> Repeated:
    """As `repeated`, over the rows of all shares, which are read for the first time."""
    scratch.mkdir(parents=True, exist_ok=True)
    work = partial(_sorted_hashes, schema=schema, files=files, scratch=scratch)
    bounds = np.array(parts.results(shares, work))  # [shares, BUCKETS + 1]
    sizes = np.diff(bounds.sum(axis=0))
    tasks = np.minimum(np.cumsum(sizes) // TASK_ROWS, BUCKETS)
    edges = [0, *(np.flatnonzero(np.diff(tasks)) + 1).tolist(), BUCKETS]
    paths = [_hash_file(scratch, share) for share in shares]
    comparing = partial(_repeated_in, paths=paths, bounds=bounds, drop=drop)
    return _joined(parts.results(list(pairwise(edges)), comparing))


def _hash_file(scratch: UPath, share: Share) -> UPath:
    return scratch / f"{share.number:06d}.hashes"


def _sorted_hashes(
    share: Share, schema: Schema, files: list[str], scratch: UPath
) -> NDArray[np.int64]:
    """Write the share's hashes by rising bucket; where each bucket begins, [BUCKETS + 1]."""
    tables = [hashed(table, schema, files) for table in share.first() if len(table)]
    whole = pa.concat_tables([NONE, *tables])
    records = np.empty(len(whole), _RECORD)
    for name in NONE.column_names:
        records[name] = whole[name].to_numpy()
    buckets = (records["high"] >> np.uint64(56)).astype(np.uint8)
    with _hash_file(scratch, share).open("wb") as file:
        file.write(records[np.argsort(buckets, kind="stable")].tobytes())
    return np.concatenate([[0], np.cumsum(np.bincount(buckets, minlength=BUCKETS))])


def _repeated_in(
    buckets: tuple[int, int], paths: list[UPath], bounds: NDArray[np.int64], drop: bool
) -> Repeated:
    """The rows to leave out whose hashes are in a range of buckets."""
    records = np.concatenate(
        [
            _read_hashes(path, own[buckets[0]], own[buckets[1]])
            for path, own in zip(paths, bounds, strict=True)
        ]
    )
    order = np.argsort(records["high"])
    high = records["high"][order]
    same, several = high[1:] == high[:-1], np.zeros(len(high), bool)
    several[1:] |= same
    several[:-1] |= same
    found = records[order[several]]  # nearly all rows are alone
    return repeated(pa.table({name: found[name] for name in NONE.column_names}), drop)


def _read_hashes(path: UPath, begin: int, end: int) -> NDArray[np.void]:
    with path.open("rb") as file:
        file.seek(int(begin) * _RECORD.itemsize)
        return np.frombuffer(file.read(int(end - begin) * _RECORD.itemsize), _RECORD)


def _joined(found: list[Repeated]) -> Repeated:
    ids, firsts, leaked = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(ids)
    return Repeated(ids[order], firsts[order], leaked[order])


def hashed(table: pa.Table, schema: Schema, files: list[str]) -> pa.Table:
    """The id of each usable row, its 128 bits, and whether it is a row of the test file."""
    names = [*schema.names, *(name for name in (IDENTITY,) if name in table.column_names)]
    high, low = digests(table, names)
    hashes = pa.table(
        {"id": row_ids(table, files), "high": high, "low": low, "test": table["_test"]}
    )
    return hashes.filter(pc.is_null(table["_reason"]))


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
