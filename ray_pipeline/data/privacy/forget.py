"""Erasing one person: from stages, quarantine, records and stores; proved by a search."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from upath import UPath

from ray_pipeline import audit, files
from ray_pipeline.data import stores
from ray_pipeline.data.privacy import keys, search, stored, tombstones
from ray_pipeline.data.privacy.stored import Affected
from ray_pipeline.data.privacy.subject import Subject
from ray_pipeline.errors import JobError, PipelineError
from ray_pipeline.job import Job, Store

_TRAINED_ON = {"train", "validation"}


def forgotten(job: Job, id_: str) -> dict[str, Any]:
    """Erase the person whose `data.privacy.subject` is `id_`, and say what was done.

    First a tombstone is kept, so that no later run brings the person back from the source; then
    stores, stages and records are emptied of them, in an order in which a killed erasure goes on
    when the same command is given again. The source is the user's: it is named, not changed.

    Returns `rows` removed, `dropped` stages, `stores`, `records` changed, `search` (what was looked
    through, and what was left), `bundles` made from the person's rows, `source`, and files of the
    user's that hold rows: `predictions`, and `annotations` (tasks and answers).

    Raises:
        JobError: the job names no subject, or a run of it is going on.
        PipelineError: the person is still there.
    """
    privacy = job.data.privacy
    if privacy is None or privacy.subject is None:
        raise JobError(
            "the job does not say which column tells people apart",
            where="data.privacy.subject",
            hint="name the column that holds the ID",
        )
    storage, column = UPath(job.storage), privacy.subject
    root = storage / job.name
    subject = Subject.of(id_, keys.keys())
    with files.only_one(root, job.name):
        tombstone = tombstones.written(root, subject.hash)
        known = _remembered(tombstone, stored.affected(root, column, subject))
        emptied = [_emptied(store, root, column, subject) for store in job.stores]
        gone = stored.removed(root, column, subject, known)
        records = search.redacted(storage, job.name, subject)
        tables = [UPath(store.url) for store in job.stores if store.kind in stores.VERSIONED]
        proof = search.searched(storage, job.name, column, subject, tables)
    audit.write(job.storage, "erase", what=job.name, digest=subject.hash, rows=gone["rows"])
    left = [*proof["left"], *(store["table"] for store in emptied if store["left"])]
    left = [place for place in left if not place.startswith(str(root / "bundles"))]
    if left:
        raise PipelineError(
            f"the person is still in {len(left)} places",
            where=left[0],
            hint="give the same command again; if it stays, remove it by hand",
        )
    _note(tombstone, finished=datetime.now(UTC).isoformat(timespec="seconds"))
    return {
        "subject": subject.hash,
        **gone,
        "stores": emptied,
        "records": records,
        "search": proof,
        "bundles": _bundles(root, known),
        "source": [str(place) for place in (job.data.source, job.data.test) if place],
        "predictions": _predictions(job),
        "annotations": _annotations(job),
    }


def _remembered(tombstone: UPath, found: Affected) -> Affected:
    """Where the person is now and was at a try before, which may have removed the traces."""
    before: Affected = json.loads(tombstone.read_text()).get("affected", {})
    known = found | before
    _note(tombstone, affected=known)
    return known


def _note(tombstone: UPath, **what: Any) -> None:
    kept = json.loads(tombstone.read_text())
    files.write_whole(tombstone, json.dumps({**kept, **what}).encode())


def _emptied(settings: Store, root: UPath, column: str, subject: Subject) -> dict[str, Any]:
    """Delete the person's rows from a store: those that say so, and those whose key is that of a
    row of the person's in a stage."""
    keyed = settings if settings.key else settings.model_copy(update={"key": column})
    store = stores.opened(keyed)
    found = {*store.holding(column, subject.texts)}
    if settings.key and settings.key != column:
        found |= {*stored.values(root, column, subject, settings.key)}
    keys = sorted(found, key=str)
    removed = store.delete(keys) if keys else 0
    left = len(store.holding(column, subject.texts)) + (len(store.search(keys)) if keys else 0)
    return {
        "kind": settings.kind,
        "table": settings.table or settings.url,
        "removed": removed,
        "left": left,
    }


def _bundles(root: UPath, known: Affected) -> list[dict[str, str]]:
    """The bundles whose lineage passed through the person's rows, and what these were used for."""
    found = []
    for path in sorted(root.glob("bundles/*/manifest.json"), key=str):
        lineage = json.loads(path.read_text())["lineage"]
        passed = {f"{name}-{digest}" for name, digest in lineage.items()} & known.keys()
        folders = {folder for stage in passed for folder in known[stage]}
        if folders - {"quarantine"}:
            use = "trained on" if folders & _TRAINED_ON else "evaluated on"
            found.append({"bundle": str(path.parent), "use": use})
    return found


def _predictions(job: Job) -> list[str]:
    """Files that bulk predictions of the job's bundles were written to, by the audit log."""
    versions = {path.parent.name for path in (UPath(job.storage) / job.name).glob("bundles/*/*")}
    return sorted(
        {
            entry["output"]
            for entry in audit.entries(job.storage)
            if entry["action"] == "predict" and entry["bundle"] in versions
        }
    )


def _annotations(job: Job) -> list[str]:
    """Files with tasks for annotators, by the audit log, and with their answers."""
    asked = {
        entry["output"]
        for entry in audit.entries(job.storage)
        if entry["action"] == "annotate" and entry["what"] == job.name
    }
    return sorted(asked | set(job.label.annotations if job.label else ()))


def described(result: dict[str, Any]) -> list[str]:
    """What `forgotten` did, in lines for whoever gave the command."""
    looked = result["search"]
    lines = [
        f"{result['rows']:,} rows removed from {result['files']} files; "
        f"{len(result['dropped'])} stages made from them removed",
        f"searched {looked['files']:,} files, {looked['rows']:,} rows, {looked['bytes']:,} bytes: "
        "nothing of this person is left",
    ]
    if not looked["free_text"]:
        lines.append("the ID is too short to be looked for in free text; rows were searched by it")
    lines += [f"named in {n:,} other rows: {place}" for place, n in looked["mentions"].items()]
    lines += [
        f"{store['removed']:,} rows removed from {store['table']}" for store in result["stores"]
    ]
    lines += [f"{b['use']} this person, retrain it: {b['bundle']}" for b in result["bundles"]]
    lines += [f"yours, not searched: predictions in {path}" for path in result["predictions"]]
    lines += [
        f"yours, not searched: rows shown to annotators in {p}" for p in result["annotations"]
    ]
    lines += [f"yours, and left out from now on: {place}" for place in result["source"]]
    return lines
