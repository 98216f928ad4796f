"""Texts that nearly repeat each other: MinHash and locality-sensitive hashing (datasketch), then
the exact similarity of the few pairs that it proposes.

Tasks make the signatures and send 8 bytes a band of each row; only the texts of rows that share a
band with another travel afterwards. So nothing is set aside that is not alike (precision is 1);
what is overlooked is bounded by the banding, which is chosen to overlook little.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data.duplicates import Repeated, row_ids
from ray_pipeline.data.steps.extra import needed
from ray_pipeline.job.steps import NearDuplicates

PERMUTATIONS = 128
_SEED = 1
FOUND = 0.99


@dataclass(frozen=True)
class Bands:
    """Usable rows that have a text: ids [N], whether they are of the test file [N], and a hash of
    each band of their signatures [N, B]."""

    ids: NDArray[np.int64]
    test: NDArray[np.bool_]
    hashes: NDArray[np.uint64]


def sequences(text: str, characters: int) -> frozenset[str]:
    """The different character sequences of a text, its case and spacing made alike."""
    plain = " ".join(text.casefold().split())
    starts = range(max(1, len(plain) - characters + 1))
    return frozenset(plain[start : start + characters] for start in starts)


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard's: sequences in common, of all that either has."""
    return len(one & other) / len(one | other)


def banded(rows: pa.Table, settings: NearDuplicates, files: list[str]) -> Bands:
    """The bands of typed rows with `_source`, `_row`, `_reason` and `_test`."""
    datasketch = needed("datasketch", "the step `near_duplicates`")
    some = _with_text(rows, settings.column)
    count, width = banding(settings.threshold)
    texts = some[settings.column].to_pylist()
    shingled = ([part.encode() for part in sequences(text, settings.characters)] for text in texts)
    signatures = [
        signature.hashvalues[: count * width]
        for signature in datasketch.MinHash.generator(
            shingled, num_perm=PERMUTATIONS, seed=_SEED, hashfunc=zlib.crc32
        )
    ]
    values = np.array(signatures, np.uint64).reshape(len(some), count, width)
    return Bands(row_ids(some, files), _flags(some["_test"]), _mixed(values))


def banding(threshold: float) -> tuple[int, int]:
    """How many bands of how many hashes: the widest, which propose least in vain, that still find
    a pair at the threshold itself with the chance FOUND (Leskovec, Rajaraman and Ullman, 3.4)."""
    for width in range(PERMUTATIONS, 1, -1):
        count = PERMUTATIONS // width
        if 1 - (1 - threshold**width) ** count >= FOUND:
            return count, width
    return PERMUTATIONS, 1


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One hash for each band of [N, B, R] (FNV's way of mixing); other bands, other hashes."""
    mixed = np.broadcast_to(np.arange(values.shape[1], dtype=np.uint64), values.shape[:2]).copy()
    for place in range(values.shape[2]):
        mixed = (mixed ^ values[:, :, place]) * np.uint64(0x100000001B3)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def proposed(found: Iterable[Bands]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each band, the ids that share its hash with another, and the group each is in; in the
    order in which rows are kept: those of the test file first, then by id."""
    parts = list(found)
    ids = np.concatenate([part.ids for part in parts])
    order = np.lexsort((ids, ~np.concatenate([part.test for part in parts])))
    hashes = np.concatenate([part.hashes for part in parts])[order]
    groups = []
    for band in hashes.T:
        _, group, size = np.unique(band, return_inverse=True, return_counts=True)
        shared = size[group] > 1
        groups.append((ids[order][shared], group[shared]))
    return groups


def texts_of(
    rows: pa.Table, settings: NearDuplicates, files: list[str], wanted: NDArray[np.int64]
) -> dict[int, str]:
    """The texts of the rows with the ids `wanted`, which are sorted."""
    some = _with_text(rows, settings.column)
    ids = row_ids(some, files)
    here = np.isin(ids, wanted, assume_unique=True)
    texts = some[settings.column].filter(pa.array(here)).to_pylist()
    return dict(zip(ids[here].tolist(), texts, strict=True))


def repeated(
    groups: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    texts: Mapping[int, str],
    test: frozenset[int],
    settings: NearDuplicates,
) -> Repeated:
    """The rows to leave out: each is alike to an earlier one that stays, and names it.

    Rows are decided in order, so that of a chain of small changes more than one may stay. Test
    rows always do, and a training row that is like one of them goes.
    """
    sets = {id_: sequences(text, settings.characters) for id_, text in texts.items()}
    partners: dict[int, list[list[int]]] = {}
    for ids, group in groups:
        members: dict[int, list[int]] = {}
        for id_, number in zip(ids.tolist(), group.tolist(), strict=True):
            members.setdefault(number, []).append(id_)
        for together in members.values():
            for id_ in together:
                partners.setdefault(id_, []).append(together)
    kept: set[int] = set()
    firsts: dict[int, int] = {}
    for id_ in sorted(partners, key=lambda row: (row not in test, row)):
        near = {other for together in partners[id_] for other in together if other in kept}
        like = next(
            (
                other
                for other in sorted(near, key=lambda row: (row not in test, row))
                if similarity(sets[id_], sets[other]) >= settings.threshold
            ),
            None,
        )
        if like is None or id_ in test:
            kept.add(id_)
        else:
            firsts[id_] = like
    out = np.array(sorted(firsts), np.int64)
    first = np.array([firsts[id_] for id_ in out.tolist()], np.int64)
    return Repeated(out, first, np.array([id_ in test for id_ in first.tolist()], bool))


def _with_text(rows: pa.Table, column: str) -> pa.Table:
    return rows.filter(pc.and_(pc.is_null(rows["_reason"]), pc.is_valid(rows[column])))


def _flags(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = values.to_numpy()
    return flags.astype(bool)
