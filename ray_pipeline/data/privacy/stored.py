"""A person's rows in a job's stored stages: found, and taken out of whole files at a time.

A stage's parquet files either have the subject's column, then its rows are left out of them; or
they are made from rows that have it (features, predictions), then the stage is removed, and made
again without the person by the next run.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from ray_pipeline import files, runs
from ray_pipeline.data import parts
from ray_pipeline.data.privacy.subject import Subject

Affected = dict[str, dict[str, int]]
"""By stage, as `<name>-<digest>`: the person's rows in each of its folders."""
_QUARANTINE = "raw"
"""The column of quarantined rows that holds what they said."""


def stages(root: UPath) -> list[UPath]:
    """The folders of a job's stages, whole or not."""
    folder = root / "stages"
    return sorted(folder.iterdir(), key=str) if folder.exists() else []


def affected(root: UPath, column: str, subject: Subject) -> Affected:
    """Where a person's rows are."""
    found: Affected = {}
    for stage in stages(root):
        counts: Counter[str] = Counter()
        for path in _parquet(stage):
            if rows := _mask(path, column, subject):
                counts[path.parent.name] += int(pc.sum(rows).as_py() or 0)
        if counts.total():
            found[stage.name] = {name: count for name, count in counts.items() if count}
    return found


def values(root: UPath, column: str, subject: Subject, other: str) -> list[Any]:
    """The values of the column `other` in a person's cleaned rows."""
    found: list[Any] = []
    for stage in stages(root):
        for path in _parquet(stage):
            if column in (names := _names(path)) and other in names:
                table = parts.read(path, sorted({column, other}))
                found += table.filter(subject.rows(table[column]))[other].to_pylist()
    return list(dict.fromkeys(found))


def removed(root: UPath, column: str, subject: Subject, known: Affected) -> dict[str, Any]:
    """Take a person's rows out of every stage, and remove what was made from them.

    Files are replaced whole, so that it may be killed at any moment and begun again. `known` are
    the stages that held the person before a first try, which may no longer show it.

    Returns `rows` removed now, the `files` rewritten, and the stages `dropped`.
    """
    rows = rewritten = 0
    for stage in stages(root):
        for path in _parquet(stage):
            mask = _mask(path, column, subject)
            if mask is not None and (count := int(pc.sum(mask).as_py() or 0)):
                _rewrite(path, parts.read(path).filter(pc.invert(mask)))
                rows, rewritten = rows + count, rewritten + 1
    dropped = [stage for stage in stages(root) if _is_made_from(stage, root, column, known)]
    for stage in dropped:
        # Without its marker it is no stage: a run that comes in between makes it again.
        (stage / runs.MARKER).unlink(missing_ok=True)
        files.clear(stage)
    return {"rows": rows, "files": rewritten, "dropped": [stage.name for stage in dropped]}


def _is_made_from(stage: UPath, root: UPath, column: str, known: Affected) -> bool:
    """Whether a stage is unfinished, or holds rows without the column, made from affected ones."""
    if not (stage / runs.MARKER).exists():
        return True
    if stage.name not in beside(root, known):
        return False
    return any(not {column, _QUARANTINE} & _names(path) for path in _parquet(stage))


def bundles_of(root: UPath, stages: set[str]) -> list[dict[str, str]]:
    """The bundles whose lineage passed through one of `stages`."""
    found = []
    for path in sorted(root.glob("bundles/*/manifest.json"), key=str):
        lineage = json.loads(path.read_text())["lineage"]
        if stages & {f"{name}-{digest}" for name, digest in lineage.items()}:
            found.append({"bundle": str(path.parent), "use": "trained on"})
    return found


def beside(root: UPath, known: Collection[str]) -> set[str]:
    """The stages of every run that passed one of `known`."""
    found: set[str] = set()
    for record in root.glob("runs/*/run.json"):
        passed = json.loads(record.read_text()).get("stages") or ()
        names = {f"{stage['name']}-{stage['digest']}" for stage in passed}
        if names & set(known):
            found |= names
    return found


def _parquet(folder: UPath) -> Iterator[UPath]:
    return iter(sorted(folder.rglob("*.parquet"), key=str))


def _names(path: UPath) -> set[str]:
    with path.open("rb") as file:
        return set(pq.read_schema(file).names)


def _mask(path: UPath, column: str, subject: Subject) -> Any:
    """Which rows of a file are the person's; None where nothing in it could say."""
    names = _names(path)
    if column in names:
        return subject.rows(parts.read(path, [column])[column])
    if _QUARANTINE in names:
        return subject.fields(parts.read(path, [_QUARANTINE])[_QUARANTINE])
    return None


def _rewrite(path: UPath, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    files.write_whole(path, sink.getvalue())
