"""Texts as TF-IDF: how often a row has each term, rare terms counting more, of length 1.

A word is a run of two or more letters, marks, digits and underscores, in lower case, by Unicode;
a term is one word or several in a row. Weights are scikit-learn's TfidfVectorizer's: a term in d of
n training rows counts log((1 + n) / (1 + d)) + 1 each time it occurs, and a row is divided by its
Euclidean norm. Terms are chosen by the number of rows that have them.

In the graph StringNormalizer, ONNX Runtime's Tokenizer and TfIdfVectorizer do the same. Lower case
is that of the locale C.UTF-8 there, which every glibc has, and utf8proc's here; they differ in
letters that newer versions of Unicode add. Norms may differ by a rounding of the float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data.encoders.build import RUNTIME, Build
from ray_pipeline.data.statistics import TextStatistics
from ray_pipeline.data.summary import MOST_VALUES, Counts
from ray_pipeline.job.features import ColumnFeatures

_LETTERS = r"\pL\pM\pN_"
_SHORTEST = 2
_LOCALE = "C.UTF-8"


def documents(texts: pa.ChunkedArray, ngrams: int) -> Counts:
    """In how many of `texts` each term stands; mergeable."""
    rows, words = _words(texts)
    counts: Counter[str] = Counter()
    for length in range(1, ngrams + 1):
        at, terms = _terms(rows, words, length)
        encoded = terms.dictionary_encode()
        size = max(len(encoded.dictionary), 1)
        pairs = np.unique(at * size + encoded.indices.to_numpy())
        found = pa.array(np.bincount(pairs % size, minlength=size))
        most = pc.select_k_unstable(found, MOST_VALUES, [("", "descending")])
        if len(terms):
            names, often = encoded.dictionary.take(most), found.take(most)
            counts.update(dict(zip(names.to_pylist(), often.to_pylist(), strict=True)))
    return Counts(counts, texts.null_count)


def fitted(
    name: str, found: Counts, rows: int, settings: ColumnFeatures, min_count: int
) -> TextStatistics:
    """The most frequent terms, equals in the order of their texts."""
    often = [pair for pair in found.ranked() if pair[1] >= min_count][: settings.terms]
    often.sort(key=lambda pair: pair[0].count(" "))  # stable: by rank within a length
    return TextStatistics(
        name=name,
        missing=found.missing,
        rows=rows,
        terms=tuple(term for term, _ in often),
        documents=tuple(count for _, count in often),
    )


def weights(column: TextStatistics) -> NDArray[np.float32]:
    """What one occurrence of each term counts, [terms]."""
    documents = np.array(column.documents, np.float64)
    rarity = np.log((1 + column.rows) / (1 + documents)) + 1
    return rarity.astype(np.float32)


def encoding(column: TextStatistics) -> Callable[[pa.ChunkedArray], NDArray[np.float32]]:
    """A function from texts [N] to their terms' weights [N, terms]."""
    known, weight = pa.array(column.terms, pa.string()), weights(column)
    longest = _longest(column)

    def encoded(texts: pa.ChunkedArray) -> NDArray[np.float32]:
        rows, words = _words(texts)
        places = [_places(*_terms(rows, words, length), known) for length in range(1, longest + 1)]
        flat, often = np.unique(np.concatenate(places), return_counts=True)
        row, term = np.divmod(flat, len(known))
        values = often.astype(np.float32) * weight[term]
        squares = np.bincount(row, np.square(values, dtype=np.float64), minlength=len(texts))
        matrix = np.zeros((len(texts), len(known)), np.float32)
        matrix[row, term] = values / np.sqrt(squares).astype(np.float32)[row]
        return matrix

    return encoded


def _longest(column: TextStatistics) -> int:
    """Words of the longest term."""
    return column.terms[-1].count(" ") + 1


def _places(rows: NDArray[np.int64], terms: pa.Array, known: pa.Array) -> NDArray[np.int64]:
    """Of each term that is known, its row and place as one number."""
    found = pc.index_in(terms, known)
    there = pc.is_valid(found).to_numpy(zero_copy_only=False)
    places: NDArray[np.int64] = rows[there] * len(known) + found.drop_null().to_numpy()
    return places


def _words(texts: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array]:
    """All words of all texts, and the row that each stands in."""
    lower = pc.utf8_lower(pc.fill_null(texts, "")).combine_chunks()
    split = pc.split_pattern_regex(lower, rf"[^{_LETTERS}]+")
    words = split.flatten()
    long = pc.greater_equal(pc.utf8_length(words), _SHORTEST)
    rows = pc.list_parent_indices(split).filter(long).to_numpy().astype(np.int64)
    return rows, words.filter(long)


def _terms(
    rows: NDArray[np.int64], words: pa.Array, length: int
) -> tuple[NDArray[np.int64], pa.Array]:
    """All runs of `length` words of one row, joined by a space, and their rows."""
    if length == 1:
        return rows, words
    starts = len(words) - length + 1
    if starts <= 0:
        return rows[:0], words[:0]
    parts = [words.slice(offset, starts) for offset in range(length)]
    whole = rows[:starts] == rows[length - 1 :]
    return rows[:starts][whole], pc.binary_join_element_wise(*parts, " ").filter(pa.array(whole))


def encoded_node(build: Build, column: TextStatistics) -> str:
    """Each text's terms' weights, [N, terms] float.

    An empty text is put before the others and taken off again: Tokenizer gives no rows for no
    texts another shape than for some.
    """
    padded = build.node("Concat", build.constant([""], object), column.name, axis=0)
    lower = build.node("StringNormalizer", padded, case_change_action="LOWER", locale=_LOCALE)
    words = build.node(
        "Tokenizer",
        lower,
        domain=RUNTIME,
        mark=0,
        mincharnum=_SHORTEST,
        pad_value="",
        tokenexp=f"[{_LETTERS}]+",
    )
    lengths = [term.count(" ") + 1 for term in column.terms]
    longest = max(lengths)
    counts = build.node(
        "TfIdfVectorizer",
        words,
        mode="TF",
        min_gram_length=1,
        max_gram_length=longest,
        max_skip_count=0,
        ngram_counts=np.cumsum([0, *(n * lengths.count(n) for n in range(1, longest))]).tolist(),
        ngram_indexes=list(range(len(column.terms))),
        pool_strings=[word for term in column.terms for word in term.split(" ")],
    )
    bounds = [build.constant([bound], np.int64) for bound in (1, np.iinfo(np.int64).max)]
    rows = build.node("Slice", counts, *bounds, build.constant([0], np.int64))
    values = build.node("Mul", rows, build.constant(weights(column), np.float32))
    norm = build.node("ReduceL2", values, build.constant([1], np.int64), keepdims=1)
    # Any term counts at least 1, so that a smaller norm is that of no term.
    return build.node("Div", values, build.node("Max", norm, build.constant(1.0, np.float32)))
