"""What a run takes of a source that grows: settled before it reads, committed once it has stored.

    <storage>/<job>/taken.json    what was taken, and what a run is taking

Between the two the same rows are taken however often a run is killed: each row gets into the
cleaned rows of exactly one step.
"""

from __future__ import annotations

from upath import UPath

from ray_pipeline.data import sources, stream, watermark
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Source
from ray_pipeline.job.source import New

MARK = "taken.json"


def settled(data: Data, root: UPath) -> Data:
    """The settings with the rows that this run takes. `root` is `<storage>/<job>`.

    Raises:
        DataError: nothing is there yet, or what an interrupted run was taking has changed.
    """
    new = data.source.new
    if new is None or new.fixed:
        return data
    of = watermark.settled if new.column else _files
    taken = of(data.source, new, root / MARK)
    source = data.source.model_copy(update={"new": taken})
    return data.model_copy(update={"source": source})


def committed(data: Data, root: UPath) -> None:
    """Note that the rows of `settled` settings are stored. Twice is as once."""
    new = data.source.new
    if new is None or new.fixed:
        return
    if new.column:
        watermark.committed(new, root / MARK)
    elif batch := stream.open_batch(root / MARK):
        stream.taken(root / MARK, batch)


def _files(source: Source, new: New, mark: UPath) -> New:
    root = UPath(source.url)
    if source.scheme in ("redis", "rediss", "mongodb") or sources.table_format(root):
        raise DataError(
            "only folders of files and SQL tables can be taken step by step", where=str(source)
        )
    batch = stream.new_files(source.url, mark)
    chosen = {str(file) for file in batch.files} if batch else set()
    if new.rows == "all":
        chosen |= {*stream.all_taken(mark)}
    elif batch is None:
        chosen = {*stream.last_taken(mark)}
    if not chosen:
        raise DataError("there is no file yet", where=str(source), expected="files to take")
    return new.model_copy(update={"files": tuple(sorted(chosen))})
