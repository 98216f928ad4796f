"""The reranker: a pretrained cross-encoder, which reads a question and a passage together and says
how well the one answers the other.

It is written as ONNX once for each machine and runs in ONNX Runtime, as the encoder does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.chat.retriever import Score
from ray_pipeline.data.encoders import graphs, tokens
from ray_pipeline.data.statistics import TokenStatistics
from ray_pipeline.job.chat import Rerank, Retrieve

WHERE = "chat.retrieve.rerank.model"
LONGEST = 512
"""Tokens of a question and a passage together that are read at the most."""

Pairs = dict[str, list[list[int]]]
"""`tokens` of each pair of texts, and which of both each token is of, its `types`: 0 or 1."""


def check(retrieve: Retrieve) -> None:
    """Raises JobError: the reranker that the job names cannot be loaded, or is none."""
    if retrieve.rerank:
        fitted(retrieve.rerank)


def fingerprint(retrieve: Retrieve) -> str | None:
    """The digest of the reranker that the job names."""
    return tokens.digest_of(retrieve.rerank.model) if retrieve.rerank else None


def fitted(settings: Rerank) -> TokenStatistics:
    """How it reads texts; its graph is in the cache by then. Raises JobError as `check`."""
    base = settings.model
    content, longest = tokens.content_of(base, WHERE), tokens.longest_of(base, LONGEST)
    graph_of(base)
    return TokenStatistics(name="pair", base=base, tokenizer=content, longest=longest)


def graph_of(base: str) -> UPath:
    """The file of the cross-encoder as ONNX, made if it is not in the cache: `tokens` and `types`
    [N, T] int64, -1 after a pair's end → [N] float. Raises JobError."""
    return graphs.cached("rerankers", base, _exported)


def _exported(base: str) -> bytes:
    import torch
    from torch import Tensor, nn

    from ray_pipeline.data import onnx_export
    from ray_pipeline.data.encoders import pretrained

    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = pretrained.scoring(base, WHERE)
            self.padding = self.network.config.pad_token_id or 0
            self.typed = pretrained.reads_types(self.network, base)

        def forward(self, *inputs: Tensor) -> Tensor:
            tokens, types = inputs
            mask = tokens >= 0
            read = {"input_ids": tokens.masked_fill(~mask, self.padding)}
            if self.typed:
                read["token_type_ids"] = types.clamp(min=0)
            scores: Tensor = self.network(**read, attention_mask=mask.long()).logits
            return scores[:, 0]

    example = {name: torch.zeros(2, 8, dtype=torch.int64) for name in onnx_export.TEXTS}
    made = onnx_export.graph_of(Pairs(), example, graphs.OPSET, WHERE)
    content: bytes = made.SerializeToString()
    return content


def scoring(retrieve: Retrieve, threads: int = 1) -> Score | None:
    """The reranker that the job names. Raises JobError as `check`."""
    return scored_by(fitted(retrieve.rerank), threads=threads) if retrieve.rerank else None


def scored_by(
    column: TokenStatistics, graph: Path | UPath | None = None, threads: int = 1
) -> Score:
    """The cross-encoder that reads as `column` says, in the file `graph` if it is not to be that of
    the cache."""
    loaded = graphs.session(graph or graph_of(column.base), threads)
    paired = pairing(column)

    def run(columns: tokens.Columns) -> NDArray[Any]:
        scores: NDArray[Any] = loaded.run(None, columns)[0]
        return scores

    # Each token is there twice, with its type.
    apart = 2 * tokens.RUN_TOKENS
    return lambda question, passages: tokens.run_alike(run, paired(question, passages), {}, apart)


def pairing(column: TokenStatistics) -> Callable[[str, Sequence[str]], Pairs]:
    """A function from a question and passages [N] to their pairs [N], of `longest` tokens at most:
    the passage is cut, and the question where it has more than half of them.

    Raises:
        JobError: the library is not installed.
    """
    tokenizer = tokens.tokenizer_of(column)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    room = column.longest - tokenizer.num_special_tokens_to_add(True)

    def pairs(question: str, passages: Sequence[str]) -> Pairs:
        asked = tokenizer.encode(question, add_special_tokens=False)
        asked.truncate(room // 2)
        made: Pairs = {"tokens": [], "types": []}
        for passage in tokenizer.encode_batch_fast(list(passages), add_special_tokens=False):
            passage.truncate(room - len(asked))
            pair = tokenizer.post_process(asked, passage)
            made["tokens"].append(pair.ids)
            made["types"].append(pair.type_ids)
        return made

    return pairs
