"""Files and folders that several processes may touch: locked, replaced whole, emptied."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from upath import UPath

from ray_pipeline.errors import JobError, PipelineError

LOCAL = {"", "file", "local"}
_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def only_one(root: UPath, name: str) -> Iterator[None]:
    """Hold the lock of the job `name`; the system frees it when the process ends, however it ends.

    An object store has no locks: there, two runs at once only do the same work twice.

    Raises:
        JobError: another process holds it.
    """
    if root.protocol not in LOCAL:
        yield
        return
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    with Path(str(root), ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise JobError(
                f"another run of `{name}` is going on (process {lock.read().strip() or '?'})",
                where=str(root),
                hint="wait for it, stop it, or give this job another name or storage",
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def room(where: UPath) -> Iterator[None]:
    """Raises PipelineError where the body finds no room left to write to."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise PipelineError(
            f"the disk is full: {error.filename or error.strerror}",
            where=str(where),
            hint="make room, then run the same again: stages that ended are kept",
        ) from error


def write_whole(path: UPath, content: bytes) -> None:
    """Replace a file: a reader finds the old content or the new, never a part."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: UPath) -> Iterator[BinaryIO]:
    """A file to write to, which replaces `path` in one step when the block has ended well."""
    with room(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.protocol in LOCAL:
            beside = Path(str(path.parent), f".{path.name}.{os.getpid()}")
            with beside.open("wb") as file:
                yield file
            beside.replace(str(path))
        else:
            buffer = io.BytesIO()
            yield buffer
            path.write_bytes(buffer.getvalue())  # object stores put a whole object or none


def clear(path: UPath, keep: str = "") -> None:
    """Remove what is in a folder, except what is called `keep`; without it, the folder as well."""
    if not path.exists():
        return
    for child in path.iterdir():
        if child.name != keep:
            child.fs.rm(str(child.path if hasattr(child, "path") else child), recursive=True)
    if not keep and path.protocol in LOCAL:
        path.rmdir()  # on an object store a folder ends with its last file


def state_folder() -> Path:
    """Where this user's keys and cluster record are: `RAY_PIPELINE_HOME` or `~/.ray_pipeline`.

    Made on first use, readable by its owner alone.
    """
    folder = Path(os.environ.get("RAY_PIPELINE_HOME") or Path.home() / ".ray_pipeline")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def write_private(path: Path, text: str) -> None:
    """Replace the file at `path` in one step; nobody but its owner can ever read it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
