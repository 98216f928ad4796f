"""The files that a location names, their formats, and the pieces in which they are read."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ray_pipeline.data import parts
from ray_pipeline.data.faults import told
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data

Format = Literal["csv", "tsv", "jsonl", "parquet", "arrow", "excel", "delta", "iceberg", "lance"]

FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".xlsx": "excel",
    ".xlsm": "excel",
    ".xlsb": "excel",
    ".xls": "excel",
    ".ods": "excel",
    ".lance": "lance",
}
TABLES: dict[Format, tuple[str, str]] = {
    "delta": ("_delta_log", ""),
    "iceberg": ("metadata", ".metadata.json"),
    "lance": ("_versions", ".manifest"),
}
"""Folders that are tables: the folder in which they keep their versions, and its files' ending."""
COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}
PIECE_BYTES = 64 << 20
"""Larger text files, and the data files of tables, are read in pieces of this size."""

GROUPED_ROWS = 1 << 19
"""Rows that a task reads at least of a Parquet file that several share."""


@dataclass(frozen=True)
class Piece:
    """Part of a file or table: what begins in [start, end), or all of it without an `end`.

    A text file is counted in bytes, a Parquet file in row groups, a table in data files. `lines`
    is the number of lines, or rows, before `start`; `part` the sheet of an Excel file, or the
    version of a table.
    """

    path: UPath
    format: Format
    start: int = 0
    end: int | None = None
    lines: int = 0
    part: int | str | None = None


def listed(location: str) -> list[UPath]:
    """The files of a file, folder, glob or fsspec URI, in the order of their names.

    A folder is searched to its depth, without names that begin with `.` or `_`; one that is a
    table stands for itself.

    Raises:
        DataError: nothing is there, or a file is empty.
    """
    with told(location):
        root = UPath(location)
        root.fs.invalidate_cache()  # an object store's client keeps what it once listed
        paths = found(root)
        if not paths:
            raise DataError("there is no such file", where=location, hint=_nearest(root))
        infos = [(path, path.fs.info(path.path)) for path in paths]
    if empty := [path for path, info in infos if info["type"] == "file" and not info["size"]]:
        raise DataError("the file is empty", where=str(empty[0]), expected="rows of data")
    return paths


def found(root: UPath) -> list[UPath]:
    """The files and tables of a file, folder or glob; none if nothing is there."""
    fs, path = root.fs, root.path
    if any(mark in path for mark in "*?[") and not fs.exists(path):
        names = [
            name for name in fs.glob(path) if fs.isfile(name) or table_format(like(root, name))
        ]
    elif table_format(root):
        names = [path]
    elif fs.isdir(path):
        names = [name for name in fs.find(path) if not hidden(name.removeprefix(path))]
    else:
        names = [path] if fs.exists(path) else []
    return [like(root, str(name)) for name in sorted(names)]


def table_format(folder: UPath) -> Format | None:
    """What kind of table a folder is; None if it is none."""
    fs, path = folder.fs, folder.path.rstrip("/")
    if not fs.isdir(path):
        return None
    for kind, (inside, ending) in TABLES.items():
        log = f"{path}/{inside}"
        if fs.isdir(log) and any(str(n).endswith(ending) for n in fs.ls(log, detail=False)):
            return kind
    return None


def hidden(name: str) -> bool:
    """Whether a part of a path begins with `.` or `_`."""
    return any(part.startswith((".", "_")) for part in name.split("/") if part)


def like(root: UPath, name: str) -> UPath:
    """The path called `name` on the file system of `root`."""
    if root.protocol in {"", "file"}:
        return UPath(name)
    path: UPath = UPath(str(root.fs.unstrip_protocol(name)), **root.storage_options)
    return path


def _nearest(root: UPath) -> str:
    parent = root.parent
    if not parent.is_dir():
        relative = "" if "://" in str(root) else "; paths are relative to the job file"
        return f"there is no folder `{parent}` either{relative}"
    names = [path.name for path in parent.iterdir()]
    near = difflib.get_close_matches(root.name, names, 1)
    return f"did you mean `{near[0]}`?" if near else "paths are relative to the job file"


def files(data: Data) -> list[UPath]:
    """The files of the job's source, then those of its test file. Raises DataError as `listed`."""
    return listed(data.source.url) + (listed(data.test.url) if data.test else [])


def format_of(path: UPath, data: Data) -> Format:
    """The format the job gives, else what the file's extension or the folder says, else CSV."""
    if data.format != "auto":
        return cast(Format, data.format)  # documents and media have a connector of their own
    if path.name.endswith(".metadata.json"):
        return "iceberg"
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSED]
    known = FORMATS.get(suffixes[-1]) if suffixes else None
    return known or table_format(path) or "csv"


def opened(path: UPath) -> IO[bytes]:
    """The file's bytes, decompressed where its extension says that it is compressed."""
    return cast(IO[bytes], path.fs.open(path.path, "rb", compression="infer"))


def pieces(paths: list[UPath], data: Data, size: int = PIECE_BYTES) -> list[Piece]:
    """What one task each reads: whole files, and large ones in ranges, of bytes if they are
    uncompressed text, of row groups if they are Parquet.

    Lines are counted first, so that a row keeps its number. A delimited file with a quote anywhere
    is one piece: only a reader that began at its start knows which line ends are inside quotes.
    """
    whole = [Piece(path, format_of(path, data)) for path in paths]
    ranges = [
        Piece(piece.path, piece.format, start, start + size)
        for piece in whole
        if _splittable(piece) and piece.path.stat().st_size >= 2 * size
        for start in range(0, piece.path.stat().st_size, size)
    ]
    counted = dict(zip(ranges, parts.results(ranges, _counted), strict=True)) if ranges else {}
    return [part for piece in whole for part in _ranged(piece, counted) or _row_groups(piece, size)]


def _row_groups(whole: Piece, size: int) -> list[Piece]:
    """A large Parquet file in ranges of row groups, of GROUPED_ROWS rows or more each."""
    if whole.format != "parquet" or whole.path.stat().st_size < size // 4:
        return [whole]
    with whole.path.open("rb") as file:
        try:
            metadata = pq.read_metadata(file)
        except (pa.ArrowInvalid, OSError):  # the reader says what is wrong with it
            return [whole]
    found, start, first, rows = [], 0, 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows - first >= GROUPED_ROWS or group == metadata.num_row_groups - 1:
            found.append(Piece(whole.path, whole.format, start, group + 1, first))
            start, first = group + 1, rows
    return found or [whole]


def _splittable(piece: Piece) -> bool:
    return piece.format in {"csv", "tsv", "jsonl"} and piece.path.suffix.lower() not in COMPRESSED


def _counted(piece: Piece) -> tuple[int, bool]:
    """How many line ends are in the piece's range of bytes, and whether a quote is."""
    with opened(piece.path) as file:
        file.seek(piece.start)
        text = file.read(cast(int, piece.end) - piece.start)
    return text.count(b"\n"), b'"' in text


def _ranged(whole: Piece, counted: dict[Piece, tuple[int, bool]]) -> list[Piece]:
    mine = [(piece, *counts) for piece, counts in counted.items() if piece.path == whole.path]
    if whole.format != "jsonl" and any(quoted for _, _, quoted in mine):
        return []
    lines, ranged = 0, []
    for piece, ends, _ in mine:
        ranged.append(Piece(piece.path, piece.format, piece.start, piece.end, lines))
        lines += ends
    return ranged


def lines_of(piece: Piece) -> tuple[bytes, int]:
    """The lines that begin in a ranged piece, and how many lines of the file come before them."""
    assert piece.end is not None, "a whole file is read as a stream"
    with opened(piece.path) as file:
        before = piece.lines
        if piece.start:
            file.seek(piece.start - 1)
            skipped = file.readline()  # b"\n" alone if a line begins exactly at `start`
            before += len(skipped) > 1
        begin = piece.start - 1 + len(skipped) if piece.start else 0
        if begin >= piece.end:
            return b"", before
        text = file.read(piece.end - begin)
        if not text.endswith(b"\n"):
            text += file.readline()
    return text, before


def chunks_of_lines(piece: Piece, size: int) -> Iterator[tuple[list[bytes], int]]:
    """The piece's lines in chunks of about `size` bytes, with the number of lines before each."""
    if piece.end is not None:
        text, before = lines_of(piece)
        yield text.splitlines(), before
        return
    before = 0
    with opened(piece.path) as file:
        while lines := file.readlines(size):
            yield lines, before
            before += len(lines)


def checked_names(names: list[str], wanted: Any, where: str) -> None:
    """Raises DataError where a name stands twice, or one of `wanted` is not there."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(
                f"two columns are called `{name}`", where=where, hint="give each its own name"
            )
        seen.add(name)
    for name in wanted:
        if name not in seen:
            near = difflib.get_close_matches(name, names, 1)
            raise DataError(
                f"no column is called `{name}`",
                where=where,
                expected=f"one of {', '.join(names)}",
                hint=f"did you mean `{near[0]}`?" if near else "",
            )
