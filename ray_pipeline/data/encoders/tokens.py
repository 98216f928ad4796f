"""Texts as the tokens of a pretrained encoder, by its own tokenizer (`tokenizers`, in Rust)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data.matrices import PADDING
from ray_pipeline.data.statistics import TokenStatistics
from ray_pipeline.errors import JobError
from ray_pipeline.job.features import ColumnFeatures

FILE, TEMPLATE = "tokenizer.json", "chat_template.jinja"
ENCODER = "data.features.columns.….encoder"
"""Where a job names the encoder of a column."""

Tokenize = Callable[[Sequence[str]], list[list[int]]]
"""From texts to the tokens of each, its first and last special ones included."""

Columns = dict[str, NDArray[Any]]
Run = Callable[[Columns], NDArray[Any]]

CHUNK = 32
"""Texts that are read at a time, of about one length."""
RUN_TOKENS = 8
"""Tokens that a run costs a processor beside its texts; where padding is more, they run apart."""


def fitted(name: str, settings: ColumnFeatures, where: str = ENCODER) -> TokenStatistics:
    """The tokenizer that a column's `encoder` comes with, which the job names at `where`.

    Raises:
        JobError: it cannot be loaded, or the library is not installed.
    """
    base = settings.encoder or ""
    return TokenStatistics(
        name=name, base=base, tokenizer=content_of(base, where), longest=settings.longest
    )


def content_of(base: str, where: str = ENCODER) -> str:
    """The tokenizer.json in a local folder, or of a hub's id, which the job names at `where`.
    Raises JobError."""
    path = Path(base) / FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError:
        raise absent() from None
    try:
        found = AutoTokenizer.from_pretrained(base, local_files_only=Path(base).is_dir())
    except (OSError, ValueError) as error:
        raise JobError(
            f"`{base}` cannot be loaded: {str(error).strip().splitlines()[0]}",
            where=where,
            expected=f"a folder or a hub's id with {FILE}",
        ) from error
    if len(found) <= len(found.all_special_ids):  # what transformers makes up where there is none
        raise JobError(
            f"`{base}` has no tokenizer",
            where=where,
            expected=f"a folder or a hub's id with {FILE}",
        )
    content: str = found.backend_tokenizer.to_str()
    return content


def digest_of(base: str) -> str:
    """A digest of a local folder's name, encoder and tokenizer; of a hub's id, the id."""
    return hashlib.sha256(f"{base} {content_digest(base)}".encode()).hexdigest()[:16]


def content_digest(base: str) -> str:
    """As `digest_of`, wherever the folder is."""
    names = ("config.json", "model.safetensors", FILE, "tokenizer_config.json", TEMPLATE)
    there = [path for name in names if (path := Path(base) / name).is_file()]
    digest = hashlib.sha256(b"" if there else base.encode())
    for path in there:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def longest_of(base: str, most: int) -> int:
    """Tokens of a text that are read: `most`, or as many as a model in a folder has places for, of
    which some families keep two for themselves."""
    config = Path(base) / "config.json"
    told = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return min(most, int(told.get("max_position_embeddings", most + 2)) - 2)


def tokenizing(column: TokenStatistics) -> Tokenize:
    """A function from texts to tokens, of which no more than `longest` are kept of a text.

    Raises:
        JobError: the library is not installed.
    """
    tokenizer = tokenizer_of(column)
    tokenizer.enable_truncation(column.longest)
    tokenizer.no_padding()

    def tokens(texts: Sequence[str]) -> list[list[int]]:
        return [each.ids for each in tokenizer.encode_batch_fast(list(texts))]

    return tokens


def vocabulary(column: TokenStatistics) -> list[str]:
    """The tokens that a column's texts are made of, in order. Raises JobError as `tokenizing`."""
    return sorted(tokenizer_of(column).get_vocab())


def tokenizer_of(column: TokenStatistics) -> Any:
    """The tokenizer itself. Raises JobError as `tokenizing`."""
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise absent() from None
    return Tokenizer.from_str(column.tokenizer)


def encoding(column: TokenStatistics) -> Callable[[pa.ChunkedArray], pa.Array]:
    """A function from texts [N] to lists of tokens [N]; an absent text is an empty one."""
    tokenize = tokenizing(column)

    def encoded(texts: pa.ChunkedArray) -> pa.Array:
        trimmed = pc.utf8_trim_whitespace(pc.fill_null(texts.cast(pa.string()), ""))
        lists = tokenize(trimmed.to_pylist())
        ends = np.cumsum([0, *map(len, lists)])
        flat = np.concatenate([np.empty(0, np.int32), *(np.array(t, np.int32) for t in lists)])
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(flat, pa.int32()))

    return encoded


def reading(run: Run, columns: Sequence[TokenStatistics], run_tokens: float = RUN_TOKENS) -> Run:
    """`run`, which takes tokens [N, T] for some columns, as a function that takes their texts [N].

    Texts of about one length go through the graph together, few at a time: what they need of
    memory and time follows the longest. Padding costs at most `run_tokens` for each text that
    joins. Their outputs [N, …] come in the order of the texts.
    """
    if not columns:
        return run
    tokenize = {column.name: tokenizing(column) for column in columns}

    def read(given: Columns) -> NDArray[Any]:
        texts = {name: tokens(list(given[name])) for name, tokens in tokenize.items()}
        rest = {name: given[name] for name in given if name not in texts}
        return run_alike(run, texts, rest, run_tokens)

    return read


def run_alike(
    run: Run,
    texts: Mapping[str, Sequence[Sequence[int]]],
    rest: Columns,
    run_tokens: float = RUN_TOKENS,
) -> NDArray[Any]:
    """The outputs [N, …] of `run` for N rows, each of some `texts` in tokens and the `rest`: in
    parts as `reading` makes them."""
    lengths = np.array([sum(map(len, row)) for row in zip(*texts.values(), strict=True)])
    order, parts = np.argsort(lengths, kind="stable"), []
    for part in _alike(lengths[order], run_tokens):
        places = order[part]
        others = {name: column[places] for name, column in rest.items()}
        made = {name: _matrix([texts[name][place] for place in places]) for name in texts}
        parts.append(run(others | made))
    outputs = np.concatenate(parts)
    found = np.empty_like(outputs)
    found[order] = outputs
    return found


def _alike(lengths: NDArray[np.int64], run_tokens: float) -> list[slice]:
    """Ascending lengths cut into parts of at most CHUNK; there is one part at least, if an empty
    one. A text joins unless to pad those before it to its length takes longer than another run."""
    parts, start = [], 0
    for place in range(1, len(lengths)):
        padding = (place - start) * (lengths[place] - lengths[place - 1])
        if padding > run_tokens or place - start == CHUNK:
            parts.append(slice(start, place))
            start = place
    return [*parts, slice(start, len(lengths))]


def _matrix(texts: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Tokens [N, T]: of two or more columns, as a graph is made for more than one."""
    matrix = np.full((len(texts), max(2, *map(len, texts), 2)), PADDING, np.int64)
    for row, tokens in enumerate(texts):
        matrix[row, : len(tokens)] = tokens
    return matrix


def absent() -> JobError:
    return JobError(
        "the libraries for pretrained encoders are not installed",
        where="data.features.columns",
        hint="pip install 'ray-pipeline[text]'",
    )
