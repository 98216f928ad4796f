"""Vectors of many texts, by a pool of Ray Data's actors: each holds the encoder once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ray_pipeline.data import parts
from ray_pipeline.data.encoders.sentences import VECTOR, embedding, texts_of
from ray_pipeline.data.statistics import SentenceStatistics

PIECE = 256
"""Texts that an actor takes at a time; it sorts them by their length."""


class Embedder:
    """One of the pool's actors: pieces of files in, their texts' vectors into files of `out`."""

    def __init__(
        self, files: Sequence[UPath], columns: Sequence[SentenceStatistics], out: UPath
    ) -> None:
        self.files, self.out = files, out
        self.embed = {column.name: embedding(column) for column in columns}

    def __call__(self, batch: pa.Table) -> pa.Table:
        for file, start in zip(*(batch[n].to_pylist() for n in ("file", "start")), strict=True):
            rows = parts.read(self.files[file], list(self.embed)).slice(start, PIECE)
            made = {
                VECTOR + name: _lists(embed(texts_of(rows[name])))
                for name, embed in self.embed.items()
            }
            parts.written(pa.table(made), self.out / f"{file}-{start:012}.parquet")
        return batch


def written(files: Sequence[UPath], columns: Sequence[SentenceStatistics], out: UPath) -> None:
    """Write the vectors of the texts in parquet `files` to `out`, for `vectors` to read.

    There is an actor with one thread for each CPU, and never more than pieces of work.
    """
    import ray.data
    from ray.data import ActorPoolStrategy

    parts.quiet()
    out.mkdir(parents=True, exist_ok=True)
    pieces = [
        {"file": number, "start": start}
        for number, path in enumerate(files)
        for start in range(0, parts.row_count(path), PIECE)
    ]
    cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    done = ray.data.from_items(pieces, override_num_blocks=len(pieces)).map_batches(
        Embedder,
        fn_constructor_args=(files, columns, out),
        compute=ActorPoolStrategy(size=max(1, min(cpus, len(pieces)))),
        batch_size=1,
        batch_format="pyarrow",
    )
    parts.executed(done.materialize)


def vectors(out: UPath, number: int) -> pa.Table:
    """The vectors of the texts in the file of that number, in the order of its rows."""
    return pa.concat_tables(
        pq.read_table(path.path, filesystem=path.fs)
        for path in sorted(out.glob(f"{number}-*.parquet"))
    )


def _lists(matrix: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
