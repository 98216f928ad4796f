"""The rows that annotators should see next, as files for Label Studio."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline import files
from ray_pipeline.data import parts
from ray_pipeline.data.labels import choose, combine, identity, settled, stage, tasks, votes
from ray_pipeline.data.labels.settled import Settled
from ray_pipeline.errors import DataError, JobError, UsageError
from ray_pipeline.job import Label
from ray_pipeline.schema import Column, Schema

By = Literal["uncertainty", "diversity", "both"]
_SAID = {"_label": pa.string(), "_chance": pa.float64(), "_unsure": pa.float64()}
_POOL = 5_000
"""Rows among which those that lie far apart are sought; of more, some by their ids."""
_LABELLED = 500
"""Rows with a label that the others should be far from; of more, some by their ids."""
_PER_TASK = 10
"""For `both`, rows that are looked at for each that is chosen: the least certain. As in Zhdanov
(2019), "Diverse mini-batch active learning"."""


@dataclass(frozen=True)
class Wanted:
    """How many rows, chosen how, what a bundle says of them, and the columns that are shown (the
    features if empty)."""

    count: int = 200
    by: By = "both"
    bundle: str | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pool:
    """What a task needs to find candidates in one clean file."""

    labelled: UPath
    settings: Label
    schema: Schema
    annotated: Settled
    suspects: dict[str, tuple[str, float]]
    wanted: Wanted

    @property
    def limit(self) -> int:
        wide = _PER_TASK * self.wanted.count
        return {"uncertainty": self.wanted.count, "both": wide}.get(
            self.wanted.by, max(wide, _POOL)
        )


def written(
    cleaned: UPath, labelled: UPath, settings: Label, schema: Schema, wanted: Wanted, *, out: UPath
) -> dict[str, Any]:
    """Write tasks to `out` (JSON) and the labelling interface beside it (`.xml`); how many of what.

    `cleaned` and `labelled` are what the stages wrote. Asked about are training rows that neither
    have a label nor were settled by annotators, and before them suspected wrong labels where the
    settings say `errors: ask`. Equal rows are one task.

    Raises:
        DataError: nothing is left to ask about.
        JobError: fewer than two classes are known, or a bundle does not fit.
        UsageError: a column is unknown, or nothing can say what is uncertain.
    """
    if wanted.count < 1:
        raise UsageError(f"{wanted.count} tasks are none", where="--count", expected="1 or more")
    shown = _shown(schema, wanted)
    if wanted.by == "uncertainty" and not (wanted.bundle or settings.functions):
        raise UsageError(
            "nothing says how sure a label is", where="--by uncertainty",
            expected="labelling functions, or `--bundle`", hint="or choose `--by diversity`",
        )  # fmt: skip
    named = set(votes.check_bundle(wanted.bundle, schema, "--bundle")) if wanted.bundle else set()
    annotated, _, _ = settled.read(settings)
    suspects = _suspects(labelled) if settings.errors == "ask" else {}
    pool = Pool(labelled, settings, schema, annotated, suspects, wanted)
    found = parts.results(parts.existing_files(cleaned / "rows"), partial(_candidates, pool=pool))
    classes = _classes(settings, named.union(*(names for _, names in found)), labelled)
    rows, asked_again = _chosen(pa.concat_tables([some for some, _ in found]), pool)
    if not len(rows):
        raise DataError("no row is left to ask about", where=str(labelled))
    of = identity.columns(schema)
    made = [
        tasks.task(row, shown, row["_item"], of, _said(row, wanted)) for row in rows.to_pylist()
    ]
    interface = out.with_suffix(".xml")
    files.write_whole(out, json.dumps(made, ensure_ascii=False, default=str).encode())
    files.write_whole(interface, tasks.interface(shown, classes).encode())
    return {
        "tasks": len(made),
        "suspects": asked_again,
        "predicted": sum("predictions" in task for task in made),
        "classes": list(classes),
        "output": str(out),
        "interface": str(interface),
    }


def _shown(schema: Schema, wanted: Wanted) -> list[Column]:
    label = schema.label.name
    known = [name for name in schema.names if name != label]
    names = wanted.columns or tuple(column.name for column in schema.features)
    if strange := [name for name in names if name not in known]:
        raise UsageError(
            f"no column is called `{strange[0]}`", where="--show", expected=", ".join(known)
        )
    return [schema[name] for name in names]


def _suspects(labelled: UPath) -> dict[str, tuple[str, float]]:
    """What is likelier, and its probability, by the id of a row whose label looks wrong."""
    path = labelled / "suspects.parquet"
    if not path.exists():
        return {}
    lines = parts.read(path, ["item", "suggested", "other"]).to_pylist()
    return {line["item"]: (line["suggested"], line["other"]) for line in lines}


def _candidates(path: UPath, pool: Pool) -> tuple[pa.Table, set[str]]:
    """A clean file's rows that may be asked about, some that need not be, and the classes given.

    The schema's columns but the label; `_item`, `_rank` (0 suspect, 1 to be asked, 2 labelled),
    `_label`, `_chance` and `_unsure` (0 to 1). At most `pool.limit` that may be asked about.
    """
    rows = parts.read(path)
    given, _ = stage.at_hand(rows, pool.schema, pool.annotated)
    item = identity.ids(rows, identity.columns(pool.schema))
    rank = np.where(pc.is_valid(given).to_numpy(zero_copy_only=False), 2, 1)
    rank[[name in pool.suspects for name in item]] = 0
    chances, classes = _chances(rows, path, pool)
    said = _best(chances, classes)
    for place in np.flatnonzero(rank == 0).tolist():
        label, chance = pool.suspects[item[place]]
        said["_label"][place], said["_chance"][place] = label, chance
    table = rows.select([name for name in pool.schema.names if name != pool.schema.label.name])
    table = table.append_column("_item", pa.array(item, pa.string()))
    table = table.append_column("_rank", pa.array(rank, pa.int64()))
    for name, kind in _SAID.items():
        table = table.append_column(name, pa.array(said[name], kind, from_pandas=True))
    names = pc.unique(given.drop_null()).to_pylist()
    return _best_of_each_rank(table, pool), set(names)


def _best_of_each_rank(table: pa.Table, pool: Pool) -> pa.Table:
    """The rows with the least certain first, or for diversity by their ids, as good as at random;
    each item once."""
    kept = []
    for rank, limit in enumerate((pool.limit, pool.limit, _LABELLED)):
        order = [("_item", "ascending")]
        if rank < 2 and pool.wanted.by != "diversity":
            order = [("_unsure", "descending"), *order]
        some = table.filter(pc.equal(table["_rank"], rank)).sort_by(order)
        _, first = np.unique(some["_item"].to_numpy(), return_index=True)
        kept.append(some.take(pa.array(np.sort(first)[:limit])))
    return pa.concat_tables(kept)


def _chances(rows: pa.Table, path: UPath, pool: Pool) -> tuple[NDArray[np.float64], Sequence[str]]:
    """The probabilities [N, K] of classes, by the bundle or else by the label model; NaN where it
    says nothing."""
    if pool.wanted.bundle:
        said = votes.predictions(pool.wanted.bundle, rows)["probabilities"].tolist()
        classes = list(said[0])
        return np.array([[one[name] for name in classes] for one in said]), classes
    if not pool.settings.functions:
        return np.full((len(rows), 1), np.nan), ("",)
    model = combine.loaded((pool.labelled / stage.MODEL).read_text())
    nothing = np.full(len(model.classes), np.nan)
    patterns = stage.voted_patterns(pool.labelled, "rows", path)
    return np.stack([model.chances.get(pattern, nothing) for pattern in patterns]), model.classes


def _best(chances: NDArray[np.float64], classes: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Each row's likeliest class and its probability, none where nothing is said; and how unsure
    that is: wholly, where nothing is."""
    said = ~np.isnan(chances[:, 0])
    known = np.where(said[:, None], chances, 0.0)
    label = np.array(classes, dtype=object)[known.argmax(1)]
    return {
        "_label": np.array(np.where(said, label, None), object),
        "_chance": np.where(said, known.max(1), np.nan),
        "_unsure": np.where(said, choose.uncertainty(known), 1.0),
    }


def _classes(settings: Label, named: set[str], labelled: UPath) -> tuple[str, ...]:
    """What annotators may choose from: as the settings say, or what rows and models name."""
    if settings.classes:
        return settings.classes
    names = set(named)
    if settings.functions:
        names |= set(combine.loaded((labelled / stage.MODEL).read_text()).classes)
    if len(names) < 2:
        raise JobError(
            f"{len(names)} classes are known to choose from",
            where="label.classes",
            expected="the classes that annotators choose from, two or more",
        )
    return tuple(sorted(names))


def _chosen(found: pa.Table, pool: Pool) -> tuple[pa.Table, int]:
    """The rows to ask about, and how many of them are suspects; these come first."""
    found = _best_of_each_rank(found, pool)
    rank = found["_rank"].to_numpy()
    suspects = np.flatnonzero(rank == 0)[: pool.wanted.count]
    free = np.flatnonzero(rank == 1)
    left = pool.wanted.count - len(suspects)
    if pool.wanted.by != "uncertainty" and left and len(free):
        others = np.concatenate([free, suspects, np.flatnonzero(rank == 2)])
        vectors = choose.vectors(found.take(pa.array(others)), list(pool.schema.features))
        done = np.arange(len(others)) >= len(free)
        free = free[choose.spread(vectors, left, done)]
    return found.take(pa.array(np.concatenate([suspects, free[:left]]))), len(suspects)


def _said(row: dict[str, Any], wanted: Wanted) -> dict[str, Any] | None:
    """What is written of a row before anyone has seen it, and by what."""
    if row["_label"] is None:
        return None
    by_bundle = UPath(wanted.bundle).name if wanted.bundle else "label model"
    model = "confident learning" if row["_rank"] == 0 else by_bundle
    return {"label": row["_label"], "chance": row["_chance"], "model": model}
