"""Retention: rows that were stored longer ago than `data.privacy.retention_days` are removed.

A command of its own, because the bound passes whether somebody runs the job or not: have it given
every day, by cron or the like. Each run does the same first, so that none goes on from rows that
should be gone.

The age of a row is that of the cleaned rows it came with: what is made from them later (splits,
features, predictions, tables) is as old. The source is the user's, and so is what it keeps.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from upath import UPath

from ray_pipeline import audit, files, runs
from ray_pipeline.data import parts, stores
from ray_pipeline.data.privacy import stored
from ray_pipeline.errors import JobError
from ray_pipeline.job import Job, Store


def expired(job: Job, now: datetime | None = None) -> dict[str, Any]:
    """Remove what `job` stored before its bound, and say what that was.

    Returns `before`, the bound; the `stages` removed and their `rows`; what was removed from
    each of the `stores`; and the `bundles` trained on such rows, which hold none and are kept.

    Raises:
        JobError: the job sets no bound, or a run of it is going on.
        DataError: a store cannot be reached.
    """
    with files.only_one(UPath(job.storage) / job.name, job.name):
        return removed(job, now)


def removed(job: Job, now: datetime | None = None) -> dict[str, Any]:
    """The same for a caller that has the job's lock.

    Stores are emptied before the stages that tell what is in them, and stages in the order from
    the newest to the oldest: one that is killed goes on when it is done again.
    """
    privacy = job.data.privacy
    if privacy is None or privacy.retention_days is None:
        raise JobError(
            "the job does not say how long rows may be kept", where="data.privacy.retention_days"
        )
    before = (now or datetime.now(UTC)) - timedelta(days=privacy.retention_days)
    root = UPath(job.storage) / job.name
    gone = _gone(root, before)
    emptied = [_emptied(store, root, gone, before) for store in job.stores]
    rows = sum(parts.row_count(path) for stage in gone for path in stage.rglob("*.parquet"))
    for stage in gone:
        (stage / runs.MARKER).unlink(missing_ok=True)
        files.clear(stage)
    names = [stage.name for stage in gone]
    if gone or any(store["removed"] for store in emptied):
        audit.write(job.storage, "expire", what=job.name, stages=names, rows=rows)
    return {
        "before": before.isoformat(timespec="seconds"),
        "stages": names,
        "rows": rows,
        "stores": emptied,
        "bundles": stored.bundles_of(root, set(names)),
    }


def _gone(root: UPath, before: datetime) -> list[UPath]:
    """The stages with rows that are too old, or were made from such; the newest first."""
    made = {stage: _made(stage) for stage in stored.stages(root)}
    holding = {stage.name for stage in made if any(stage.rglob("*.parquet"))}
    old = {stage.name for stage, when in made.items() if when < before} & holding
    old |= stored.beside(root, old) & holding
    found = [stage for stage in made if stage.name in old]
    return sorted(found, key=lambda stage: made[stage], reverse=True)


def _made(stage: UPath) -> datetime:
    """When a stage was stored whole; of one that is not whole, when its first file was written."""
    marker = stage / runs.MARKER
    if marker.exists() and (told := json.loads(marker.read_text()).get("made")):
        return datetime.fromisoformat(told)
    times = [path.stat().st_mtime for path in stage.rglob("*") if path.is_file()]
    return datetime.fromtimestamp(min(times), UTC) if times else datetime.now(UTC)


def _emptied(settings: Store, root: UPath, gone: list[UPath], before: datetime) -> dict[str, Any]:
    """Remove from a store what stages that are `gone` brought there."""
    store = stores.opened(settings)
    digests = {stage.name.rpartition("-")[2] for stage in gone}
    count, is_gone = 0, store.version() in digests
    if settings.mode == "replace":
        count = store.delete(None) if is_gone else 0
    else:
        names = {stage.name for stage in gone}
        kept = [stage for stage in stored.stages(root) if stage.name not in names]
        old = _keys(gone, settings) - _keys(kept, settings)
        count = store.delete(sorted(old, key=str)) if old else 0
    if is_gone:
        store.reset()  # the same rows, collected anew, are to be written again
    if settings.kind in stores.VERSIONED:
        store.trim(before)
    return {"kind": settings.kind, "table": settings.table or settings.url, "removed": count}


def _keys(stages: list[UPath], settings: Store) -> set[Any]:
    """The values that the key has in the rows of `stages`."""
    key, folders = str(settings.key), {"rows"} if settings.rows == "clean" else None
    found: set[Any] = set()
    for stage in stages:
        for path in stage.rglob("*.parquet"):
            if folders is None or path.parent.name in folders:
                table = parts.read(path)
                if key in table.column_names:
                    found.update(table[key].to_pylist())
    return found


def described(result: dict[str, Any]) -> list[str]:
    """What `removed` did, in lines for whoever gave the command."""
    lines = [
        f"stored before {result['before']}: {len(result['stages'])} stages with "
        f"{result['rows']:,} rows removed"
    ]
    lines += [
        f"{store['removed']:,} rows removed from {store['table']}" for store in result["stores"]
    ]
    lines += [f"{b['use']} rows that are gone, and kept: {b['bundle']}" for b in result["bundles"]]
    return lines
