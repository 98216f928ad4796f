"""Rows as Label Studio's tasks, and the labelling interface that shows them.

https://labelstud.io/guide/tasks (tasks), https://labelstud.io/guide/predictions (what a model
says), https://labelstud.io/tags (the interface).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from xml.etree import ElementTree as ET

from ray_pipeline.data.labels.label_studio import COLUMNS, CONTROL, ROW
from ray_pipeline.schema import Column

TABLE = "values"
"""The key of a task's data that holds what is neither text nor image, by column."""
_RESERVED = {ROW, COLUMNS, CONTROL, TABLE}
_SIGNATURES = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG": "png",
    b"GIF8": "gif",
    b"RIFF": "webp",
    b"BM": "bmp",
}


def keys(columns: Sequence[Column]) -> dict[str, str]:
    """The key in a task's data of each column that is shown by itself: its text or its image.

    A column's name with what Label Studio's `$name` cannot hold replaced, and told apart.
    """
    taken, found = set(_RESERVED), {}
    for column in columns:
        if column.kind in ("text", "image"):
            key = plain = re.sub(r"\W", "_", column.name, flags=re.ASCII)
            number = 2
            while key in taken:
                key, number = f"{plain}_{number}", number + 1
            taken.add(key)
            found[column.name] = key
    return found


def task(
    row: Mapping[str, Any],
    columns: Sequence[Column],
    item: str,
    of: Sequence[str],
    said: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """One task: the values of `columns` in `row`, and the id of the item, which is a digest `of`
    columns.

    `said`, if a model said something: its `label`, `chance` and `model`.
    """
    shown = keys(columns)
    data: dict[str, Any] = {ROW: item, COLUMNS: list(of)}
    for column in columns:
        if column.name in shown:
            value = row[column.name]
            image = column.kind == "image"
            data[shown[column.name]] = image_uri(value) if image and value else value or ""
    rest = {c.name: row[c.name] for c in columns if c.name not in shown}
    if rest:
        data[TABLE] = {name: _plain(value) for name, value in rest.items() if value is not None}
    if said is None:
        return {"data": data}
    target = _target(columns)
    result = {
        "id": item[:10],
        "from_name": CONTROL,
        "to_name": target,
        "type": "choices",
        "value": {"choices": [said["label"]]},
    }
    prediction = {
        "model_version": said["model"],
        "score": min(1.0, said["chance"]),
        "result": [result],
    }
    return {"data": data, "predictions": [prediction]}


def interface(columns: Sequence[Column], classes: Sequence[str]) -> str:
    """The labelling interface as XML: what is shown, and one choice among `classes`."""
    view = ET.Element("View")
    shown = keys(columns)
    for column in columns:
        if column.name in shown:
            key = shown[column.name]
            ET.SubElement(view, "Header", value=column.name, size="4")
            tag = "Image" if column.kind == "image" else "Text"
            ET.SubElement(view, tag, name=key, value=f"${key}")
    if len(shown) < len(columns):
        ET.SubElement(view, "Table", name=TABLE, value=f"${TABLE}")
    target = _target(columns)
    choices = ET.SubElement(
        view, "Choices", name=CONTROL, toName=target, choice="single", showInline="true"
    )
    for name in classes:
        ET.SubElement(choices, "Choice", value=name)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def image_uri(content: bytes) -> str:
    """An image as a data URI, which needs no server that hands out files."""
    kind = next((k for mark, k in _SIGNATURES.items() if content.startswith(mark)), "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _target(columns: Sequence[Column]) -> str:
    """The name of the object that the choice is about: the first that stands by itself."""
    return next(iter(keys(columns).values()), TABLE)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
