"""Label Studio's exports: what each annotator said of which row, and what cannot be used.

Both of its JSON forms: JSON has a task with its `annotations`, JSON-MIN a line for each annotation
with the task's data beside the answer. https://labelstud.io/guide/export
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.data.faults import told
from ray_pipeline.data.labels.identity import is_id
from ray_pipeline.errors import DataError

ROW, COLUMNS, CONTROL = "row", "columns", "label"
"""Keys of a task's data that hold its id and the columns that it is of; the control's name."""
SKIPPED = "skipped by the annotator"


@dataclass(frozen=True)
class Answer:
    """One annotator's choice for one row; `final` if it was marked as ground truth."""

    item: str
    columns: tuple[str, ...]
    annotator: str
    label: str
    final: bool = False


@dataclass(frozen=True)
class Refused:
    """An annotation that is not used, and why; `item` is empty if the task is not one of ours."""

    item: str
    annotator: str
    reason: str


def fingerprint(places: Sequence[str]) -> str:
    """A digest of the exports' content. Raises DataError where there is none."""
    content = hashlib.sha256()
    for path in _files(places):
        content.update(path.read_bytes())
    return content.hexdigest()[:16]


def read(places: Sequence[str], classes: Sequence[str] = ()) -> tuple[list[Answer], list[Refused]]:
    """The annotations of all exports in `places`; of one annotator's several, the latest.

    An answer is refused if the task is not ours, it was skipped or is empty, it holds several
    choices, or one that is not among `classes`, if any are given. Annotators are told apart by
    Label Studio's number; an e-mail address, where the export has that alone, is counted and not
    kept.

    Raises:
        DataError: a file is missing or no such export.
    """
    found: dict[tuple[str, str], tuple[str, Answer | Refused]] = {}
    strangers: list[Refused] = []
    entries = [entry for path in _files(places) for entry in _entries(path)]
    names = _annotators(annotation for _, annotation in entries)
    for data, annotation in entries:
        annotator = names[_who(annotation)]
        item, columns = data.get(ROW), data.get(COLUMNS)
        if not is_id(item) or not _are_names(columns):
            strangers.append(Refused("", annotator, "the task is not one of ours"))
            continue
        when = str(annotation.get("updated_at") or annotation.get("created_at") or "")
        answer = _answer(item, tuple(columns), annotator, annotation, classes)
        before = found.get((item, annotator))
        if before is None or when >= before[0]:
            found[item, annotator] = when, answer
    said = [answer for _, answer in found.values()]
    answers = [answer for answer in said if isinstance(answer, Answer)]
    return answers, strangers + [answer for answer in said if isinstance(answer, Refused)]


def _answer(
    item: str,
    columns: tuple[str, ...],
    annotator: str,
    annotation: dict[str, Any],
    classes: Sequence[str],
) -> Answer | Refused:
    if annotation.get("was_cancelled"):
        return Refused(item, annotator, SKIPPED)
    chosen = [choice for part in annotation.get("result") or () for choice in _choices(part)]
    if not chosen:
        return Refused(item, annotator, "no choice was made")
    if len(set(chosen)) > 1:
        return Refused(item, annotator, "several choices were made")
    if classes and chosen[0] not in classes:
        return Refused(item, annotator, "the choice is not one of `label.classes`")
    final = annotation.get("ground_truth") is True
    return Answer(item, columns, annotator, chosen[0], final)


def _choices(part: Any) -> list[str]:
    """The choices in one part of an annotation's result; other controls have none."""
    if not isinstance(part, dict) or part.get("type") != "choices":
        return []
    value = part.get("value")
    given = value.get("choices") if isinstance(value, dict) else None
    return [str(choice) for choice in given] if isinstance(given, list) else []


def _entries(path: UPath) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The annotations in a file, each beside its task's data."""
    with told(path):
        text = path.read_text(encoding="utf-8-sig")
    try:
        tasks = json.loads(text)
    except json.JSONDecodeError as error:
        raise _no_export(path, f"is not JSON: {error.msg} on line {error.lineno}") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise _no_export(path, "is not a list of tasks")
    return [entry for task in tasks for entry in _of_task(task)]


def _of_task(task: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    data = task.get("data")
    if isinstance(data, dict):
        for annotation in task.get("annotations") or ():
            if isinstance(annotation, dict):
                yield data, annotation
        return
    choice = task.get(CONTROL)
    if choice is None and task.get("annotation_id") is None:
        return  # a task that nobody has answered
    choices = choice.get("choices") if isinstance(choice, dict) else choice and [choice]
    result = [{"type": "choices", "value": {"choices": choices}}] if choices else []
    yield task, {**task, "result": result, "completed_by": task.get("annotator")}


def _who(annotation: dict[str, Any]) -> str:
    """The number of who made an annotation, or else the address."""
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = by.get("id", by.get("email"))
    return "" if by is None else str(by)


def _annotators(annotations: Iterator[dict[str, Any]]) -> dict[str, str]:
    """What each is called here: a number as it is, an address by its place among the addresses."""
    found = sorted({_who(annotation) for annotation in annotations})
    addresses = [who for who in found if who and not who.isdigit()]
    called = {who: f"address {place}" for place, who in enumerate(addresses, 1)}
    return {who: called.get(who, who or "unknown") for who in found}


def _are_names(columns: Any) -> TypeGuard[list[str]]:
    return isinstance(columns, list) and bool(columns) and {type(name) for name in columns} == {str}


def _files(places: Sequence[str]) -> list[UPath]:
    return [path for place in places for path in sources.listed(place)]


def _no_export(path: UPath, what: str) -> DataError:
    return DataError(
        what,
        where=str(path),
        expected="Label Studio's export as JSON or JSON-MIN",
        hint="in Label Studio: Export, JSON",
    )
