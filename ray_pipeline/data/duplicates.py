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
_TRAINING = np.uint64(1 << 62)
"""What the rank of a training row has above its id: test rows come before all of them."""

BUCKETS = 256
"""By the first 8 bits of a hash."""
TASK_ROWS = 2_000_000
"""Hashes that one task compares: about 50 MB."""
HIGH, LOW, RANK = range(3)
Records = NDArray[np.uint64]
"""[N, 3]: a row's 128 bits, and its rank: its id, in the order in which rows are the first of
equals. As plain numbers, which are moved faster than records of named fields."""


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
        texts = self._texts(places[inside], files)
        return pc.replace_with_mask(pa.nulls(len(ids), pa.string()), pa.array(inside), texts)

    def _texts(self, places: NDArray[np.int64], files: list[str]) -> pa.Array:
        names = pa.array([name.rsplit("/", 1)[-1] for name in files], pa.string())
        firsts = self.firsts[places]
        return pc.binary_join_element_wise(
            pc.if_else(pa.array(self.leaked[places]), "also in the test file", "duplicate"),
            ", the same as row ",
            pc.cast(pa.array(firsts & (2**_ROWS - 1)), pa.string()),
            " of ",
            names.take(pa.array(firsts >> _ROWS)),
            "",
        )


NOTHING = Repeated(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_))


def row_ids(table: pa.Table, files: list[str]) -> NDArray[np.int64]:
    """A number [N] for each row's `_source` and `_row`; ordered as the files, then as the rows."""
    places = table["_source"].combine_chunks()
    if not pa.types.is_dictionary(places.type):
        places = places.dictionary_encode()
    known = pc.index_in(places.dictionary, pa.array(files)).to_numpy().astype(np.int64)
    ids: NDArray[np.int64] = (known << _ROWS)[places.indices.to_numpy()] | table["_row"].to_numpy()
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
    records = np.concatenate([np.empty((0, 3), np.uint64), *tables])
    buckets = (records[:, HIGH] >> np.uint64(56)).astype(np.uint8)
    ordered = records.take(np.argsort(buckets, kind="stable"), axis=0)
    with _hash_file(scratch, share).open("wb") as file:
        file.write(ordered.reshape(-1).view(np.uint8).data)
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
    high = np.ascontiguousarray(records[:, HIGH])
    order = np.argsort(high)
    high = high[order]
    same, several = high[1:] == high[:-1], np.zeros(len(high), bool)
    several[1:] |= same
    several[:-1] |= same
    # 64 bits first: what is alone there is alone in 128, and nearly all rows are.
    return repeated(records.take(order[several], axis=0), drop)


def _read_hashes(path: UPath, begin: int, end: int) -> Records:
    width = 3 * np.dtype(np.uint64).itemsize
    with path.open("rb") as file:
        file.seek(int(begin) * width)
        return np.frombuffer(file.read(int(end - begin) * width), np.uint64).reshape(-1, 3)


def _joined(found: list[Repeated]) -> Repeated:
    ids, firsts, leaked = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(ids)
    return Repeated(ids[order], firsts[order], leaked[order])


def hashed(table: pa.Table, schema: Schema, files: list[str]) -> Records:
    """The records of the usable rows."""
    names = [*schema.names, *(name for name in (IDENTITY,) if name in table.column_names)]
    found = np.empty((len(table), 3), np.uint64)
    found[:, HIGH], found[:, LOW] = digests(table, names)
    found[:, RANK] = row_ids(table, files)
    found[:, RANK] |= np.where(table["_test"].to_numpy(), np.uint64(0), _TRAINING)
    usable = pc.is_null(table["_reason"])
    return found if pc.all(usable).as_py() else found[usable.to_numpy()]


def repeated(records: Records, drop: bool) -> Repeated:
    """The training rows equal to a test row or, if `drop`, to an earlier training row.

    Of equal rows the first test row, or else the first training row, is the one that the others
    repeat. Test rows are never left out.
    """
    records = records[np.lexsort([records[:, key] for key in (RANK, LOW, HIGH)])]
    rank, bits = records[:, RANK], records[:, :RANK]
    other = np.ones(len(records), bool)  # than the one before
    other[1:] = (bits[1:] != bits[:-1]).any(axis=1)
    first = rank[np.maximum.accumulate(np.where(other, np.arange(len(rank)), 0))]
    leaked = first < _TRAINING
    out = (rank >= _TRAINING) & (leaked | ((rank != first) & drop))
    order = np.argsort(rank[out])
    ids, firsts = (
        (ranks[out][order] & (_TRAINING - np.uint64(1))).astype(np.int64) for ranks in (rank, first)
    )
    return Repeated(ids, firsts, leaked[out][order])
