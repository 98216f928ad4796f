"""`POST /NAME/graphql`: the predictions of `predict` as a typed query.

It follows https://graphql.github.io/graphql-over-http: what is wrong with the request itself has
the HTTP status that it has elsewhere, what is wrong with the query or its rows is in `errors`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import graphql
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLResolveInfo,
    MaxIntrospectionDepthRule,
    NoSchemaIntrospectionCustomRule,
    specified_rules,
)

from ray_pipeline.deploy import asgi, graphql_bounds, graphql_types
from ray_pipeline.deploy.auth import Headers
from ray_pipeline.deploy.graphql_names import field_names
from ray_pipeline.deploy.predictions import Predictions
from ray_pipeline.deploy.protocol import decoded
from ray_pipeline.errors import RequestError
from ray_pipeline.job.routes import GraphQL

_RESPONSE = b"application/graphql-response+json"
_KEPT = 16  # parsed documents, of a megabyte at most: clients send the same query again and again
_IN_VARIABLE = re.compile(r"got invalid value .* at '([^']+)'; ", re.DOTALL)
_AT_ROW = re.compile(r"(rows\[\d+\]\.)(.+)", re.DOTALL)


@dataclass(slots=True)
class _Asked:
    """One request while it is answered."""

    document: DocumentNode
    rows: int = 0
    values: int = 0


class Api:
    """Answers queries.

    Args:
        predictions: the model.
        settings: the job's `serve.graphql`.
    """

    def __init__(self, predictions: Predictions, settings: GraphQL) -> None:
        manifest = predictions.manifest
        self._predictions, self._settings = predictions, settings
        self._names = field_names(manifest.schema)
        self._many = dict.fromkeys(("labels", "probabilities"), len(manifest.classes or ()))
        self._types = graphql_types.api(manifest, self._predict, predictions.protocol.read)
        rule = MaxIntrospectionDepthRule if settings.introspection else None
        self._rules = [*specified_rules, rule or NoSchemaIntrospectionCustomRule]
        self._document = lru_cache(_KEPT)(self._checked)

    async def answer(self, body: bytes, headers: Headers) -> asgi.Response:
        """The response to a request.

        Raises:
            RequestError: 400 not JSON; 413 too many rows; 422 not such a request.
            Exception: any fault of ours.
        """
        request = _request(decoded(body))
        self._check_rows(_longest(request["variables"]))
        asked: _Asked | None = None
        document = self._document(request["query"])
        if isinstance(document, DocumentNode):
            asked = _Asked(document)
            result = await self._executed(asked, request)
        else:
            result = ExecutionResult(None, document)
        for error in result.errors or ():
            fault = error.original_error
            # Without a path it is the caller's: what a value could not be read for.
            if error.path and fault and not isinstance(fault, GraphQLError | RequestError):
                raise fault
        return self._response(result, headers, asked.rows if asked else 0)

    async def _executed(self, asked: _Asked, request: dict[str, Any]) -> ExecutionResult:
        result = graphql.execute(
            self._types,
            asked.document,
            context_value=asked,
            variable_values=request["variables"],
            operation_name=request["operationName"],
            max_coercion_errors=5,
        )
        if isinstance(result, ExecutionResult):
            return result
        return await result

    def _checked(self, query: str) -> DocumentNode | list[GraphQLError]:
        """The document, or what is wrong with it."""
        try:
            document = graphql_bounds.parsed(query)
        except GraphQLError as error:
            return [error]
        return graphql.validate(self._types, document, self._rules, max_errors=5) or document

    async def _predict(
        self, _: Any, info: GraphQLResolveInfo, rows: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        asked: _Asked = info.context
        asked.rows += len(rows)
        self._check_rows(asked.rows)
        for node in info.field_nodes:
            assert node.selection_set is not None, "validated: a prediction has fields"
            found = graphql_bounds.fragments(asked.document)
            width = graphql_bounds.values(node.selection_set, found, self._many)
            asked.values += len(rows) * width
        if asked.values > graphql_bounds.MAX_VALUES:
            raise RequestError(
                f"the answer would have {asked.values} values",
                status=413,
                code="too_many_values",
                where="rows",
                expected=f"at most {graphql_bounds.MAX_VALUES}: fewer rows, or fewer fields",
            )
        if not rows:
            raise RequestError(
                "expected at least one row", status=422, code="invalid_request", where="rows"
            )
        predicted = await self._predictions.of(await self._predictions.checked(rows))
        answers = [{**prediction, "warnings": []} for prediction in predicted.predictions]
        for flag in predicted.flags:
            where = self._where(flag.where)
            answers[flag.row]["warnings"].append({"where": where, "message": flag.why})
        return answers

    def _check_rows(self, count: int) -> None:
        if count > self._settings.max_rows:
            raise RequestError(
                f"expected at most {self._settings.max_rows} rows, found {count}",
                status=413,
                code="too_many_rows",
                where="rows",
            )

    def _response(self, result: ExecutionResult, headers: Headers, rows: int) -> asgi.Response:
        answer: dict[str, Any] = {}
        if result.errors:
            answer["errors"] = [self._told(error) for error in result.errors]
        if result.data is not None or not result.errors:
            answer["data"] = result.data
        new = any(name == b"accept" and _RESPONSE in value for name, value in headers)
        content_type = (b"content-type", _RESPONSE if new else b"application/json")
        status = 400 if new and result.data is None and result.errors else 200
        told = (content_type, *asgi.PLAIN_HEADERS)
        return asgi.Response(status, asgi.encoded(answer), told, rows if result.data else 0)

    def _told(self, error: GraphQLError) -> dict[str, Any]:
        """An error in GraphQL's form, with our code and where in `extensions`."""
        found = error.original_error
        if isinstance(found, RequestError):
            message = f"{found.what}; expected {found.expected}" if found.expected else found.what
            code, where = found.code, self._where(found.where)
        else:
            in_variable = _IN_VARIABLE.search(error.message)
            message, where = error.message, in_variable[1] if in_variable else ""
            code = "invalid_request" if in_variable else "invalid_query"
        return {
            **error.formatted,
            "message": message,
            "extensions": {"code": code, "where": where},
        }

    def _where(self, where: str) -> str:
        """A place with the column's name in GraphQL."""
        found = _AT_ROW.fullmatch(where)
        return found[1] + self._names.get(found[2], found[2]) if found else where


def _request(document: Any) -> dict[str, Any]:
    """A request's `query`, `variables` and `operationName`; raises RequestError: 422."""
    if not isinstance(document, dict) or not isinstance(document.get("query"), str):
        raise _misshapen('expected {"query": text, "variables": {…}}', "query")
    request = {name: document.get(name) for name in ("query", "variables", "operationName")}
    if not isinstance(request["variables"], dict | None):
        raise _misshapen("expected an object", "variables")
    if not isinstance(request["operationName"], str | None):
        raise _misshapen("expected a text", "operationName")
    return request


def _longest(variables: dict[str, Any] | None) -> int:
    """Rows in the variable with most; none is looked at before their number is known."""
    lists = (value for value in (variables or {}).values() if isinstance(value, list))
    return max(map(len, lists), default=0)


def _misshapen(what: str, where: str) -> RequestError:
    return RequestError(what, status=422, code="invalid_request", where=where)
