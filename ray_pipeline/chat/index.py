"""The index: passages with their vectors and their words, in a table of LanceDB or a server's.

Each version is a stage's own, complete or not there. Vectors come over from the version before
where a passage has not changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from upath import UPath

from ray_pipeline import files
from ray_pipeline.chat import chunks, corrections, documents, stores
from ray_pipeline.chat.chunks import Read
from ray_pipeline.chat.corrections import Correction
from ray_pipeline.chat.search import Vectors
from ray_pipeline.data import parts, sentence_pool
from ray_pipeline.data.encoders import sentences, tokens
from ray_pipeline.data.statistics import SentenceStatistics
from ray_pipeline.errors import DataError, UnavailableError
from ray_pipeline.job import Chat, Source
from ray_pipeline.job.features import ColumnFeatures

ABOUT = "index.json"
ENCODER = "chat.encoder"
"""Where a job names it."""
LONGEST = 256
"""Tokens of a text that the encoder reads at the most."""
_SHOWN = 20


def encoder_of(settings: Chat) -> SentenceStatistics:
    """The encoder of texts. Raises JobError: it cannot be loaded."""
    longest = tokens.longest_of(settings.encoder, LONGEST)
    features = ColumnFeatures(text="embedding", encoder=settings.encoder, longest=longest)
    return sentences.fitted("text", features, ENCODER)


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
        the version before, and `removed` from it; how many sentences were left out because they
        are `instructions` to a language model; and how many versions were `outlived` on a server.

    Raises:
        DataError: no document holds a text.
        JobError: the encoder cannot be loaded, or a library is not installed.
        UnavailableError: the server that is to keep it does not answer.
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
    stores.written(out, passages, known | vectors, settings.store)
    (out / ABOUT).write_text(json.dumps({"encoder": digest, "passages": len(passages)}))
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
    if settings.store:
        counts["outlived"] = len(stores.outlived(out))
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


def _earlier(out: UPath, encoder: str) -> dict[str, Vectors]:
    """The vectors by digest of the newest whole version beside `out` that has this encoder's."""
    made = []
    for marker in out.parent.glob("index-*/stage.json"):
        about = marker.parent / ABOUT
        if marker.parent != out and about.exists():
            made.append((json.loads(marker.read_text())["made"], str(marker.parent), about))
    for _, _, about in sorted(made, reverse=True):
        if json.loads(about.read_text())["encoder"] == encoder:
            try:
                return dict(stores.opened(about.parent).vectors())
            except (UnavailableError, DataError):  # a server's that may be gone for good
                return {}
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
