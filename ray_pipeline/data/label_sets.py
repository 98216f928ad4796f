"""Labels of which a row may have several: their names as one text, apart, counted, and as 0 and 1.

Read from a text with a separator between the names, or from a list, which for a file of texts is a
JSON list. Typed, it is a text again, its names sorted, each once: rows with the same labels are
equal. No names, an empty text or list, say that none applies; what is missing is null.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data.statistics import LabelStatistics
from ray_pipeline.errors import DataError
from ray_pipeline.schema import Column


def typed(texts: pa.Array | pa.ChunkedArray, separator: str) -> tuple[Any, Any]:
    """`texts` with their names sorted, and which of them do not fit (None: all do).

    A list does not fit if one of its names holds the separator, or is neither a text nor a number.
    """
    chunks = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    encoded = chunks.dictionary_encode()
    found = [_sorted(text, separator) for text in encoded.dictionary.to_pylist()]
    values = pa.array(found, pa.string()).take(encoded.indices)
    misfits = pc.and_(pc.is_valid(chunks), pc.is_null(values)) if None in found else None
    if isinstance(texts, pa.ChunkedArray):
        values = pa.chunked_array([values])
    return values, misfits


def _sorted(text: str, separator: str) -> str | None:
    listed = _listed(text)
    given = text.split(separator) if listed is None else listed
    if any(isinstance(name, bool) or not isinstance(name, str | int) for name in given):
        return None
    names = {str(name).strip() for name in given} - {""}
    if any(separator in name for name in names):
        return None
    return separator.join(sorted(names))


def _listed(text: str) -> list[Any] | None:
    """The items of a JSON list; None if the text is none."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, list) else None


def apart(texts: pa.ChunkedArray, separator: str) -> tuple[NDArray[np.int64], pa.Array]:
    """Every name that stands in typed texts [N], and before it the number of its row: [M] each."""
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    lists = pc.split_pattern(pc.fill_null(pc.cast(whole, pa.string()), ""), separator)
    rows, names = pc.list_parent_indices(lists), pc.list_flatten(lists)
    there = pc.not_equal(names, "")
    return rows.filter(there).to_numpy(zero_copy_only=False), names.filter(there)


def counted(texts: pa.ChunkedArray, separator: str) -> Counter[str]:
    """How many rows have each name."""
    found = pc.value_counts(apart(texts, separator)[1])
    names, counts = found.field("values").to_pylist(), found.field("counts").to_pylist()
    return Counter(dict(zip(names, counts, strict=True)))


def check_any(found: Collection[str], column: Column, source: str) -> None:
    """Raises DataError where no row of `source` has a label.

    One is enough: some rows have it. What the test file alone has, `hot` leaves out or refuses.
    """
    if not found:
        raise DataError(
            "no row has a label",
            where=f"{source}, column {column.name}",
            expected=f"names with `{column.separator}` between them, or lists of names",
            hint="check `data.label` and the column's `separator`",
        )


def fitted(
    column: Column, found: list[tuple[str, int]], rows: int, least: int, balanced: bool
) -> LabelStatistics:
    """The label of which a row may have several classes: those that at least so many of the `rows`
    have, as `found` counts them in sorted order.

    Where it is `balanced`, a class's presence counts as much more than its absence as it is rarer.
    Raises DataError where no class is left.
    """
    classes = [(name, count) for name, count in found if count >= least]
    if not classes:
        raise DataError(
            f"no label is that of {least:,} training rows or more",
            where=f"column {column.name}",
            hint="lower its `min_rows`, or give more rows",
        )
    weights = tuple(max(rows - count, 1) / count for _, count in classes) if balanced else ()
    return LabelStatistics(
        name=column.name,
        classes=tuple(name for name, _ in classes),
        counts=tuple(count for _, count in classes),
        separator=column.separator,
        min_rows=least,
        left_out=len(found) - len(classes),
        weights=weights,
    )


def hot(texts: pa.ChunkedArray, label: LabelStatistics) -> NDArray[np.uint8]:
    """[N, K], 1 where a row has the class.

    Raises:
        DataError: a name is no class, and the label does not leave out rare ones.
    """
    assert label.classes is not None, "labels have classes"
    assert label.separator is not None, "and a separator between them"
    rows, names = apart(texts, label.separator)
    index = pc.index_in(names, pa.array(label.classes, pa.string()))
    if index.null_count:
        if label.min_rows == 1:
            raise _strange(names.filter(pc.is_null(index))[0].as_py(), label)
        known = pc.is_valid(index)
        rows, index = rows[known.to_numpy(zero_copy_only=False)], index.filter(known)
    matrix = np.zeros((len(texts), len(label.classes)), np.uint8)
    matrix[rows, index.to_numpy()] = 1
    return matrix


def _strange(name: str, label: LabelStatistics) -> DataError:
    return DataError(
        f"the label `{name}` does not occur among the training rows",
        where=f"column {label.name}",
        expected=f"one of {', '.join((label.classes or ())[:10])}",
        hint=f"leave rare labels out, `columns: {{{label.name}: {{kind: labels, min_rows: 5}}}}`, "
        "or set another `data.split.seed`",
    )


def named(matrix: NDArray[Any], classes: tuple[str, ...]) -> list[list[str]]:
    """The names of the classes at which a row of the matrix [N, K] is not 0."""
    names = np.array(classes, dtype=object)
    return [names[row].tolist() for row in matrix.astype(bool)]
