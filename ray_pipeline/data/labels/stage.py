"""The stage that gives rows their labels: votes, a label model, and the rows written anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ray_pipeline.data import parts
from ray_pipeline.data.labels import combine, settled, suspects, votes
from ray_pipeline.data.labels.combine import Model, Pattern
from ray_pipeline.data.labels.settled import Settled
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Label
from ray_pipeline.schema import Column, Schema

SIDES = ("rows", "test")
UNVOTED = "no annotator and no labelling function says what it is"
VOTES, MODEL = "votes", "label_model.json"


class Voted(NamedTuple):
    """Of one file: its rows by how functions voted, how often each function met a label at hand,
    and the ids of annotated rows."""

    patterns: Counter[Pattern]
    known: Counter[tuple[str, bool]]
    met: set[str]


def unlabelled(schema: Schema, name: str) -> Schema:
    """`schema` for rows that are yet to be labelled: its label, if there is one, may be missing."""
    columns = (
        column.model_copy(update={"role": "ignore", "kind": "category"})
        if column.name == name
        else column
        for column in schema
    )
    return schema.model_copy(update={"columns": tuple(columns)})


def labelled(schema: Schema, name: str) -> Schema:
    """`schema` with the label that the stage writes, in its own place or else the last."""
    label = Column(name=name, kind="category", role="label")
    columns = [label if column.name == name else column for column in schema]
    columns += [] if name in schema.names else [label]
    return schema.model_copy(update={"columns": tuple(columns)})


def write(
    cleaned: UPath, settings: Label, data: Data, schema: Schema, *, out: UPath
) -> dict[str, Any]:
    """Write `rows/` and `test/` as `clean.write` does, each row with a label.

    `schema` is that of `labelled`. What annotators settled on is a row's label, else the one it
    has, and functions are held against these. The others get the label model's, fitted on the
    votes of all rows but the test file's. Rows without any go to `quarantine/`, or to `unlabelled/`
    where the settings say so; suspected wrong labels to `suspects.parquet`, and their rows, if they
    are dropped or asked about, to `quarantine/` or `unlabelled/`. `check_trainable` says whether
    rows are left. Two executions, a task per file; one more to find suspects.

    Raises:
        DataError: no function voted, or an export of annotations cannot be read.
        JobError: a function cannot be loaded, or a library is missing.
    """
    annotated, answers, refused = settled.read(settings)
    items = [(side, path) for side in SIDES for path in parts.files(cleaned / side)]
    counted = partial(_voted, annotated=annotated, settings=settings, schema=schema, out=out)
    found = parts.results(items, counted)
    model, tables = None, []
    if settings.functions:
        training = sum(
            (one.patterns for (side, _), one in zip(items, found, strict=True) if side == "rows"),
            Counter[Pattern](),
        )
        model = combine.fitted(training, settings.combine)
        (out / MODEL).write_text(model.dumped())
        gold = sum((one.known for one in found), Counter[tuple[str, bool]]())
        tables.append(_function_table(training, tuple(settings.functions), model, gold))
    record: dict[str, Any] = {}
    if settings.annotations:
        met = set().union(*(one.met for one in found))
        record["annotations"], told = settled.told(out, annotated, answers, refused, met)
        tables += told
    work = partial(_labelled, annotated=annotated, model=model, settings=settings, out=out)
    written: Counter[str] = sum(parts.results(items, partial(work, schema=schema)), Counter())
    if settings.errors != "off" and written["rows"]:
        doubted = suspects.write(out, settings, data, schema, annotated)
        tables.append(suspects.finding(doubted, settings.errors))
        if settings.errors != "report":
            aside = "quarantined" if settings.errors == "drop" else "unlabelled"
            written["rows"] -= len(doubted)
            written[aside] += len(doubted)
    return _record(written, tables) | record


def check_trainable(cleaned: Mapping[str, Any]) -> None:
    """Raises DataError where no training row of what the stage recorded has a label."""
    if not cleaned["rows_trainable"]:
        raise DataError(
            "no row got a label to train on",
            where="label",
            expected="functions that vote, or annotations",
            hint="`ray-pipeline annotate JOB -o tasks.json` writes tasks for annotators; give "
            "their answers under `label.annotations`",
        )


def _voted(
    item: tuple[str, UPath], annotated: Settled, settings: Label, schema: Schema, out: UPath
) -> Voted:
    """Write one file's votes, and hold them against the labels that people gave."""
    side, path = item
    rows = parts.read(path)
    given = votes.votes(rows, settings.functions)
    if settings.functions:
        parts.written(given, out / VOTES / side / path.name)
    patterns = Counter(zip(*(column.to_pylist() for column in given.columns), strict=True))
    truth, met = at_hand(rows, schema, annotated)
    known: Counter[tuple[str, bool]] = Counter()
    for name in given.column_names:
        same = pc.value_counts(pc.equal(given[name], truth).drop_null()).to_pylist()
        known.update({(name, pair["values"]): pair["counts"] for pair in same})
    return Voted(patterns, known, met)


def at_hand(rows: pa.Table, schema: Schema, annotated: Settled) -> tuple[pa.Array, set[str]]:
    """The labels that people gave: what annotators settled on, else the row's own; null without
    one. And the ids of the annotated rows."""
    label, met = annotated.labels(rows)
    if (name := schema.label.name) in rows.column_names:
        label = pc.coalesce(label, pc.cast(rows[name], pa.string()).combine_chunks())
    return label, met


def _labelled(
    item: tuple[str, UPath],
    *,
    annotated: Settled,
    model: Model | None,
    settings: Label,
    schema: Schema,
    out: UPath,
) -> Counter[str]:
    """Write one file's rows with their labels; how many went where."""
    side, path = item
    rows = parts.read(path)
    name = schema.label.name
    label, _ = at_hand(rows, schema, annotated)
    given = len(label) - label.null_count
    if model is not None:
        patterns = voted_patterns(out, side, path)
        label = pc.coalesce(label, pa.array([model.label(p)[0] for p in patterns], pa.string()))
    rows = rows.drop_columns([name]) if name in rows.column_names else rows
    rows = rows.append_column(name, label).select(list(schema.names))
    has = pc.is_valid(label)
    good, without = rows.filter(has), rows.filter(pc.invert(has))
    if len(good):
        parts.written(good, out / side / path.name)
    if len(without):
        set_aside(without, out, settings.unvoted, f"{side}-{path.name}", UNVOTED)
    aside = "quarantined" if settings.unvoted == "quarantine" else "unlabelled"
    return Counter({side: len(good), aside: len(without), "at hand": given})


def voted_patterns(out: UPath, side: str, path: UPath) -> list[Pattern]:
    """How the functions voted on each row of a clean file."""
    given = parts.read(out / VOTES / side / path.name)
    return list(zip(*(column.to_pylist() for column in given.columns), strict=True))


def set_aside(rows: pa.Table, out: UPath, where: str, name: str, reason: str) -> None:
    """Keep rows out of training: in `quarantine/` with the reason, or in `unlabelled/`."""
    if where == "quarantine":
        rows = rows.append_column("reason", pa.repeat(reason, len(rows)))
    parts.written(rows, out / where / name)


def _function_table(
    counts: Counter[Pattern],
    names: tuple[str, ...],
    model: Model,
    gold: Counter[tuple[str, bool]],
) -> dict[str, Any]:
    rows = []
    for figures in combine.figures(counts, names, model):
        right, wrong = (gold[figures["function"], met] for met in (True, False))
        shown = [_percent(figures[key]) for key in ("coverage", "overlap", "conflict")]
        met = f"{100 * right / (right + wrong):.1f} % of {right + wrong:,}" if right + wrong else ""
        rows.append([figures["function"], *shown, _percent(figures["estimated_accuracy"]), met])
    return {
        "caption": "Labelling functions",
        "columns": [
            "function",
            "coverage",
            "overlap",
            "conflict",
            "estimated accuracy",
            "right where the label is known",
        ],
        "rows": rows,
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _record(written: Counter[str], tables: list[dict[str, Any]]) -> dict[str, Any]:
    kept = written["rows"] + written["test"] + written["unlabelled"]
    note = (
        f"{written['at hand']:,} rows had a label, their own or annotators', which was kept. "
        f"{written['unlabelled']:,} are "
        f"left to be labelled, {written['quarantined']:,} quarantined. Coverage is where a "
        "function votes, overlap where another does too, conflict where that one votes otherwise."
    )
    return {
        "rows_in": kept + written["quarantined"],
        "rows_out": kept,
        "rows_quarantined": written["quarantined"],
        "rows_unlabelled": written["unlabelled"],
        "rows_trainable": written["rows"],
        "findings": [{"title": "Labels", "note": note, "tables": tables}],
    }
