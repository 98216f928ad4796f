"""An endpoint's own pages: one to try it, its documentation, its OpenAPI document.

Both pages are whole in themselves: no script, font or style comes from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2

from ray_pipeline.bundle import Bundle, Manifest
from ray_pipeline.data import dates
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.deploy import openapi
from ray_pipeline.deploy.asgi import Response, page_response
from ray_pipeline.deploy.example import example_row, statistics
from ray_pipeline.job import Serve
from ray_pipeline.schema import Column

_MAX_CHOICES = 200


def pages(name: str, opened: Bundle, settings: Serve) -> dict[str, Response]:
    """The answers to GET, by path."""
    manifest, example = opened.manifest, example_row(opened)
    described = openapi.document(name, manifest, settings, example)
    api = json.loads(described)
    common = {
        "name": name,
        "manifest": manifest,
        "settings": settings,
        "label": manifest.schema.label.name,
    }
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("ray_pipeline.deploy"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = templates.get_template("endpoint.html").render(
        **common,
        fields=_fields(opened, example),
        metrics=_metrics(manifest),
        facts=_facts(manifest, statistics(opened)),
    )
    docs = templates.get_template("docs.html").render(
        **common,
        api=api,
        graphql=api["paths"].get(f"/{name}/graphql", {}).get("post"),
        body=json.dumps({"rows": [example]}, indent=2, ensure_ascii=False),
        line=json.dumps({"rows": [example]}, ensure_ascii=False),
    )
    return {
        f"/{name}": page_response(page),
        f"/{name}/": page_response(page),
        f"/{name}/docs": page_response(docs),
        f"/{name}/openapi.json": Response(200, described),
    }


def _fields(opened: Bundle, example: dict[str, Any]) -> list[dict[str, Any]]:
    """The form: each feature with its typical value and what else training saw."""
    known = statistics(opened)
    numbers = {column.name: column for column in known.numbers}
    days = {column.name: column.seconds for column in known.dates}
    values = {column.name: column.values for column in known.categories}

    def field(column: Column) -> dict[str, Any]:
        made: dict[str, Any] = {
            "name": column.name,
            "kind": column.kind,
            "value": "" if example[column.name] is None else example[column.name],
        }
        if column.kind == "category":
            return {**made, "choices": values[column.name][:_MAX_CHOICES], "hint": ""}
        if column.kind == "text":
            return {**made, "choices": (), "hint": "text"}
        if column.kind == "image":
            return {**made, "choices": (), "hint": "an image; without one, a plain one is sent"}
        if column.kind == "date":
            seen = days[column.name]
            first, last = dates.shown(seen.minimum), dates.shown(seen.maximum)
            return {**made, "choices": (), "hint": f"{first} to {last} in training"}
        seen = numbers[column.name]
        digits = ",.0f" if column.kind == "integer" else ",.6g"
        between = f"{seen.minimum:{digits}} to {seen.maximum:{digits}} in training"
        return {**made, "choices": (), "hint": "" if column.kind == "boolean" else between}

    return [field(column) for column in opened.manifest.schema.features]


def _metrics(manifest: Manifest) -> list[dict[str, str]]:
    """The measured numbers, each with its interval and what a constant guess reaches."""
    metrics = manifest.metrics
    intervals, baseline = metrics.get("intervals", {}), metrics.get("baseline", {})
    return [
        {
            "name": name.replace("_", " "),
            "value": f"{value:.4g}",
            "interval": "{:.4g} – {:.4g}".format(*intervals[name]) if name in intervals else "",
            "baseline": f"{baseline[name]:.4g}" if name in baseline else "",
        }
        for name, value in metrics.items()
        if isinstance(value, float)
    ]


def _size(settings: Mapping[str, Any]) -> Iterator[str]:
    """The model's name and its numbers; what another kind of model would read is left out."""
    for key, value in settings.items():
        if key == "name":
            yield str(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{key.replace('_', ' ')} {value:.4g}"


def _facts(manifest: Manifest, known: Statistics) -> dict[str, str]:
    about, size = manifest.metrics.get("about", {}), manifest.model.get("model", {})
    facts = {
        "Version": manifest.version,
        "Made": manifest.created.replace("T", " ").removesuffix("+00:00") + " UTC",
        "Task": manifest.task,
        "Predicts": manifest.schema.label.name,
        "Classes": ", ".join(manifest.classes or ()),
        "Trained on": f"{known.rows:,} rows",
        "Judged on": f"{about['rows']:,} rows ({about['split']})" if "rows" in about else "",
        "Model": ", ".join(_size(size)),
        "Base model": manifest.base_model or "",
        "Licence": manifest.licence or "",
    }
    return {name: text for name, text in facts.items() if text}
