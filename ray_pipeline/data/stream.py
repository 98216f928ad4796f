"""A folder watched for new files: each file's rows are taken once, whatever is killed between.

A mark is a file that says which files were taken. A batch is opened in it before anything is made
of its files and closed after: whoever finds one open does the same batch again, under the same
name, and so into the same place.

    while batch := stream.new_files(url, mark):
        stored(batch.files, out=folder / batch.name)   # replaces what an earlier try left
        stream.taken(mark, batch)

A run of a job does so (`increments`).

Files are told apart by name, size and content tag or time: one that is replaced is new. To append
to a file is to give its rows again, so files are to be written once, whole: under a hidden or
temporary name that is changed at the end, or else a file is waited for until it stands still.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any, NamedTuple

from upath import UPath

from ray_pipeline import files
from ray_pipeline.data import faults, readers, sources
from ray_pipeline.errors import DataError

TEMPORARY = (".tmp", ".part", ".partial", ".crdownload", ".swp", "~")
"""Endings of files that are still being written; names that begin with `.` or `_` are too."""
STILL_S = 2.0
"""Seconds for which a file's size and time must not change before it is taken."""


class Batch(NamedTuple):
    """Files to take together; `name` is the same whenever the same batch is asked for."""

    name: str
    files: list[UPath]


def new_files(location: str, mark: UPath, still_s: float = STILL_S) -> Batch | None:
    """The batch that is open, else one of all files not yet taken; None if there are none.

    Args:
        location: folder or glob, on any file system.
        mark: the file to remember in; one for each location and taker.
        still_s: seconds between two looks; a file that changed between them waits. 0: one look.

    Raises:
        DataError: a file of an open batch is gone or was replaced, so that its rows cannot be
            told from those that may be taken already; or the mark is no mark.
    """
    state = _state(mark)
    if state["open"]:
        return _again(state["open"], mark)
    found = _fresh(location, state["taken"])
    if found and still_s:
        time.sleep(still_s)
        later = _fresh(location, state["taken"])
        found = {name: seen for name, seen in found.items() if later.get(name) == seen}
    if not found:
        return None
    _save(mark, state | {"open": found})
    return _batch(found)


def taken(mark: UPath, batch: Batch) -> None:
    """Close `batch`: its files are not given again. To close a batch twice changes nothing.

    Raises:
        DataError: another batch is open.
    """
    state = _state(mark)
    if not state["open"] and all(str(file) in state["taken"] for file in batch.files):
        return
    if _batch(state["open"]).name != batch.name:
        raise DataError(f"batch {batch.name} is not the one that is open", where=str(mark))
    opened = state["open"]
    _save(mark, {"taken": state["taken"] | opened, "open": {}, "last": sorted(opened)})


def open_batch(mark: UPath) -> Batch | None:
    """The batch that is open, if one is; without a look at its files."""
    opened = _state(mark)["open"]
    return _batch(opened) if opened else None


def all_taken(mark: UPath) -> list[str]:
    """The files of all batches that were closed."""
    return sorted(_state(mark)["taken"])


def last_taken(mark: UPath) -> list[str]:
    """The files of the batch that was closed last; none before the first."""
    return list(_state(mark).get("last", ()))


def _again(opened: dict[str, Any], mark: UPath) -> Batch:
    for name, seen in opened.items():
        with faults.told(name):
            path = UPath(name)
            path.fs.invalidate_cache()
            if readers.state(path) != seen:
                raise DataError(
                    "the file was replaced while its rows were being taken",
                    where=name,
                    hint=f"give the new file a name of its own and put the old one back, or set "
                    f"`open` to {{}} in {mark} if nothing was made of it",
                )
    return _batch(opened)


def _batch(found: dict[str, Any]) -> Batch:
    text = json.dumps(found, sort_keys=True)
    return Batch(hashlib.sha256(text.encode()).hexdigest()[:16], [UPath(name) for name in found])


def _fresh(location: str, before: dict[str, Any]) -> dict[str, Any]:
    """The states of files that are written to their end, as far as names say, and not taken."""
    with faults.told(location):
        root = UPath(location)
        root.fs.invalidate_cache()
        states = {}
        for path in sources.found(root):
            if not path.name.endswith(TEMPORARY) and not sources.hidden(path.name):
                info = path.fs.info(path.path)
                if info["size"]:  # an empty file is one that is about to be written
                    states[str(path)] = readers.state(path)
    return {name: seen for name, seen in states.items() if before.get(name) != seen}


def _state(mark: UPath) -> dict[str, Any]:
    if not mark.exists():
        return {"taken": {}, "open": {}}
    try:
        state: dict[str, Any] = json.loads(mark.read_text())
        state["taken"], state["open"]
    except (ValueError, KeyError, TypeError):
        raise DataError("the mark cannot be read", where=str(mark)) from None
    return state


def _save(mark: UPath, state: dict[str, Any]) -> None:
    files.write_whole(mark, json.dumps(state, sort_keys=True).encode())
