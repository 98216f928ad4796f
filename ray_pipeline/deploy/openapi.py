"""OpenAPI 3.1 of an endpoint, made from the schema of the bundle that it serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_pipeline.bundle import Manifest
from ray_pipeline.data import dates
from ray_pipeline.data.steps import serving
from ray_pipeline.deploy import bodies, openapi_routes
from ray_pipeline.deploy.asgi import encoded
from ray_pipeline.job import Serve
from ray_pipeline.schema import Column

_JSON_TYPES: dict[str, list[str]] = {
    "integer": ["integer", "null"],
    "number": ["number", "null"],
    "boolean": ["boolean", "null"],
    "category": ["string", "number", "boolean", "null"],
    "date": ["string", "number", "null"],
    "text": ["string", "null"],
    "image": ["string", "null"],
}
_BOUNDS: dict[str, dict[str, Any]] = {
    "integer": {"minimum": -(2**63), "maximum": 2**63 - 1},
    # Not a minimum and maximum: a decimal a little beyond the largest double is rounded to it.
    **{kind: {"format": "double"} for kind in ("number", "category", "date")},
}
_ID = {"type": "string", "description": "Labels are told by it; absent if it was not logged."}
_MEANINGS = {
    "date": "A date or time, ISO 8601 or seconds since 1970, in UTC unless it says otherwise; ",
    "image": "An image file (JPEG, PNG, WebP, …) in base64; ",
}
_ERRORS = {
    400: "The body is not JSON.",
    401: "No API key.",
    403: "The API key is wrong, has expired, or does not open this.",
    408: "The body did not come in time.",
    413: "More rows or bytes than a request may have.",
    415: "The body is compressed.",
    422: "JSON, but not such rows: `where` names the row and the column.",
    429: "Too many requests, of this key or of all; `Retry-After` says when to try again.",
    431: "Too many headers.",
    500: "The server failed; its log says more under the id in the message.",
    503: "Not ready, or ending.",
}


def document(name: str, manifest: Manifest, settings: Serve, example: dict[str, Any]) -> bytes:
    """The OpenAPI document of the endpoint `name`, as JSON."""
    return encoded(_document(name, manifest, settings, example))


def _document(
    name: str, manifest: Manifest, settings: Serve, example: dict[str, Any]
) -> dict[str, Any]:
    schemas: dict[str, Any] = {
        "Row": _row(manifest, example, settings.online.columns if settings.online else ()),
        "Request": {
            "type": "object",
            "additionalProperties": False,
            "required": ["rows"],
            "properties": {
                "rows": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": settings.max_rows,
                    "items": {"$ref": "#/components/schemas/Row"},
                }
            },
        },
        "Prediction": _prediction(manifest),
        "Response": {
            "type": "object",
            "required": ["predictions", "version"],
            "properties": {
                "predictions": {
                    "type": "array",
                    "description": "One for each row, in the rows' order.",
                    "items": {"$ref": "#/components/schemas/Prediction"},
                },
                "version": {"type": "string", "description": "The model that answered."},
                **({"id": _ID} if settings.log else {}),
                **({"warnings": _warnings()} if settings.guard == "flag" else {}),
            },
        },
        "Error": _error(),
        **openapi_routes.schemas(settings),
    }
    components: dict[str, Any] = {"schemas": schemas}
    if settings.auth == "key":
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": name,
            "version": manifest.version,
            "description": f"Predicts `{manifest.schema.label.name}` ({manifest.task}).",
        },
        "paths": {
            f"/{name}/predict": {"post": _predict(manifest, settings, example)},
            **openapi_routes.paths(name, manifest, settings, example, _ERRORS),
        },
        "components": components,
    }


def _predict(manifest: Manifest, settings: Serve, example: dict[str, Any]) -> dict[str, Any]:
    answers = {
        str(status): {"description": text, "content": _content("Error")}
        for status, text in _ERRORS.items()
        if settings.auth == "key" or status not in (401, 403)
    }
    return {
        "operationId": "predict",
        "summary": "Predict rows",
        "description": f"At most {settings.max_rows:,} rows and {settings.max_bytes:,} bytes.",
        **({"security": [{"bearer": []}, {"header": []}]} if settings.auth == "key" else {}),
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Request"},
                    "example": {"rows": [example]},
                },
                **bodies.described(manifest.schema),
            },
        },
        "responses": {
            "200": {"description": "The predictions.", "content": _content("Response")},
            **answers,
        },
    }


def _row(manifest: Manifest, example: dict[str, Any], stored: Sequence[str] = ()) -> dict[str, Any]:
    """A row's schema; `stored` are the columns that the online store has where a row lacks them."""
    others = [column for column in manifest.schema if column.role != "feature"]
    read = serving.readers(manifest.cleaning, manifest.schema)
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [c.name for c in manifest.schema.features if c.name not in stored],
        "properties": {
            **{
                column.name: _property(column, example[column.name], as_text=column.name in read)
                for column in manifest.schema.features
            },
            **{column.name: {"description": "Not looked at."} for column in others},
        },
    }


def _property(column: Column, example: Any, as_text: bool) -> dict[str, Any]:
    """`as_text`: a text is read, too, by the job's `units`, `dates` or `replace`."""
    bounds = _BOUNDS.get(column.kind, {})
    encoding = {"format": "byte", "contentEncoding": "base64"} if column.kind == "image" else {}
    form = {"pattern": dates.ISO} if column.kind == "date" and not as_text else {}
    return {
        "type": list(dict.fromkeys([*_JSON_TYPES[column.kind], *["string"] * as_text])),
        **bounds,
        **encoding,
        **form,
        "description": f"{_MEANINGS.get(column.kind, '')}null means no value.",
        "examples": [example],
    }


def _prediction(manifest: Manifest) -> dict[str, Any]:
    if manifest.task == "retrieval":
        numbers = {"type": "array", "items": {"type": "number"}, "description": "Of length 1."}
        return {"type": "object", "required": ["vector"], "properties": {"vector": numbers}}
    if manifest.classes is None:
        return {
            "type": "object",
            "required": ["value"],
            "properties": {"value": {"type": "number"}},
        }
    share = {"type": "number", "minimum": 0, "maximum": 1}
    label = {"type": "string", "enum": list(manifest.classes)}
    probabilities = {
        "type": "object",
        "additionalProperties": False,
        "required": list(manifest.classes),
        "properties": dict.fromkeys(manifest.classes, share),
    }
    properties: dict[str, Any] = {
        "label": label,
        "probability": {**share, "description": "Of the label."},
        "probabilities": probabilities,
    }
    if manifest.thresholds is not None:
        meaning = "All that the row has, in the classes' order; none if no label fits."
        labels = {"type": "array", "uniqueItems": True, "items": label, "description": meaning}
        properties = {"labels": labels, "probabilities": probabilities}
    return {"type": "object", "required": list(properties), "properties": properties}


def _warnings() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "array",
        "description": "Values unlike the training rows'; absent if there are none.",
        "items": {
            "type": "object",
            "required": ["where", "message"],
            "properties": {"where": text, "message": text},
        },
    }


def _error() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "where"],
                "properties": {"code": text, "message": text, "where": text},
            }
        },
    }


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
