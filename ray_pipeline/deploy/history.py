"""What was released when, by whom and why: on the board, and in the storage that outlives it.

<storage>/releases/<endpoint>/<nanoseconds>.json      one file a release
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Literal

from upath import UPath

from ray_pipeline.deploy.board import Made, Release
from ray_pipeline.errors import UsageError
from ray_pipeline.files import write_whole

Action = Literal["deploy", "rollback", "refused", "remove"]


class Entry(Made):
    """One release, or one that was refused, or the end of an endpoint."""

    action: Action


def entry(release: Release, action: Action, why: str = "") -> Entry:
    """What is kept of a release; `why` instead of its own."""
    return {
        "action": action,
        "name": release["name"],
        "version": release["version"],
        "bundle": release["bundle"],
        "digest": release["digest"],
        "since": release["since"],
        "by": release["by"],
        "why": why or release["why"],
        "settings": release["settings"],
    }


def write(storage: str, added: Entry) -> None:
    """Keep an entry."""
    path = _folder(storage, added["name"]) / f"{time.time_ns():020d}.json"
    write_whole(path, json.dumps(added, indent=1).encode())


def read(storage: str, name: str) -> list[Entry]:
    """The entries of an endpoint, oldest first."""
    folder = _folder(storage, name)
    if not folder.exists():
        return []
    files = sorted(folder.glob("*.json"), key=lambda path: str(path.name))
    return [json.loads(file.read_text()) for file in files]


def joined(*histories: Iterable[Entry]) -> list[Entry]:
    """Several histories of one endpoint as one, oldest first, each entry once."""
    entries = {(e["since"], e["digest"], e["action"]): e for kept in histories for e in kept}
    return sorted(entries.values(), key=lambda e: e["since"])


def before(entries: Sequence[Entry], name: str, version: str | None = None) -> Entry:
    """The release to go back to: the newest of that version, or the one before the latest.

    A release that was gone back from is passed over, so that going back again goes further.

    Raises:
        UsageError: there is none.
    """
    passed: list[Entry] = []
    for kept in entries:
        if kept["action"] == "rollback":
            while passed and passed[-1]["digest"] != kept["digest"]:
                passed.pop()
        if kept["action"] == "remove":
            passed.append({**kept, "digest": ""})  # it is what was live before that is put back
        if kept["action"] == "deploy" or (kept["action"] == "rollback" and not passed):
            passed.append(kept)
    known = [e for e in entries if e["action"] in ("deploy", "rollback")]
    found = passed[-2:-1] if version is None else [e for e in known if e["version"] == version][-1:]
    if not found:
        versions = ", ".join(dict.fromkeys(e["version"] for e in known))
        raise UsageError(
            "there is no release to go back to"
            if version is None
            else f"version {version} was never live",
            where=name,
            expected=f"one of {versions}" if versions else "an earlier release",
            hint="`--storage` says where the job keeps its releases, if not in ./storage",
        )
    return found[0]


def _folder(storage: str, name: str) -> UPath:
    return UPath(storage) / "releases" / name
