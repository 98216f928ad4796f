"""Row hashes that are the same on every machine and in every version.

A value becomes 64 bits (the integer's own; the double's own, with one zero and one NaN; for a text
or bytes SipHash-2-4 under a fixed key, as pandas has it), and the columns of a row are mixed by
splitmix64 (Steele, Lea and Flood 2014). Python's `hash`, Arrow's and Polars' row hashes change
between processes or versions, hence none of them; a golden value in the tests guards these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_NO_VALUE = np.uint64(0x9AE16A3B2F90404F)
_ABSENT = pa.scalar(int(_NO_VALUE.view(np.int64)), pa.int64())
_ODD = np.uint64(0x9E3779B97F4A7C15)
_STEPS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
    (np.uint64(31), None),
)
_STRETCH = 1 << 15


def row_hashes(table: pa.Table, columns: Iterable[str], seed: int = 0) -> Hashes:
    """One 64-bit hash [N] per row of the values in `columns`; another `seed`, another hash.

    Rows hash alike if and (almost surely) only if their values are equal, null with null.
    """
    bits = [_bits(table[name].combine_chunks(), seed) for name in columns]
    mixed = np.full(len(table), seed % 2**64, np.uint64)
    for rows, held in _stretches(mixed):
        _mix(held)
        for read in bits:
            held[:] ^= read(rows)
            _mix(held)
    return mixed


def column_sums(numbers: Sequence[NDArray[np.float64]]) -> Hashes:
    """One 64-bit hash [N] per row of C columns of numbers [N], faster than `row_hashes` and not as
    strong: the sum of its values by random odd factors (multilinear hashing, Carter and Wegman
    1979)."""
    mixed = np.zeros(len(numbers[0]) if numbers else 0, np.uint64)
    factors = _factors(len(numbers))
    for rows, held in _stretches(mixed):
        for values, factor in zip(numbers, factors, strict=True):
            held[:] += values[rows].view(np.uint64) * factor
        _mix(held)
    return mixed


def _factors(count: int) -> Hashes:
    factors = np.arange(count, dtype=np.uint64)
    _mix(factors)
    return factors | np.uint64(1)


def digests(table: pa.Table, columns: Sequence[str]) -> tuple[Hashes, Hashes]:
    """`row_hashes`, and a hash as `column_sums`, with one look at the values: 128 bits a row."""
    bits = [_bits(table[name].combine_chunks(), 0) for name in columns]
    factors = _factors(len(columns))
    high, low = np.zeros(len(table), np.uint64), np.zeros(len(table), np.uint64)
    for rows, held in _stretches(high):
        _mix(held)
        for read, factor in zip(bits, factors, strict=True):
            values = read(rows)
            held[:] ^= values
            _mix(held)
            low[rows] += values * factor
        _mix(low[rows])
    return high, low


def _stretches(hashes: Hashes) -> Iterator[tuple[slice, Hashes]]:
    """Rows a stretch at a time, so that all steps happen in the processor's cache."""
    for start in range(0, len(hashes), _STRETCH):
        rows = slice(start, start + _STRETCH)
        yield rows, hashes[rows]


def _bits(values: pa.Array, seed: int) -> Callable[[slice], Hashes]:
    """A function to the 64 bits of each value of a slice of rows."""
    if pa.types.is_string(values.type) or pa.types.is_binary(values.type):
        values = values.dictionary_encode()
    if pa.types.is_dictionary(values.type):
        return _text_bits(values, seed)
    if pa.types.is_floating(values.type):
        return lambda rows: _float_bits(values[rows])
    return lambda rows: _integer_bits(values[rows])


def _float_bits(values: pa.Array) -> Hashes:
    floats = values.to_numpy(zero_copy_only=False) + 0.0  # -0.0 + 0.0 is 0.0
    missing = values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    return np.where(missing, _NO_VALUE, floats.astype(np.float64).view(np.uint64))


def _integer_bits(values: pa.Array) -> Hashes:
    bits: Hashes = pc.fill_null(pc.cast(values, pa.int64()), _ABSENT).to_numpy().view(np.uint64)
    return bits


def _text_bits(encoded: pa.DictionaryArray, seed: int) -> Callable[[slice], Hashes]:
    """Each different text is hashed once."""
    texts = encoded.dictionary.to_numpy(zero_copy_only=False).astype(object)
    key = f"rows{seed % 10**12:012d}"  # 16 bytes, SipHash's key
    hashes = pd.util.hash_array(texts, hash_key=key, categorize=False).astype(np.uint64)
    known, codes = np.append(hashes, _NO_VALUE), encoded.indices

    def read(rows: slice) -> Hashes:
        found: Hashes = known.take(pc.fill_null(codes[rows], len(texts)).to_numpy())
        return found

    return read


def _mix(bits: Hashes) -> None:
    """One step of splitmix64, in place: every input bit moves every output bit.

    A stretch at a time, so that all steps happen in the processor's cache.
    """
    shifted = np.empty(min(len(bits), _STRETCH), np.uint64)
    for start in range(0, len(bits), _STRETCH):
        part = bits[start : start + _STRETCH]
        held = shifted[: len(part)]
        part += _ODD
        for shift, factor in _STEPS:
            np.right_shift(part, shift, out=held)
            part ^= held
            if factor:
                part *= factor


def shares(hashes: Hashes) -> NDArray[np.float64]:
    """Hashes as numbers evenly spread over [0, 1)."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
