"""The proof of an erasure: everything a job has stored is read again, and looked through."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow.compute as pc
from upath import UPath

from ray_pipeline import files
from ray_pipeline.data import parsing, parts
from ray_pipeline.data.privacy.subject import Subject

TEXTS = {".json", ".html", ".md", ".txt", ".yaml", ".yml", ".csv", ".jsonl", ".log"}
"""Files that are read as text, and in which a mention can be taken out."""
_CHUNK = 8 << 20


def places(storage: UPath, name: str) -> list[UPath]:
    """Where a job's data can be: its own folder, and what MLflow keeps of it."""
    tracked = [storage / "mlflow.artifacts" / name, storage / "mlflow.db"]
    return [place for place in (storage / name, *tracked) if place.exists()]


def redacted(storage: UPath, name: str, subject: Subject) -> list[str]:
    """Take the ID and its hashes out of records, reports and other texts; the files changed.

    Bundles are left as they are, for their digests cover every byte; and so is what tells later
    runs whom to leave out.
    """
    changed = []
    for path in _files(storage, name):
        if path.suffix not in TEXTS or _is_kept(path, storage / name):
            continue
        text = path.read_text(encoding="utf-8")
        if (without := subject.without(text)) != text:
            files.write_whole(path, without.encode())
            changed.append(str(path))
    return changed


def searched(
    storage: UPath, name: str, column: str, subject: Subject, tables: Sequence[UPath] = ()
) -> dict[str, Any]:
    """Look through every file of a job, and of the folders `tables` that it writes.

    Returns how many `files`, `rows` and `bytes` were searched; `left`, the places where the person
    still is; and `mentions`, texts of other rows that name the ID, by place.
    """
    result: dict[str, Any] = {"files": 0, "rows": 0, "bytes": 0, "left": [], "mentions": {}}
    word = re.compile(subject.word.encode())
    for path in (*_files(storage, name), *_inside(tables)):
        result["files"] += 1
        result["bytes"] += path.stat().st_size
        if path.suffix == ".parquet":
            _search_table(path, column, subject, result)
        elif path.suffix == ".lance":
            continue  # packed: its store looks through its rows
        elif not _is_tombstone(path, storage / name) and _holds(path, word):
            result["left"].append(str(path))
    result["free_text"] = subject.searchable
    return result


def _search_table(path: UPath, column: str, subject: Subject, result: dict[str, Any]) -> None:
    table = parts.read(path)
    result["rows"] += len(table)
    for name in table.column_names:
        values = table[name]
        if name == column:
            if pc.any(subject.rows(values)).as_py():
                result["left"].append(f"{path}, column {name}")
        elif parsing.is_text(values.type) and (mentions := subject.mentions(values)):
            result["mentions"][f"{path}, column {name}"] = mentions


def _files(storage: UPath, name: str) -> Iterator[UPath]:
    yield from _inside(places(storage, name))


def _inside(places: Iterable[UPath]) -> Iterator[UPath]:
    for place in places:
        if not place.exists():
            continue
        found = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]
        yield from sorted(found, key=str)


def _holds(path: UPath, word: re.Pattern[bytes]) -> bool:
    """Whether a file's bytes hold the word, across the ends of the pieces it is read in."""
    tail = b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            if word.search(tail + chunk):
                return True
            tail = chunk[-1024:]
    return False


def _is_kept(path: UPath, root: UPath) -> bool:
    inside = str(path).removeprefix(str(root)).strip("/").partition("/")[0]
    return inside == "bundles" or _is_tombstone(path, root)


def _is_tombstone(path: UPath, root: UPath) -> bool:
    return str(path).startswith(str(root / "privacy"))
