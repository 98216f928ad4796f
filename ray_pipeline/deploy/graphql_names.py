"""Columns' names in GraphQL, whose names are letters, digits and `_`."""

from __future__ import annotations

import json
import re
from typing import Any

from ray_pipeline.schema import Schema


def field_names(schema: Schema) -> dict[str, str]:
    """By feature column its name in GraphQL.

    Each character that is no ASCII letter, digit or `_` becomes `_`; a name that begins with a
    digit, or with the `__` that GraphQL keeps for itself, begins with one `_`. Where two columns
    would have one name, the later gets `_2`, `_3` … at its end.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for column in schema.features:
        plain = re.sub(r"\W", "_", column.name, flags=re.ASCII)
        plain = re.sub(r"^(__+|(?=\d)|$)", "_", plain)
        name, count = plain, 1
        while name in taken:
            count += 1
            name = f"{plain.rstrip('_')}_{count}"
        taken.add(name)
        names[column.name] = name
    return names


def example(schema: Schema, row: dict[str, Any], fields: str) -> dict[str, Any]:
    """A request that predicts `row`, with `fields` of the prediction."""
    names = field_names(schema)
    return {
        "query": f"query ($rows: [Row!]!) {{ predict(rows: $rows) {{ {fields} }} version }}",
        "variables": {"rows": [{names[column]: value for column, value in row.items()}]},
    }


def literal(example: dict[str, Any]) -> str:
    """The request as JSON on one line."""
    return json.dumps(example, ensure_ascii=False)
