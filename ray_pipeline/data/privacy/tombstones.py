"""Who asked to be forgotten: keyed hashes beside a job's runs, which every later run leaves out.

    <storage>/<job>/privacy/erased/<key id>-<hash>.json

One object a person and key, so that object stores hold them too. Nothing in them tells who it is
without the key, which must therefore be kept as long as the source may still hold the person.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from upath import UPath

from ray_pipeline import files
from ray_pipeline.data.privacy import keys
from ray_pipeline.job import Data


def settled(data: Data, root: UPath) -> Data:
    """The settings with what a run must keep to: the key's id, and the subjects erased so far.

    Both are then part of the digest of whatever is made by them. `root` is `<storage>/<job>`.

    Raises:
        JobError: the keys are unusable.
    """
    privacy = data.privacy
    if privacy is None:
        return data
    hashes = any(treatment.hash for treatment in privacy.columns.values())
    key = privacy.key or (keys.keys()[0].id if hashes else None)
    erased = tuple(sorted({*privacy.erased, *kept(root)}))
    changed = privacy.model_copy(update={"key": key, "erased": erased})
    return data.model_copy(update={"privacy": changed})


def kept(root: UPath) -> list[str]:
    """The hashes of the erased subjects of a job."""
    return [path.stem.replace("-", ":") for path in _folder(root).glob("*.json")]


def written(root: UPath, hash_: str) -> UPath:
    """Keep a subject's hash. Its file says when it was first erased, and never who."""
    path = _folder(root) / f"{hash_.replace(':', '-')}.json"
    if not path.exists():
        first: dict[str, Any] = {"erased": datetime.now(UTC).isoformat(timespec="seconds")}
        files.write_whole(path, json.dumps(first).encode())
    return path


def _folder(root: UPath) -> UPath:
    return root / "privacy" / "erased"
