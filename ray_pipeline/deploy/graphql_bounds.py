"""How much one GraphQL query may ask for, found before any of it is done.

A query is a small text that can stand for a large tree: aliases ask for a field again, and
fragments double what they hold at each level. It is counted here as it would be answered.
"""

from __future__ import annotations

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    parse,
)

MAX_CHARACTERS = 20_000
MAX_TOKENS = 2_000
MAX_FIELDS = 250
"""The query that tools send for all types has 150."""
MAX_DEPTH = 15
MAX_VALUES = 10_000
"""In an answer's predictions."""

Fragments = dict[str, FragmentDefinitionNode]


def parsed(query: str) -> DocumentNode:
    """The document in `query`. Raises GraphQLError where it is none, or asks for too much."""
    if len(query) > MAX_CHARACTERS:
        raise GraphQLError(
            f"the query has {len(query)} characters; expected at most {MAX_CHARACTERS}: "
            "rows go into `variables`"
        )
    document = parse(query, max_lexical_tokens=MAX_TOKENS, max_comments=MAX_TOKENS)
    known: dict[str, tuple[int, int]] = {}
    found = fragments(document)
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            fields, depth = _size(definition.selection_set, found, known, ())
            if fields > MAX_FIELDS:
                raise GraphQLError(f"the query has {fields} fields; expected at most {MAX_FIELDS}")
            if depth > MAX_DEPTH:
                raise GraphQLError(f"the query is {depth} deep; expected at most {MAX_DEPTH}")
    return document


def fragments(document: DocumentNode) -> Fragments:
    """The document's fragments by name."""
    return {
        definition.name.value: definition
        for definition in document.definitions
        if isinstance(definition, FragmentDefinitionNode)
    }


def values(selected: SelectionSetNode, found: Fragments, many: dict[str, int]) -> int:
    """How many values are in an answer with these fields; `many` says how long lists are."""
    total = 0
    for node in selected.selections:
        if isinstance(node, FieldNode):
            inside = values(node.selection_set, found, many) if node.selection_set else 0
            total += 1 + many.get(node.name.value, 1) * inside
        elif isinstance(node, InlineFragmentNode):
            total += values(node.selection_set, found, many)
        elif isinstance(node, FragmentSpreadNode):
            total += values(found[node.name.value].selection_set, found, many)
    return total


def _size(
    selected: SelectionSetNode,
    found: Fragments,
    known: dict[str, tuple[int, int]],
    inside: tuple[str, ...],
) -> tuple[int, int]:
    """Fields and depth of a selection with its fragments written out; each is looked at once."""
    fields, depth = 0, 0
    for node in selected.selections:
        if isinstance(node, FieldNode):
            below = (
                _size(node.selection_set, found, known, inside) if node.selection_set else (0, 0)
            )
            fields, depth = fields + 1 + below[0], max(depth, 1 + below[1])
            continue
        if isinstance(node, InlineFragmentNode):
            below = _size(node.selection_set, found, known, inside)
        elif isinstance(node, FragmentSpreadNode):
            below = _of_fragment(node.name.value, found, known, inside)
        fields, depth = fields + below[0], max(depth, below[1])
    return fields, depth


def _of_fragment(
    name: str, found: Fragments, known: dict[str, tuple[int, int]], inside: tuple[str, ...]
) -> tuple[int, int]:
    if name in inside:
        raise GraphQLError(f"the fragment {name} holds itself")
    if name not in found:
        return 0, 0  # validation names it
    if name not in known:
        known[name] = _size(found[name].selection_set, found, known, (*inside, name))
    return known[name]
