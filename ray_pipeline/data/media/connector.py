"""CONNECTOR: how `collect` reads folders of documents, images and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from upath import UPath

from ray_pipeline.data import parts
from ray_pipeline.data.connectors import Connector
from ray_pipeline.data.media import documents, images, spans, thumbnail, video
from ray_pipeline.data.media.documents import Found
from ray_pipeline.data.media.found import (
    LABEL,
    File,
    Format,
    format_of,
    found_files,
    label_columns,
    label_rows,
)
from ray_pipeline.job import Data, Source
from ray_pipeline.schema import ARROW_TYPES, Kind

ASIDE = frozenset({"path", "page", "frame", "seconds", "segment", "width", "height"})
"""Columns that say which row it is; a model would learn them by heart."""
_BUNCH = 64
"""Small files that one task reads."""
_ROWS, _BYTES = 256, 32 << 20
"""A table is handed on when it has so many rows, or bytes in images."""


class Medium(NamedTuple):
    """The rows of a file, the kinds of their columns, and how many files one task reads."""

    rows: Callable[..., Iterator[Found]]
    kinds: dict[str, Kind]
    bunch: int


MEDIA: dict[Format, Medium] = {
    "text": Medium(documents.text_rows, {"text": "text"}, _BUNCH),
    "html": Medium(
        documents.html_rows, {"title": "text", "headings": "text", "text": "text"}, _BUNCH
    ),
    "pdf": Medium(documents.pdf_rows, {"page": "integer", "text": "text"}, 1),
    "images": Medium(
        images.image_rows, {"width": "integer", "height": "integer", "image": "image"}, _BUNCH
    ),
    "video": Medium(
        video.frame_rows,
        {
            "frame": "integer",
            "seconds": "number",
            "segment": "category",
            "width": "integer",
            "height": "integer",
            "image": "image",
        },
        1,
    ),
}


class Piece(NamedTuple):
    """What one task reads: a few files, or a span of one video."""

    source: Source
    format: Format
    files: tuple[File, ...]
    span: spans.Span | None = None


class Row(NamedTuple):
    file: File
    number: int
    found: dict[str, Any] | str


def _format(source: Source, data: Data) -> Format:
    found = format_of(source, data)
    assert found, "asked for what is no medium"
    return found


def _content_kinds(source: Source, kind: Format) -> dict[str, Kind]:
    kinds = dict(MEDIA[kind].kinds)
    if source.thumbnail and kinds.pop("image", None):
        kinds |= dict.fromkeys(thumbnail.columns(source.thumbnail), "number")
    return kinds


def _names(source: Source, data: Data) -> list[str]:
    return ["path", *label_columns(source), *_content_kinds(source, _format(source, data))]


def _kinds(source: Source, data: Data) -> dict[str, Kind]:
    folders: dict[str, Kind] = {} if source.labels else {LABEL: "category"}
    return {"path": "category", **folders, **_content_kinds(source, _format(source, data))}


def _files(source: Source, data: Data) -> list[File]:
    return found_files(source, _format(source, data))


def _fingerprint(source: Source, data: Data) -> Any:
    paths = [file.path for file in _files(source, data) if file.size is not None]
    paths += [UPath(source.labels)] if source.labels else []
    return [[str(path), path.fs.ukey(path.path)] for path in paths]


def _pieces(source: Source, data: Data) -> list[Piece]:
    kind, files = _format(source, data), _files(source, data)
    long = [file for file in files if kind == "video" and (file.size or 0) >= 2 * spans.SPAN_BYTES]
    # The size is taken here: tasks import the module anew.
    finding = partial(spans.spans, size=spans.SPAN_BYTES)
    found = parts.results([file.path for file in long], finding) if long else []
    parted = dict(zip((file.name for file in long), found, strict=True))
    if kind == "video":
        return [
            Piece(source, kind, (file,), span)
            for file in files
            for span in parted.get(file.name, [None])
        ]
    size = MEDIA[kind].bunch
    starts = range(0, len(files), size)
    return [Piece(source, kind, tuple(files[start : start + size])) for start in starts]


def _tables(piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    kinds = _content_kinds(piece.source, piece.format)
    held: list[Row] = []
    weight = 0
    for row in _rows(piece):
        held.append(row)
        weight += len(row.found.get("image", b"")) if isinstance(row.found, dict) else 0
        if len(held) >= _ROWS or weight >= _BYTES:
            yield _table(held, names, kinds)
            held, weight = [], 0
    if held:
        yield _table(held, names, kinds)


def _rows(piece: Piece) -> Iterator[Row]:
    more = {} if piece.span is None else {"span": piece.span}
    for file in piece.files:
        if not file.size:
            yield Row(
                file, 1, "there is no such file" if file.size is None else "the file is empty"
            )
            continue
        try:
            for number, found in MEDIA[piece.format].rows(file.path, piece.source, **more):
                yield Row(file, number, found)
        except OSError as error:
            yield Row(file, 1, f"the file cannot be read, found '{error.strerror or error}'")


def _table(rows: Sequence[Row], names: Sequence[str], kinds: dict[str, Kind]) -> pa.Table:
    faults = [row.found if isinstance(row.found, str) else None for row in rows]
    values = [{} if isinstance(row.found, str) else row.found for row in rows]
    columns = {
        name: pa.array([found.get(name) for found in values], ARROW_TYPES[kinds[name]])
        if name in kinds
        else pa.array([_label(row.file, name) for row in rows], pa.string())
        for name in names
    }
    lineage = {
        "_source": pa.array([str(row.file.path) for row in rows], pa.string()),
        "_row": pa.array(np.array([row.number for row in rows], np.int64)),
        "_error": pa.array(faults, pa.string()),
        "_raw": pa.array(
            [fault and row.file.name for fault, row in zip(faults, rows, strict=True)], pa.string()
        ),
    }
    return pa.table(columns | lineage)


def _label(file: File, column: str) -> str | None:
    return file.name if column == "path" else file.labels.get(column)


def _sample(source: Source, data: Data, names: Sequence[str]) -> pa.Table:
    """The table of labels: all that is not known of the columns is what these hold."""
    rows = list(label_rows(source).values())
    texts = {name: pa.array([row[name] for row in rows], pa.string()) for name in names}
    nothing = pa.nulls(len(rows), pa.string())
    return pa.table(texts | {"_row": np.arange(len(rows)), "_error": nothing, "_raw": nothing})


CONNECTOR = Connector(
    fingerprint=_fingerprint,
    names=_names,
    kinds=_kinds,
    pieces=_pieces,
    tables=_tables,
    sample=_sample,
    places=lambda source, data: [str(file.path) for file in _files(source, data)],
    aside=ASIDE,
)
