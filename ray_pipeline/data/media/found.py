"""The files of a folder of documents, images or videos, each with its labels."""

from __future__ import annotations

import csv
import io
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, get_args

from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Source
from ray_pipeline.job.source import New

Format = Literal["text", "html", "pdf", "images", "video"]
FORMATS: tuple[Format, ...] = get_args(Format)

EXTENSIONS: dict[Format, frozenset[str]] = {
    "text": frozenset({".txt", ".text", ".md", ".rst"}),
    "html": frozenset({".html", ".htm", ".xhtml"}),
    "pdf": frozenset({".pdf"}),
    "images": frozenset(
        {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
    ),
    "video": frozenset(
        {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}
    ),
}
LABEL = "label"


class File(NamedTuple):
    """A file: where it is, its name below the source's folder, its bytes, the labels' columns.

    `size` is None for a file that only the table of labels knows.
    """

    path: UPath
    name: str
    size: int | None
    labels: dict[str, str | None]


def format_of(source: Source, data: Data) -> Format | None:
    """The format that the job gives, or that the extension of a file or glob says, if any here."""
    if data.format != "auto":
        return next((name for name in FORMATS if name == data.format), None)
    ending = extension(source.url)
    return next((name for name in FORMATS if ending in EXTENSIONS[name]), None)


def extension(name: str) -> str:
    """The extension, that of a compression left out: `.txt` of `a.b.txt.gz`."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    kept = [suffix for suffix in suffixes if suffix not in sources.COMPRESSED]
    return kept[-1] if kept else ""


def found_files(source: Source, kind: Format) -> list[File]:
    """The files of `source`, in the order of their names.

    Of a folder those with an extension of the format, to its depth, without names that begin with
    `.` or `_`, and those that the table of labels names; of a glob all.

    Raises:
        DataError: there is none, or the table of labels cannot be used.
    """
    root = UPath(source.url)
    whole = root.fs.isdir(root.path)
    sizes = _sizes(root, kind, whole)
    if source.new and source.new.files is not None:
        sizes = {path: size for path, size in sizes.items() if _is_taken(root, path, source.new)}
    folder = root.path.rstrip("/") if whole else _fixed_folder(root.path)
    named = {path[len(folder) :].lstrip("/"): size for path, size in sizes.items()}
    labels = label_rows(source)
    names = sorted({*named, *labels} if whole and labels else named)
    if not names:
        raise DataError(
            f"there are no {kind} files",
            where=source.url,
            expected=f"names that end in {', '.join(sorted(EXTENSIONS[kind]))}",
            hint="the folder is relative to the job file; a glob takes files of any name",
        )
    return [
        File(
            sources.like(root, f"{folder}/{name}"),
            name,
            named.get(name),
            labels.get(name, {}) if source.labels else {LABEL: _folder_label(name)},
        )
        for name in names
    ]


def _is_taken(root: UPath, path: str, new: New) -> bool:
    return str(sources.like(root, path)) in (new.files or ())


def _sizes(root: UPath, kind: Format, whole: bool) -> dict[str, int]:
    """Bytes of each file by its path."""
    fs, path = root.fs, root.path
    if whole:
        found = fs.find(path, detail=True)
        return {
            name: info["size"]
            for name, info in found.items()
            if extension(name) in EXTENSIONS[kind] and not sources.hidden(name.removeprefix(path))
        }
    if fs.exists(path):
        return {path: fs.info(path)["size"]}
    found = fs.glob(path, detail=True)
    return {name: info["size"] for name, info in found.items() if info["type"] != "directory"}


def _fixed_folder(path: str) -> str:
    """The folder of a file, or the part of a glob before its first pattern."""
    folder = path.rpartition("/")[0]
    while any(mark in folder for mark in "*?["):
        folder = folder.rpartition("/")[0]
    return folder


def _folder_label(name: str) -> str:
    """The name of the folder that a file is in; of a file in none, its own without extension."""
    path = PurePosixPath(name)
    return path.parent.name or path.name.partition(".")[0]


def label_columns(source: Source) -> list[str]:
    """The columns that come from the folders or from the table of labels."""
    if not source.labels:
        return [LABEL]
    heads = _label_table(source.labels)[0]
    return [head for head in heads if head != _key(heads)]


def label_rows(source: Source) -> dict[str, dict[str, str | None]]:
    """The table of labels, by file name; empty where there is none. Raises DataError."""
    if not source.labels:
        return {}
    heads, *rows = _label_table(source.labels)
    key = _key(heads)
    found: dict[str, dict[str, str | None]] = {}
    for number, values in enumerate(rows, start=2):
        if len(values) != len(heads):
            raise DataError(
                f"row {number} has {len(values)} fields",
                where=source.labels,
                expected=f"{len(heads)}, as the header",
            )
        row: dict[str, Any] = dict(zip(heads, values, strict=True))
        name = row.pop(key).strip().removeprefix("./")
        if name in found:
            raise DataError(
                f"`{name}` stands twice", where=source.labels, expected="one row for each file"
            )
        found[name] = row
    return found


def _key(heads: list[str]) -> str:
    return "path" if "path" in heads else heads[0]


def _label_table(location: str) -> list[list[str]]:
    path = UPath(location)
    if not path.exists():
        raise DataError("there is no such file", where=location, hint="see `source.labels`")
    with sources.opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            rows = [row for row in csv.reader(text, strict=True) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"cannot be read: {error}", where=location, expected="CSV") from None
    if not rows or len(rows[0]) < 2:
        raise DataError(
            "the table of labels has too few columns",
            where=location,
            expected="one with file names, and one label or more",
        )
    heads = [head.strip() for head in rows[0]]
    sources.checked_names(heads, [], location)
    return [heads, *rows[1:]]
