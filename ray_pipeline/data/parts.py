"""Tasks and Ray Data in one place: quiet, their errors as ours.

Ray Data is imported where it is used: a worker that only runs plain tasks starts sooner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayTaskError
from upath import UPath

from ray_pipeline.errors import DataError, PipelineError
from ray_pipeline.files import LOCAL

if TYPE_CHECKING:
    from ray.data import Dataset

Item = TypeVar("Item")
Result = TypeVar("Result")

ARROW: dict[str, Any] = {
    "batch_format": "pyarrow",
    "batch_size": None,
    "zero_copy_batch": True,
}
"""`map_batches` of whole blocks, without a copy."""


def quiet() -> None:
    """Leave the terminal to the project's own progress display, and errors as they were raised.

    Ray Data still writes its log to the session's files.
    """
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)


def pieced(items: Sequence[Any], work: Callable[[Any], Iterable[pa.Table]]) -> Dataset:
    """The tables that `work` yields for each item, one task per item."""
    import ray.data

    quiet()
    indices = [{"item": index} for index in range(len(items))]
    return ray.data.from_items(indices, override_num_blocks=len(items)).map_batches(
        partial(_worked, items=items, work=work),
        batch_format="pyarrow",
        batch_size=1,
        zero_copy_batch=True,
    )


def _worked(
    batch: pa.Table, items: Sequence[Any], work: Callable[[Any], Iterable[pa.Table]]
) -> Iterable[pa.Table]:
    yield from work(items[batch["item"][0].as_py()])


def results(items: Sequence[Item], work: Callable[[Item], Result]) -> list[Result]:
    """`work(item)` for each item, in order: one task each.

    Plain tasks: what Ray Data would add, a pipeline of blocks, has nothing to do here. Where one
    fails, the others end with this process: to cancel a task in the moment that it is begun ends
    Ray 2.60 ("Tried to complete task that was not pending"), and with it this process.
    """
    shared = ray.put(work)
    references = [_CALLED.remote(shared, item) for item in items]
    found: list[Result] = executed(lambda: ray.get(references))
    return found


def _called(work: Callable[[Any], Any], item: Any) -> Any:
    return work(item)


_CALLED = ray.remote(_called)


def boxed(value: Any) -> dict[str, Any]:
    """A batch of one row that holds any Python object; `collected` takes it out again."""
    box = np.empty(1, dtype=object)
    box[0] = value
    return {"value": box}


def collected(dataset: Dataset) -> list[Any]:
    """The objects of a dataset of `boxed` batches, brought to the driver."""
    return [row["value"] for row in executed(dataset.take_all)]


def executed(run: Callable[[], Result]) -> Result:
    """`run()`, which executes a dataset; an error of a task that is ours, or the system's, is
    raised as itself."""
    try:
        return run()
    except RayTaskError as error:
        if isinstance(error.cause, PipelineError | OSError):
            raise error.cause from None
        raise


def written(table: pa.Table, path: UPath) -> None:
    """Write a table as one parquet file, on any file system; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pq.write_table(table, file, **_options(table.schema, path))


def written_parts(tables: Iterable[pa.Table], path: UPath) -> None:
    """Write tables of one schema, at least one, as one parquet file, each as it comes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rest = iter(tables)
    first = next(rest)
    with (
        path.open("wb") as file,
        pq.ParquetWriter(file, first.schema, **_options(first.schema, path)) as writer,
    ):
        for table in chain([first], rest):
            writer.write_table(table)


def _options(schema: pa.Schema, path: UPath) -> dict[str, Any]:
    """How a table is stored: dictionaries as what they stand for, and a matrix of numbers as it
    is, because looking for values that repeat would cost more than it saves. Numbers, whose
    repeated values are written once, are a tenth smaller if compressed, and are read half as fast;
    a matrix is a third as large, which takes half of the time to write, and pays where files go
    over a network. Nobody here reads the smallest and largest values, which would take a quarter of
    the time."""
    matrices = {field.name for field in schema if _is_matrix(field.type)}
    plain = {field.name for field in schema if pa.types.is_primitive(field.type)}
    plain |= matrices if path.protocol in LOCAL else set()
    encoded = any(pa.types.is_dictionary(field.type) for field in schema)
    return {
        "compression": {name: "none" if name in plain else "lz4" for name in schema.names},
        "use_dictionary": [name for name in schema.names if name not in matrices],
        "write_statistics": False,
        "store_schema": not encoded,
    }


def _is_matrix(column: pa.DataType) -> bool:
    if isinstance(column, pa.FixedShapeTensorType):
        return True
    return bool(pa.types.is_fixed_size_list(column) or pa.types.is_fixed_size_binary(column))


def read(
    path: UPath, columns: Sequence[str] | None = None, dictionaries: Sequence[str] = ()
) -> pa.Table:
    """A parquet file's rows; texts of `dictionaries` stay encoded, each different one once."""
    with path.open("rb") as file:
        return pq.read_table(
            file,
            columns=None if columns is None else list(columns),
            read_dictionary=list(dictionaries),
        )


def row_count(path: UPath) -> int:
    """The rows of a parquet file, from its end alone."""
    with path.open("rb") as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def files(folder: UPath) -> list[UPath]:
    """The parquet files of a folder in the order of their names; none where it does not exist."""
    folder.fs.invalidate_cache()  # an object store's client does not see what tasks wrote
    return sorted(folder.glob("*.parquet"), key=str) if folder.exists() else []


def existing_files(folder: UPath) -> list[UPath]:
    """The parquet files of a folder. Raises DataError where there is none."""
    if found := files(folder):
        return found
    raise DataError("there are no rows", where=str(folder), expected="parquet files")
