"""A row to show and to try: each column's typical value, from the training statistics."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

from ray_pipeline.bundle import Bundle
from ray_pipeline.data import dates
from ray_pipeline.data.media import pixels
from ray_pipeline.data.statistics import ImageStatistics, Statistics

_WORDS = 8
_QUESTION = "What can you tell me about?"


class Request(NamedTuple):
    """A request to try an endpoint with: its path below the endpoint's, and its body."""

    path: str
    body: dict[str, Any]


def example_request(opened: Bundle, name: str) -> Request:
    """A request that the endpoint `name` of the bundle answers."""
    if opened.manifest.task == "chat":
        examples = json.loads((opened.path / "chat.json").read_text())["chat"]["examples"]
        message = {"role": "user", "content": [*examples, _QUESTION][0]}
        return Request("v1/chat/completions", {"model": name, "messages": [message]})
    return Request("predict", {"rows": [example_row(opened)]})


def statistics(opened: Bundle) -> Statistics:
    """What the bundle's model learned from its training rows."""
    text = (opened.path / "statistics.json").read_text(encoding="utf-8")
    return Statistics.model_validate_json(text)


def example_row(opened: Bundle) -> dict[str, Any]:
    """The median of each number and date and the most frequent value of each category.

    None where there was no value in training, the most frequent words of a text, and of images
    their mean colour.
    """
    known = statistics(opened)
    medians = {column.name: column.median for column in known.numbers}
    days = {column.name: column.seconds.median for column in known.dates}
    words = {column.name: " ".join(column.terms[:_WORDS]) for column in known.texts}
    values = {column.name: column.values for column in known.categories}
    row: dict[str, Any] = {}
    for column in opened.manifest.schema.features:
        if column.kind == "category":
            row[column.name] = next(iter(values[column.name]), None)
        elif column.kind == "text":
            row[column.name] = words.get(column.name) or None
        elif column.kind == "image":
            row[column.name] = known.image and _mean_image(known.image)
        elif column.kind == "date":
            row[column.name] = dates.shown(days[column.name])
        elif column.kind == "boolean":
            row[column.name] = medians[column.name] >= 0.5
        elif column.kind == "integer":
            row[column.name] = round(medians[column.name])
        else:
            row[column.name] = medians[column.name]
    return row


def _mean_image(image: ImageStatistics) -> str:
    content = pixels.png(pixels.plain(image.filler, image.shape))
    return base64.b64encode(content).decode()
