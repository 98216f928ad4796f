"""What OpenAPI says of an endpoint's routes besides `predict`."""

from __future__ import annotations

from typing import Any

from ray_pipeline.bundle import Manifest
from ray_pipeline.deploy import graphql_names
from ray_pipeline.job import Serve

_TEXT: dict[str, Any] = {"type": "string"}
_TEXT_OR_NULL: dict[str, Any] = {"type": ["string", "null"]}
_SECONDS: dict[str, Any] = {"type": "number", "description": "Seconds since 1970."}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_MS: dict[str, Any] = {"type": ["number", "null"], "minimum": 0}


def paths(
    name: str, manifest: Manifest, settings: Serve, example: dict[str, Any], errors: dict[int, str]
) -> dict[str, Any]:
    """The routes by path; `errors` says what each status means."""
    locked: dict[str, Any] = (
        {"security": [{"bearer": []}, {"header": []}]} if settings.auth == "key" else {}
    )
    told = {
        status: text
        for status, text in errors.items()
        if settings.auth == "key" or status not in (401, 403)
    }
    found: dict[str, Any] = {f"/{name}/health": {"get": _health(settings, told)}}
    if settings.graphql:
        made = _graphql(manifest, example, told)
        made["description"] = f"At most {settings.graphql.max_rows:,} rows."
        found[f"/{name}/graphql"] = {"post": locked | made}
    if settings.log and settings.auth == "key":
        found[f"/{name}/feedback"] = {"post": locked | _feedback(manifest, settings, told)}
    if settings.jobs:
        found[f"/{name}/jobs"] = {"post": locked | _submit(settings, told)}
        number = {"name": "id", "in": "path", "required": True}
        parameter = number | {"schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"}}
        found[f"/{name}/jobs/{{id}}"] = {
            "parameters": [parameter],
            "get": locked | _job("job", "How a job is, and its predictions", told),
            "delete": locked | _job("deleteJob", "Stop a job and remove it", told),
        }
    return found


def schemas(settings: Serve) -> dict[str, Any]:
    """The schemas that they name."""
    health = {
        **{"name": _TEXT, "version": _TEXT, "since": _TEXT},
        **{"requests": _COUNT, "refused": _COUNT, "failed": _COUNT, "in_flight": _COUNT},
        **{"p50_ms": _MS, "p99_ms": _MS},
    }
    found: dict[str, Any] = {"Health": _object(health)}
    if settings.graphql:
        extensions = _object({"code": _TEXT, "where": _TEXT})
        error = _object({"message": _TEXT, "extensions": extensions})
        errors = {"type": "array", "minItems": 1, "items": error}
        found["GraphQLErrors"] = _object({"errors": errors})
        found["GraphQL"] = {
            "type": "object",
            "minProperties": 1,
            "properties": {"data": {"type": "object"}, "errors": errors},
            "additionalProperties": False,
        }
    if settings.log and settings.auth == "key":
        found["Accepted"] = _object({"accepted": _COUNT})
    if settings.jobs:
        job = {"id": _TEXT, "created": _SECONDS, "expires": _SECONDS}
        states = ["waiting", "running", "done", "failed", "deleted"]
        found["Job"] = _object({**job, "status": {"type": "string", "enum": states}})
        found["Job"]["description"] = "When it is over, with all that Response or Error has."
    return found


def _health(settings: Serve, errors: dict[int, str]) -> dict[str, Any]:
    locked = settings.metrics == "key"
    return {
        "operationId": "health",
        "summary": "How the replica that answers does",
        **({"security": [{"bearer": []}, {"header": []}]} if locked else {}),
        "responses": {
            "200": _answer("Requests since it began; the times are of the latest 1,000.", "Health"),
            **_errors(errors, (*((401, 403, 429) if locked else ()), 431, 500, 503)),
        },
    }


def _graphql(manifest: Manifest, example: dict[str, Any], errors: dict[int, str]) -> dict[str, Any]:
    fields = {"retrieval": "vector", "regression": "value"}.get(
        manifest.task, "label probability probabilities { label probability }"
    )
    request = {
        "type": "object",
        "required": ["query"],
        "properties": {
            "query": _TEXT,
            "variables": {"type": ["object", "null"]},
            "operationName": _TEXT_OR_NULL,
        },
    }
    shown = graphql_names.example(manifest.schema, example, fields)
    wrong = {
        status: answer
        for status, answer in _errors(errors, tuple(errors), "GraphQLErrors").items()
        if status != "422"
    }
    return {
        "operationId": "graphql",
        "summary": "The same by GraphQL",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request, "example": shown}},
        },
        "responses": {
            "200": _answer("The data, or what is wrong with the query or its rows.", "GraphQL"),
            **wrong,
            "422": _answer("JSON, but not such a request.", "GraphQLErrors"),
        },
    }


def _feedback(manifest: Manifest, settings: Serve, errors: dict[int, str]) -> dict[str, Any]:
    label: dict[str, Any] = {"type": "number"}
    if manifest.classes is not None and manifest.thresholds is not None:
        label = {**_TEXT, "description": "The row's labels, with `|` between them."}
    elif manifest.classes is not None:
        label = {"type": "string", "enum": list(manifest.classes)}
    number = {**_TEXT, "minLength": 32, "maxLength": 32}
    place = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1, "default": 0}
    one = _object({"id": {**number, "description": "An answer's."}, "label": label})
    one["properties"]["row"] = {**place, "description": "The row of that request."}
    some = {"type": "array", "maxItems": settings.max_rows, "items": one}
    for each in (one, request := _object({"feedback": some})):
        each["additionalProperties"] = False
    return {
        "operationId": "feedback",
        "summary": "Tell what turned out to be true",
        "description": "Of answers that had an `id`. A key needs the scope `feedback`.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "202": _answer("They are kept, or will be in some seconds.", "Accepted"),
            **_errors(errors, tuple(errors)),
        },
    }


def _submit(settings: Serve, errors: dict[int, str]) -> dict[str, Any]:
    assert settings.jobs is not None, "described where there are jobs"
    jobs = settings.jobs
    accepted = _answer("It is kept, and predicted when its turn comes.", "Job")
    accepted["headers"] = {"Location": {"schema": _TEXT, "description": "Where the job is."}}
    accepted["links"] = {
        "job": {"operationId": "job", "parameters": {"id": "$response.body#/id"}},
        "delete": {"operationId": "deleteJob", "parameters": {"id": "$response.body#/id"}},
    }
    described = (
        f"A body as `predict` takes it, of at most {jobs.max_rows:,} rows and "
        f"{jobs.max_bytes:,} bytes. Its rows are checked when they are predicted."
    )
    return {
        "operationId": "submitJob",
        "summary": "Predict many rows later",
        "description": described,
        "requestBody": {"required": True, "content": {"application/json": {"schema": {}}}},
        "responses": {
            "202": accepted,
            **_errors(errors, (401, 403, 408, 413, 415, 429, 431, 500, 503)),
        },
    }


def _job(operation: str, summary: str, errors: dict[int, str]) -> dict[str, Any]:
    found = _answer("A job of this key.", "Job")
    statuses = {404: "No job of this key, or it has expired.", **errors}
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {"200": found, **_errors(statuses, (401, 403, 404, 429, 431, 500, 503))},
    }


def _errors(errors: dict[int, str], some: tuple[int, ...], schema: str = "Error") -> dict[str, Any]:
    return {str(status): _answer(text, schema) for status, text in errors.items() if status in some}


def _answer(text: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": text, "content": content}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}
