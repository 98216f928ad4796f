"""Which rows to ask about: where a model is unsure, and far from each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.schema import Column

TERMS = 2**12
"""Columns that the words of a text are hashed to."""
VALUES = 50
"""Different values of a category that count; rarer ones are one."""


def uncertainty(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - (p₁ - p₂) [N] of the two likeliest classes in `chances` [N, K]: 1 where they are equally
    likely, 0 where one is certain.

    Margin sampling: Scheffer, Decomain & Wrobel (2001), "Active hidden Markov models".
    """
    if chances.shape[1] < 2:
        return np.ones(len(chances))
    best = np.sort(chances, 1)[:, -2:]
    margin: NDArray[np.float64] = 1 - (best[:, 1] - best[:, 0])
    return margin


def spread(vectors: Any, count: int, done: NDArray[np.bool_]) -> list[int]:
    """The indices of `count` rows of `vectors` [N, F], dense or sparse, that lie far apart and far
    from those `done`: each is the one farthest from all before it.

    Greedy k-centre, Gonzalez (1985), for choosing what to label as in Sener & Savarese (2018),
    "Active learning for convolutional neural networks: a core-set approach", algorithm 1. The
    first is row 0 if nothing is done. O(N · count).
    """
    squares = _squares(vectors)
    nearest = np.full(len(squares), np.inf)
    for index in np.flatnonzero(done).tolist():
        np.minimum(nearest, _distances(vectors, squares, index), out=nearest)
    nearest[done] = -1.0
    chosen: list[int] = []
    while len(chosen) < min(count, int((~done).sum())):
        index = int(nearest.argmax())
        chosen.append(index)
        np.minimum(nearest, _distances(vectors, squares, index), out=nearest)
        nearest[index] = -1.0
    return chosen


def vectors(rows: pa.Table, columns: list[Column]) -> Any:
    """Rows as sparse vectors [N, F] in which every column weighs about alike.

    Numbers and dates are standardised, categories one-hot, texts hashed TF-IDF, images 8×8 grey.
    """
    from scipy.sparse import csr_matrix, hstack

    blocks = [_block(rows[column.name], column) for column in columns]
    return hstack(blocks or [csr_matrix((len(rows), 1))]).tocsr()


def _block(values: pa.ChunkedArray, column: Column) -> Any:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.preprocessing import OneHotEncoder

    if column.kind == "text":
        texts = pc.fill_null(values, "").to_pylist()
        hashed = HashingVectorizer(n_features=TERMS, alternate_sign=False).transform(texts)
        return TfidfTransformer(sublinear_tf=True).fit_transform(hashed)
    if column.kind == "image":
        return csr_matrix(np.stack([_thumbnail(content) for content in values.to_pylist()]))
    if column.kind in ("category", "boolean"):
        texts = pc.fill_null(pc.cast(values, pa.string()), "").to_numpy()[:, None]
        return OneHotEncoder(max_categories=VALUES).fit_transform(texts.astype(object))
    whole = pc.cast(values, pa.int64()) if column.kind == "date" else values
    numbers = pc.cast(whole, pa.float64(), safe=False).to_numpy()
    finite = np.isfinite(numbers)
    deviation = numbers[finite].std() if finite.any() else 0.0
    if not deviation:
        return csr_matrix((len(numbers), 1))
    scaled = np.where(finite, (numbers - numbers[finite].mean()) / deviation, 0.0)
    return csr_matrix(np.clip(scaled, -3, 3)[:, None])  # one far value is not all that counts


def _thumbnail(content: bytes | None) -> NDArray[np.float64]:
    """An image's 64 grey pixels as a vector of length 1; zeros where there is none."""
    import io

    from PIL import Image

    if content is None:
        return np.zeros(64)
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("L").resize((8, 8)), np.float64).ravel()
    length = float(np.linalg.norm(pixels))
    return pixels / length if length else pixels


def _squares(vectors: Any) -> NDArray[np.float64]:
    """The squared lengths [N] of dense or sparse rows."""
    squares = vectors.multiply(vectors) if hasattr(vectors, "multiply") else vectors * vectors
    found: NDArray[np.float64] = np.asarray(squares.sum(axis=1), np.float64).ravel()
    return found


def _distances(vectors: Any, squares: NDArray[np.float64], index: int) -> NDArray[np.float64]:
    """Squared distances [N] to the row `index`."""
    row = vectors[index]
    products = vectors @ (row.toarray().ravel() if hasattr(row, "toarray") else row)
    found: NDArray[np.float64] = np.maximum(squares - 2 * products + squares[index], 0.0)
    return found
