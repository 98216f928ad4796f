"""The audit log of a storage: who read, wrote, erased, deployed or predicted what, and when.

Entries are only ever added. Each carries the hash of the one before it, so that none can be
changed, left out or put between others unnoticed; values of rows are never in it. The end of the
log can be cut off: note the newest hash elsewhere, and `verify` finds it again or says that it is
gone.

    <storage>/audit/log.jsonl            one line an entry, written under a lock
    <storage>/audit/<time>-<hash>.json   on object stores: one object an entry
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from upath import UPath

from ray_pipeline import files
from ray_pipeline.errors import DataError

Entry = dict[str, Any]

START = "0" * 64
"""What the first entry carries as the hash of the one before it."""
_BLOCK = 4096


def write(storage: str | UPath, action: str, **what: Any) -> Entry:
    """Add an entry: `action` is read, write, erase, expire, deploy, rollback, remove or predict;
    `what` names it.

    Several processes may write at once. On an object store two that write in the same moment
    follow the same entry; both stay in the chain.
    """
    folder = _folder(storage)
    entry: Entry = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": user(),
        "action": action,
        **what,
    }
    if folder.protocol in files.LOCAL:
        return _appended(Path(str(folder)), entry)
    newest = max(folder.glob("*.json"), key=lambda path: str(path.name), default=None)
    before = START if newest is None else json.loads(newest.read_text())["hash"]
    entry = _linked(entry, before)
    name = f"{time.time_ns():020d}-{entry['hash'][:16]}.json"
    (folder / name).write_text(json.dumps(entry))
    return entry


def user() -> str:
    """The name of the user whose process this is; a container's user may have a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the second from Python 3.13 on
        return f"uid {os.getuid()}"


def entries(storage: str | UPath) -> Iterator[Entry]:
    """The entries, oldest first. Raises DataError where a line is no entry."""
    folder = _folder(storage)
    log = folder / "log.jsonl"
    if folder.protocol in files.LOCAL:
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    else:
        found = sorted(folder.glob("*.json"), key=lambda path: str(path.name))
        lines = [path.read_text() for path in found]
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not {"hash", "previous"} <= entry.keys():
            raise _broken(f"entry {number} is cut or altered", storage)
        yield entry


def verify(storage: str | UPath, head: str = "") -> Entry:
    """`entries` and `head`, the newest hash, of a log in which nothing was changed or left out.

    Args:
        storage: where the log is.
        head: a hash noted before, which must be in the log still.

    Raises:
        DataError: an entry was altered, left out or put in; or `head` is gone.
    """
    known, last, linear = {START}, START, _folder(storage).protocol in files.LOCAL
    count = 0
    for count, entry in enumerate(entries(storage), start=1):
        previous = entry["previous"]
        if _hash(entry) != entry["hash"]:
            raise _broken(f"entry {count} was altered", storage)
        if previous not in known or (linear and previous != last):
            raise _broken(f"an entry before entry {count} is missing", storage)
        last = entry["hash"]
        known.add(last)
    if head and not any(hash_.startswith(head) for hash_ in known):
        raise _broken(f"the entry {head[:16]} is gone: the log was cut", storage)
    return {"entries": count, "head": last}


def storage_of(bundle: str | UPath) -> str:
    """The storage that a bundle lies in, `<storage>/<job>/bundles/<version>`; else this user's
    own folder, so that what is done with a copy is recorded too."""
    path = UPath(bundle)
    if path.protocol in files.LOCAL:
        path = path.absolute()
    inside = path.parent.name == "bundles"
    return str(path.parent.parent.parent) if inside else str(files.state_folder())


def _folder(storage: str | UPath | Path) -> UPath:
    return UPath(storage) / "audit"


def _appended(folder: Path, entry: Entry) -> Entry:
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("a+b") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        last = _last_line(log)
        try:
            before = json.loads(last)["hash"] if last else START
        except ValueError as error:  # the disk was full, or somebody was there
            raise _broken("the last entry is cut or altered", folder.parent) from error
        linked = _linked(entry, before)
        log.write(json.dumps(linked).encode() + b"\n")
        log.flush()
    return linked


def _last_line(log: Any) -> bytes:
    """The file's last line, read from its end: a log grows for years."""
    end, tail = log.seek(0, 2), b""
    while end > 0 and tail.count(b"\n") < 2:
        start = max(0, end - _BLOCK)
        log.seek(start)
        tail = log.read(end - start) + tail
        end = start
    found: bytes = tail.splitlines()[-1] if tail else b""
    return found


def _linked(entry: Entry, previous: str) -> Entry:
    linked = {**entry, "previous": previous}
    return {**linked, "hash": _hash(linked)}


def _hash(entry: Entry) -> str:
    content = {key: value for key, value in entry.items() if key != "hash"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _broken(what: str, storage: str | UPath | Path) -> DataError:
    return DataError(
        what,
        where=str(_folder(storage)),
        expected="each entry as it was written, after the one before it",
        hint="compare with a copy of the log; from here on it proves nothing",
    )
