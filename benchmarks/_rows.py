"""Whether two preparations of the flights have the same rows, in whatever order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from _flights import CATEGORIES, LABEL, NUMBERS
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import features
from ray_pipeline.data.hashing import row_hashes
from ray_pipeline.data.matrices import matrices
from ray_pipeline.data.statistics import Statistics

TOLERANCE = 1e-3  # of a whole number got back from a float32 of its standard score


def differences(ours: Path, rival: Path) -> str:
    """What is not alike; empty where all is.

    Every score is turned back into the whole number that it was, with our means and deviations:
    that it is one, within TOLERANCE, compares the scores, and hashes of a row's numbers, flags,
    categories and label compare the rows.
    """
    learned = features.load(UPath(ours))
    mine = np.sort(_hashes_of_ours(ours / "train", learned))
    theirs = np.sort(_hashes_of_theirs(rival, learned))
    if len(mine) != len(theirs):
        return f"{len(theirs):,} rows instead of {len(mine):,}"
    unlike = int((mine != theirs).sum())
    return f"{unlike:,} of {len(mine):,} rows differ" if unlike else ""


def _hashes_of_ours(folder: Path, learned: Statistics) -> NDArray[np.uint64]:
    hashes = []
    flagged = [column.name for column in learned.flagged]
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        prepared = matrices(table)
        numbers, codes = prepared["numbers"], prepared["categories"]
        columns = {name: numbers[:, i] for i, name in enumerate(NUMBERS)}
        flags = {name: numbers[:, len(NUMBERS) + i] != 0 for i, name in enumerate(flagged)}
        columns |= {name: codes[:, i] for i, name in enumerate(CATEGORIES)}
        hashes.append(_hashes(columns | {LABEL: table[LABEL_COLUMN].to_numpy()}, flags, learned))
    return np.concatenate(hashes)


LABEL_COLUMN = "label"


def _hashes_of_theirs(path: Path, learned: Statistics) -> NDArray[np.uint64]:
    hashes = []
    for batch in pads.dataset(path).to_batches(batch_size=1 << 20):
        columns = {name: batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names}
        flags = {
            name: columns[f"{name}_missing"] for name in NUMBERS if f"{name}_missing" in columns
        }
        hashes.append(_hashes(columns, flags, learned))
    return np.concatenate(hashes)


def _hashes(
    columns: dict[str, NDArray], flags: dict[str, NDArray], learned: Statistics
) -> NDArray[np.uint64]:
    found = {name: pa.array(columns[name].astype(np.int64)) for name in (*CATEGORIES, LABEL)}
    for column in learned.numbers:
        raw = columns[column.name].astype(float) * column.deviation + column.mean
        missing = flags.get(column.name, np.zeros(len(raw), bool))
        imputed = np.abs(columns[column.name][missing])
        assert not len(imputed) or imputed.max() < 1e-6, f"{column.name}: another mean"
        whole = np.rint(raw)
        apart = np.abs(raw - whole)[~missing]
        assert not len(apart) or apart.max() < TOLERANCE * max(column.deviation, 1), column.name
        found[column.name] = pa.array(np.where(missing, -1, whole).astype(np.int64))
        found[f"{column.name}_missing"] = pa.array(missing)
    return row_hashes(pa.table(found), list(found))
