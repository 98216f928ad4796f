"""The index: passages with their vectors and their words, in a table of LanceDB.

Each version is a stage's own folder, complete or not there. Vectors come over from the version
before where a passage has not changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline import files
from ray_pipeline.chat import chunks, corrections, documents
from ray_pipeline.chat.chunks import Passage, Read
from ray_pipeline.chat.corrections import Correction
from ray_pipeline.chat.words import fragments
from ray_pipeline.data import parts, sentence_pool
from ray_pipeline.data.encoders import sentences, tokens
from ray_pipeline.data.media.extras import library
from ray_pipeline.data.statistics import SentenceStatistics
from ray_pipeline.errors import DataError
from ray_pipeline.job import Chat, Source
from ray_pipeline.job.features import ColumnFeatures

TABLE, ABOUT, DATABASE = "passages", "index.json", "lance"
WORDS, FRAGMENTS = "searched", "fragments"
"""The columns that are searched by words, and by pieces of words."""
LONGEST = 256
"""Tokens of a text that the encoder reads at the most."""
INDEXED = 50_000
"""From this many passages on vectors are searched through an index, in parts of what is near to
each other, eight bits a number; below, all are compared."""
NEAR: Final = "dot"
"""Vectors are of length 1, so that their product is their cosine. As `cosine`, LanceDB tells twice
the distance where it searches through an index."""
PROBED = 32
"""Parts that are searched, or more where these have too few passages that one may read. Twice as
many take 2 ms longer among 100,000 passages, and find as much where vectors are around topics."""
_SAMPLED = 64
"""Vectors for each part that the parts are made by: more take longer and make none better."""
_SHOWN = 20

Vectors = NDArray[np.float32]


def encoder_of(settings: Chat) -> SentenceStatistics:
    """The encoder of texts. Raises JobError: it cannot be loaded."""
    longest = _longest(settings.encoder)
    features = ColumnFeatures(text="embedding", encoder=settings.encoder, longest=longest)
    return sentences.fitted("text", features)


def _longest(encoder: str) -> int:
    """Tokens of a text that are read: no more than an encoder in a folder has places for, of which
    some families keep two for themselves."""
    config = Path(encoder) / "config.json"
    told = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return min(LONGEST, int(told.get("max_position_embeddings", LONGEST + 2)) - 2)


def fingerprint(source: Source, settings: Chat) -> list[Any]:
    """What an index hangs on besides settings and corrections: its documents and its encoder."""
    return [
        documents.fingerprint(source, settings.access),
        tokens.digest_of(settings.encoder),
    ]


def write(
    source: Source, settings: Chat, corrected: Sequence[Correction], *, out: UPath, work: UPath
) -> dict[str, Any]:
    """Write the index of the documents in `source`, and of their corrections, below `out`.

    Returns:
        `rows_in` documents, `rows_out` of them in the index and `rows_quarantined` not; how many
        `sections` and `passages` they have, and how many passages were `embedded` now, `kept` from
        the version before, and `removed` from it; and how many sentences were left out because they
        are `instructions` to a language model.

    Raises:
        DataError: no document holds a text.
        JobError: the encoder cannot be loaded, or a library is not installed.
    """
    listed = documents.found(source, settings.access)
    read = parts.results(listed, partial(chunks.read, settings=settings))
    passages = [passage for each in read for passage in each.passages]
    passages += corrections.passages(corrected, settings)
    faults = [(one.name, each.fault) for one, each in zip(listed, read, strict=True) if each.fault]
    if not passages:
        raise DataError(
            f"no document holds a text; the first, {faults[0][0]}, {faults[0][1]}",
            where=source.url,
        )
    encoder, digest = encoder_of(settings), tokens.digest_of(settings.encoder)
    known = _earlier(out, digest)
    fresh = {p.digest: p.searched for p in passages if p.digest not in known}
    vectors = dict(zip(fresh, embedded(list(fresh.values()), encoder, work), strict=True))
    held = {passage.digest for passage in passages}
    table = created(out / DATABASE, passages, known | vectors)
    (out / ABOUT).write_text(json.dumps({"encoder": digest, "passages": table.count_rows()}))
    counts = {
        "documents": len(listed) - len(faults),
        "sections": sum(each.sections for each in read),
        "corrections": len(corrected),
        "passages": len(passages),
        "embedded": len(fresh),
        "kept": len(held & known.keys()),
        "removed": len(known.keys() - held),
        "instructions": sum(len(each.removed) for each in read),
    }
    return {
        "rows_in": len(listed),
        "rows_out": len(listed) - len(faults),
        "rows_quarantined": len(faults),
        **counts,
        "findings": [_finding(counts, read, faults)],
    }


def embedded(texts: Sequence[str], encoder: SentenceStatistics, work: UPath) -> Vectors:
    """The vectors [N, W] of texts, of length 1, by a pool of actors that each hold the encoder."""
    if not texts:
        return np.empty((0, encoder.width), np.float32)
    file, out = work / "texts.parquet", work / "vectors"
    files.clear(out)  # of an attempt that was interrupted
    parts.written(pa.table({encoder.name: pa.array(list(texts), pa.string())}), file)
    sentence_pool.written([file], [encoder], out)
    made = sentence_pool.vectors(out, 0)[sentences.VECTOR + encoder.name].combine_chunks()
    return np.asarray(made.flatten(), np.float32).reshape(len(texts), encoder.width)


def created(folder: UPath, passages: Sequence[Passage], vectors: Mapping[str, Any]) -> Any:
    """A table of passages that is searched by words, by pieces of words and by vectors. Raises
    DataError."""
    lancedb = library("lancedb", "chat")
    from lancedb.index import FTS, Bitmap, IvfSq

    rows = pa.table(
        {
            name: pa.array([getattr(passage, name) for passage in passages])
            for name in Passage._fields
        }
    )
    files.clear(folder)  # of an attempt that was interrupted
    flat = np.concatenate([vectors[passage.digest] for passage in passages]).astype(np.float32)
    width = len(flat) // len(passages)
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
    pieces = pa.array([fragments(passage.searched) for passage in passages])
    rows = rows.append_column("vector", column).append_column(FRAGMENTS, pieces)
    table = lancedb.connect(str(folder)).create_table(TABLE, rows)
    words = FTS(language="English", stem=True, remove_stop_words=True, ascii_folding=True)
    table.create_index(WORDS, config=words)
    as_they_are = FTS(base_tokenizer="whitespace", stem=False, remove_stop_words=False)
    table.create_index(FRAGMENTS, config=as_they_are)
    if len(passages) >= INDEXED:
        table.create_index("group", config=Bitmap())
        count = round(len(passages) ** 0.5)
        near = IvfSq(distance_type=NEAR, num_partitions=count, sample_rate=_SAMPLED)
        table.create_index("vector", config=near)
    return table


def passages_of(folder: UPath) -> list[Passage]:
    """The passages of an index, in their documents' order."""
    return [Passage(**row) for row in rows_of(folder).select(list(Passage._fields)).to_pylist()]


def rows_of(folder: UPath) -> pa.Table:
    return opened(folder / DATABASE).to_arrow()


def opened(database: UPath) -> Any:
    """The table of an index, in the folder that LanceDB has made."""
    return library("lancedb", "chat").connect(str(database)).open_table(TABLE)


def vectors_of(folder: UPath) -> Iterator[tuple[str, Vectors]]:
    """The vectors of an index's passages, by what they are of."""
    rows = rows_of(folder)
    flat = np.asarray(rows["vector"].combine_chunks().flatten(), np.float32)
    yield from zip(rows["digest"].to_pylist(), flat.reshape(len(rows), -1), strict=True)


def _earlier(out: UPath, encoder: str) -> dict[str, Vectors]:
    """The vectors by digest of the newest whole version beside `out` that has this encoder's."""
    made = []
    for marker in out.parent.glob("index-*/stage.json"):
        about = marker.parent / ABOUT
        if marker.parent != out and about.exists():
            made.append((json.loads(marker.read_text())["made"], str(marker.parent), about))
    for _, _, about in sorted(made, reverse=True):
        if json.loads(about.read_text())["encoder"] == encoder:
            return dict(vectors_of(about.parent))
    return {}


def _finding(
    counts: Mapping[str, int], read: Iterable[Read], faults: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    lengths = [len(passage.text.split()) for each in read for passage in each.passages]
    shown = [[name.capitalize(), count] for name, count in counts.items()]
    shown.append(["Words of a passage, median", int(np.median(lengths))])
    tables: list[dict[str, Any]] = [{"columns": ["what", "count"], "rows": shown}]
    if faults:
        tables.append(
            {
                "caption": "Documents that are not in the index",
                "columns": ["document", "why"],
                "rows": [list(fault) for fault in faults[:_SHOWN]],
            }
        )
    return {
        "title": "The index",
        "note": "Documents as sections, sections as passages. Only passages that are new or have "
        "changed are embedded; what is no longer in a document is no longer found.",
        "tables": tables,
    }
