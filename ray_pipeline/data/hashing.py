"""Row hashes that are the same on every machine and in every version.

A value becomes 64 bits (the integer's own; the double's own, with one zero and one NaN; for a text
SipHash-2-4 under a fixed key, as pandas computes it on whole columns), and the columns of a row
are mixed by splitmix64 (Steele, Lea and Flood 2014). Python's `hash`, Arrow's and Polars' row
hashes change between processes or versions, hence none of them; a golden value in the tests
guards these.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_NO_VALUE = np.uint64(0x9AE16A3B2F90404F)
_ODD = np.uint64(0x9E3779B97F4A7C15)


def row_hashes(table: pa.Table, columns: Iterable[str], seed: int = 0) -> Hashes:
    """One 64-bit hash [N] per row of the values in `columns`; another `seed`, another hash.

    Rows hash alike if and (almost surely) only if their values are equal, null with null.
    """
    mixed = _mixed(np.full(len(table), seed % 2**64, np.uint64) + _ODD)
    for name in columns:
        mixed = _mixed((mixed ^ _bits(table[name].combine_chunks(), seed)) + _ODD)
    return mixed


def _bits(values: pa.Array, seed: int) -> Hashes:
    """The column's values as 64 bits each, [N]."""
    if pa.types.is_string(values.type) or pa.types.is_binary(values.type):
        return _text_bits(values, seed)
    if pa.types.is_floating(values.type):
        floats = values.to_numpy(zero_copy_only=False) + 0.0  # -0.0 + 0.0 is 0.0
        bits = floats.astype(np.float64).view(np.uint64)
    else:
        bits = pc.fill_null(pc.cast(values, pa.int64()), 0).to_numpy().view(np.uint64)
    missing = values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    return np.where(missing, _NO_VALUE, bits)


def _text_bits(values: pa.Array, seed: int) -> Hashes:
    encoded = values.dictionary_encode()
    texts = encoded.dictionary.to_numpy(zero_copy_only=False).astype(object)
    key = f"rows{seed % 10**12:012d}"  # 16 bytes, SipHash's key
    hashes = pd.util.hash_array(texts, hash_key=key, categorize=False).astype(np.uint64)
    codes = pc.fill_null(encoded.indices, len(texts)).to_numpy()
    found: Hashes = np.append(hashes, _NO_VALUE)[codes]
    return found


def _mixed(bits: Hashes) -> Hashes:
    """splitmix64's finaliser: every input bit moves every output bit."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def shares(hashes: Hashes) -> NDArray[np.float64]:
    """Hashes as numbers evenly spread over [0, 1)."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
