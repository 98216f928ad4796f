"""From annotators' answers to labels: combined by item, laid onto rows, and told in the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from upath import UPath

from ray_pipeline.data import parts
from ray_pipeline.data.labels import agreement, combine, identity, label_studio
from ray_pipeline.data.labels.label_studio import Answer, Refused
from ray_pipeline.job import Label

CONFLICT = "the annotators disagree"
UNKNOWN = "no row has this id: it is gone, or its columns or their cleaning have changed"
SHOWN = 20
"""Pairs of annotators, or ids, that the report shows at most."""


@dataclass(frozen=True)
class Settled:
    """Items by the columns that their ids are of, with the label that annotators settled on; None
    where they disagree, which leaves the row as if nobody had been asked."""

    items: dict[tuple[str, ...], dict[str, str | None]]

    def labels(self, rows: pa.Table) -> tuple[pa.Array, set[str]]:
        """The settled label of each row, null where there is none; the ids that were met."""
        labels: list[str | None] = [None] * len(rows)
        met: set[str] = set()
        for columns, items in self.items.items():
            if set(columns) <= set(rows.column_names):
                for place, item in identity.met(rows, columns, items).items():
                    labels[place] = items[item]
                    met.add(item)
        return pa.array(labels, pa.string()), met

    @property
    def ids(self) -> set[str]:
        return {item for items in self.items.values() for item in items}


def read(settings: Label) -> tuple[Settled, list[Answer], list[Refused]]:
    """What the job's exports settle, and of what. Raises DataError, JobError."""
    if not settings.annotations:
        return Settled({}), [], []
    answers, refused = label_studio.read(settings.annotations, settings.classes)
    return settled(answers, settings.annotators), answers, refused


def settled(answers: Sequence[Answer], method: Literal["majority", "dawid-skene"]) -> Settled:
    """One label an item, by majority or by the model of Dawid & Skene; a tie settles nothing.

    An answer marked as ground truth is the label, unless two such differ.
    """
    people = sorted({answer.annotator for answer in answers})
    said: dict[str, dict[str, str]] = {}
    final: dict[str, set[str]] = {}
    for answer in answers:
        said.setdefault(answer.item, {})[answer.annotator] = answer.label
        if answer.final:
            final.setdefault(answer.item, set()).add(answer.label)
    patterns = {item: tuple(given.get(name) for name in people) for item, given in said.items()}
    model = combine.modelled(Counter(patterns.values()), method, where="label.annotators")
    found: dict[tuple[str, ...], dict[str, str | None]] = {}
    for answer in answers:
        truth = final.get(answer.item, set())
        label = next(iter(truth)) if len(truth) == 1 else model.decided(patterns[answer.item])
        found.setdefault(answer.columns, {})[answer.item] = None if len(truth) > 1 else label
    return Settled(found)


def told(
    out: UPath, settled: Settled, answers: list[Answer], refused: list[Refused], met: set[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What became of the annotations, and its tables; written to `out/annotations.parquet` (what
    settles rows) and `out/refused.parquet` (item, annotator, reason).

    Every answer is in one of the two.
    """
    labels = {item: label for items in settled.items.values() for item, label in items.items()}
    used, unused = [], list(refused)
    for answer in answers:
        fault = UNKNOWN if answer.item not in met else None if labels[answer.item] else CONFLICT
        if fault:
            unused.append(Refused(answer.item, answer.annotator, fault))
        else:
            used.append(answer)
    _kept(out, used, unused, labels)
    codes, people = _codes(answers)
    alpha = agreement.alpha(codes)
    rows = {answer.item for answer in used}
    conflicts = {item for item, label in labels.items() if label is None and item in met}
    record = {
        "items": len(rows),
        "conflicts": len(conflicts),
        "used": len(used),
        "refused": dict(Counter(one.reason for one in unused).most_common()),
        "alpha": alpha,
    }
    tables = [_people_table(used, unused, labels), _pair_table(codes, people, alpha)]
    return record, [*tables, *([_refused_table(unused)] if unused else [])]


def _kept(
    out: UPath, used: list[Answer], unused: list[Refused], labels: dict[str, str | None]
) -> None:
    columns: dict[str, list[Any]] = {
        "item": [answer.item for answer in used],
        "annotator": [answer.annotator for answer in used],
        "answer": [answer.label for answer in used],
        "label": [labels[answer.item] for answer in used],
    }
    parts.written(_texts(columns), out / "annotations.parquet")
    faults = {
        name: [getattr(one, name) for one in unused] for name in ("item", "annotator", "reason")
    }
    parts.written(_texts(faults), out / "refused.parquet")


def _texts(columns: dict[str, list[Any]]) -> pa.Table:
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _codes(answers: list[Answer]) -> tuple[agreement.Codes, list[str]]:
    """The answers as codes [A, N], and the annotators' names."""
    people = sorted({answer.annotator for answer in answers})
    items = {item: place for place, item in enumerate(dict.fromkeys(a.item for a in answers))}
    classes = {label: code for code, label in enumerate(sorted({a.label for a in answers}))}
    codes = np.full((len(people), len(items)), -1, np.int64)
    for answer in answers:
        codes[people.index(answer.annotator), items[answer.item]] = classes[answer.label]
    return codes, people


def _people_table(
    used: list[Answer], unused: list[Refused], labels: dict[str, str | None]
) -> dict[str, Any]:
    rows = []
    names = {answer.annotator for answer in used} | {one.annotator for one in unused}
    for name in sorted(names):
        own = [answer for answer in used if answer.annotator == name]
        alike = sum(answer.label == labels[answer.item] for answer in own)
        reasons = Counter(one.reason for one in unused if one.annotator == name)
        skipped = reasons.pop(label_studio.SKIPPED, 0)
        share = f"{100 * alike / len(own):.1f} %" if own else ""
        rows.append([name, len(own), share, skipped, reasons.total()])
    return {
        "caption": "Annotators",
        "columns": ["annotator", "answers used", "as the settled label", "skipped", "not used"],
        "rows": rows,
    }


def _pair_table(codes: agreement.Codes, people: list[str], alpha: float | None) -> dict[str, Any]:
    shown = "none can be told" if alpha is None else f"{alpha:.3f}"
    return {
        "caption": f"Agreement of annotators; Krippendorff's alpha: {shown}",
        "columns": ["annotators", "rows in common", "alike", "Cohen's kappa"],
        "rows": [
            [
                f"{people[pair.first]} and {people[pair.second]}",
                pair.rows,
                f"{100 * pair.alike:.1f} %",
                "" if pair.kappa is None else f"{pair.kappa:.3f}",
            ]
            for pair in agreement.pairs(codes)[:SHOWN]
        ],
    }


def _refused_table(unused: list[Refused]) -> dict[str, Any]:
    found: dict[str, list[str]] = {}
    for one in unused:
        found.setdefault(one.reason, []).append(one.item)
    ranked = sorted(found.items(), key=lambda pair: -len(pair[1]))
    return {
        "caption": "Annotations that were not used (refused.parquet)",
        "columns": ["why", "annotations", "ids"],
        "rows": [
            [reason, len(items), ", ".join(sorted({i[:8] for i in items if i})[:SHOWN])]
            for reason, items in ranked
        ],
    }
