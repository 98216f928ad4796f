"""The texts of requests and of files, as the tokens that a bundle's graph reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.bundle import Bundle
from ray_pipeline.data.encoders.tokens import FILE, tokenizing
from ray_pipeline.data.matrices import PADDING
from ray_pipeline.data.statistics import TokenStatistics

Columns = dict[str, NDArray[Any]]
Run = Callable[[Columns], NDArray[Any]]

CHUNK = 32
"""Texts that are read at a time, of about one length."""


def tokens_of(bundle: Bundle) -> TokenStatistics | None:
    """What the network knows of its text column, if it reads one as tokens."""
    found = (bundle.manifest.model.get("inputs") or {}).get("tokens")
    if not found:
        return None
    content = (bundle.path / FILE).read_text(encoding="utf-8")
    return TokenStatistics.model_validate({**found, "tokenizer": content})


def reading(run: Run, column: TokenStatistics | None) -> Run:
    """`run`, which takes tokens [N, T] for a column, as a function that takes its texts [N].

    Texts of about one length go through the graph together, few at a time: what they need of
    memory and time follows the longest. Their outputs [N, …] come in the order of the texts.
    """
    if column is None:
        return run
    tokenize, name = tokenizing(column), column.name

    def read(columns: Columns) -> NDArray[Any]:
        texts = tokenize(columns[name])
        order = np.argsort([len(each) for each in texts], kind="stable")
        parts = [
            run({other: columns[other][places] for other in columns if other != name} | made)
            for places, made in _chunks(texts, order, name)
        ]
        outputs = np.concatenate(parts)
        outputs[order] = outputs.copy()
        return outputs

    return read


def _chunks(
    texts: list[list[int]], order: NDArray[np.int64], name: str
) -> Iterator[tuple[NDArray[np.int64], Columns]]:
    for start in range(0, len(order) or 1, CHUNK):
        places = order[start : start + CHUNK]
        # Two tokens at least: a graph may have been made for more than one.
        longest = max((len(texts[place]) for place in places), default=0)
        matrix = np.full((len(places), max(longest, 2)), PADDING, np.int64)
        for row, place in enumerate(places):
            matrix[row, : len(texts[place])] = texts[place]
        yield places, {name: matrix}
