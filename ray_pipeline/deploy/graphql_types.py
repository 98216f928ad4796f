"""The GraphQL types of one endpoint, made from its bundle's schema."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from graphql import (
    GraphQLArgument,
    GraphQLBoolean,
    GraphQLField,
    GraphQLFloat,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLString,
)

from ray_pipeline.bundle import Manifest
from ray_pipeline.deploy.graphql_names import field_names
from ray_pipeline.schema import Column

Fields = dict[str, GraphQLField]

# Values pass as they are; the check of rows says what is wrong with them, as for `predict`.
_INTEGER = GraphQLScalarType("Integer", description="A whole number of 64 bits; 5.0 is one.")
_SCALARS: dict[str, GraphQLInputType] = {
    "integer": _INTEGER,
    "number": GraphQLFloat,
    "boolean": GraphQLBoolean,
    "category": GraphQLScalarType(
        "Category", description="A text, or a number or boolean that stands for its text."
    ),
    "date": GraphQLScalarType(
        "Date", description="ISO 8601, or seconds since 1970; in UTC unless it says otherwise."
    ),
    "text": GraphQLString,
    "image": GraphQLScalarType("Image", description="An image file in base64."),
}
_WRITTEN = GraphQLScalarType(
    "Written", description="A value of the column, or a text that the job's cleaning reads."
)


def api(
    manifest: Manifest, predict: Callable[..., Any], read: Collection[str] = ()
) -> GraphQLSchema:
    """The schema.

    Args:
        predict: resolves `predict`: to a list of predictions with their `warnings`.
        read: columns whose texts the job's cleaning reads as numbers or dates.
    """
    rows = _needed(GraphQLList(_needed(_row(manifest, read))))
    predictions = GraphQLList(_needed(_prediction(manifest)))
    query = GraphQLObjectType(
        "Query",
        {
            "predict": GraphQLField(
                predictions,
                {"rows": GraphQLArgument(rows)},
                predict,
                description=f"Predicts `{manifest.schema.label.name}`, one for each row.",
            ),
            "card": GraphQLField(_needed(_card()), resolve=lambda *_: card(manifest)),
            "version": GraphQLField(_TEXT, resolve=lambda *_: manifest.version),
        },
    )
    return GraphQLSchema(query)


def card(manifest: Manifest) -> dict[str, Any]:
    """What the model is, how it was made and how good it is."""
    intervals = manifest.metrics.get("intervals") or {}
    baseline = manifest.metrics.get("baseline") or {}
    fields = field_names(manifest.schema)
    return {
        "name": manifest.name,
        "created": manifest.created,
        "task": manifest.task,
        "label": manifest.schema.label.name,
        "classes": manifest.classes,
        "baseModel": manifest.base_model,
        "licence": manifest.licence,
        "columns": [
            {"name": column.name, "kind": column.kind, "field": fields[column.name]}
            for column in manifest.schema.features
        ],
        "metrics": [
            {
                "name": name,
                "value": value,
                "interval": intervals.get(name),
                "baseline": baseline.get(name),
            }
            for name, value in manifest.metrics.items()
            if isinstance(value, float)
        ],
    }


def _row(manifest: Manifest, read: Collection[str]) -> GraphQLInputObjectType:
    def field(column: Column) -> GraphQLInputField:
        kind = _WRITTEN if column.name in read else _SCALARS[column.kind]
        described = f"The column `{column.name}` ({column.kind}); null means no value."
        return GraphQLInputField(kind, description=described, out_name=column.name)

    names = field_names(manifest.schema)
    return GraphQLInputObjectType(
        "Row", {names[column.name]: field(column) for column in manifest.schema.features}
    )


def _prediction(manifest: Manifest) -> GraphQLObjectType:
    warning = GraphQLObjectType(
        "Warning", {"where": GraphQLField(_TEXT), "message": GraphQLField(_TEXT)}
    )
    warnings = GraphQLField(
        _needed(GraphQLList(_needed(warning))),
        description="What is unlike the training rows in this one.",
    )
    return GraphQLObjectType("Prediction", {**_answer(manifest), "warnings": warnings})


def _answer(manifest: Manifest) -> Fields:
    if manifest.task == "retrieval":
        return {"vector": GraphQLField(_needed(GraphQLList(_NUMBER)))}
    if manifest.classes is None:
        return {"value": GraphQLField(_NUMBER)}
    share = GraphQLObjectType(
        "Share", {"label": GraphQLField(_TEXT), "probability": GraphQLField(_NUMBER)}
    )
    shares = GraphQLField(
        _needed(GraphQLList(_needed(share))), resolve=_shares, description="Of each class."
    )
    if manifest.thresholds is not None:
        found = GraphQLField(_needed(GraphQLList(_TEXT)), description="Those that the row has.")
        return {"labels": found, "probabilities": shares}
    return {
        "label": GraphQLField(_TEXT),
        "probability": GraphQLField(_NUMBER, description="Of the label."),
        "probabilities": shares,
    }


def _shares(prediction: dict[str, Any], _: Any) -> list[dict[str, Any]]:
    shares = prediction["probabilities"].items()
    return [{"label": label, "probability": share} for label, share in shares]


def _card() -> GraphQLObjectType:
    column = GraphQLObjectType(
        "Column",
        {
            "name": GraphQLField(_TEXT),
            "kind": GraphQLField(_TEXT),
            "field": GraphQLField(_TEXT, description="Its name in `Row`."),
        },
    )
    metric = GraphQLObjectType(
        "Metric",
        {
            "name": GraphQLField(_TEXT),
            "value": GraphQLField(_NUMBER),
            "interval": GraphQLField(GraphQLList(_NUMBER), description="The 95 % interval."),
            "baseline": GraphQLField(GraphQLFloat, description="What a constant guess reaches."),
        },
    )
    texts = ("name", "created", "task", "label")
    return GraphQLObjectType(
        "Card",
        {
            **{name: GraphQLField(_TEXT) for name in texts},
            "classes": GraphQLField(GraphQLList(_TEXT)),
            "baseModel": GraphQLField(GraphQLString),
            "licence": GraphQLField(GraphQLString),
            "columns": GraphQLField(_needed(GraphQLList(_needed(column)))),
            "metrics": GraphQLField(_needed(GraphQLList(_needed(metric)))),
        },
    )


def _needed(kind: Any) -> Any:
    return GraphQLNonNull(kind)


_TEXT: Any = _needed(GraphQLString)
_NUMBER: Any = _needed(GraphQLFloat)
