"""Whether llama.cpp reads in a GGUF file what transformers reads in the folder it was made from."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import nn

from ray_pipeline.data.matrices import PADDING, Matrices
from ray_pipeline.model import batches

MAX_DIFFERENCE = 0.05
"""Largest difference of answers' losses, on average by token, that 8 bits explain."""
COMPARED_TOKENS = 200
"""Tokens of answers whose losses are compared; each is a step of llama.cpp, some 20 ms for 135
million weights."""
_CERTAIN = 1e3
"""What makes llama.cpp take a token whatever it thinks of it, for it to say what it thinks."""
_TEXTS = (
    "How can I install gcc 12.3  with 1000 packages?",
    " spaces   between,\tand\t\ttabs, \n\n\nlines \r\n  and none",
    "I'll, you'RE; don't, WE'VE — “quoted” … ½ ² ٣ 三 §7",
    "naïve café, Ünïcödé, русский, 日本語, العربية, हिन्दी, 🙂👩‍💻",
    "def f(x):\n    return x**2  # {'a': [1, 2]}, a+=b; https://example.org/?q=1&r=2#s",
)
"""Texts on which tokenizers part ways."""
_CHAT = [{"role": "user", "content": "How can I install it?"}]


class Reader:
    """llama.cpp with a GGUF file open, on one thread: others may be at work. It listens on a port
    of this machine under a key that nobody is told, until it is forgotten.

    Raises RuntimeError if llama.cpp cannot open the file.
    """

    def __init__(self, path: Path, context: int) -> None:
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = context, 1, 0
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        settings.verbosity, settings.warmup, settings.cache_ram_mib = 0, False, 0
        self._key = secrets.token_hex(32)
        settings.api_keys = [self._key]
        self._server = xllamacpp.Server(settings)
        # One that is forgotten before it has begun to work waits for itself for ever.
        self._server.handle_completions({"prompt": [0], "max_tokens": 1})

    def tokens(self, text: str, whole: bool = False) -> list[int]:
        """The tokens of a text, with those that begin and end a `whole` one."""
        asked = {"content": text, "add_special": whole, "parse_special": True}
        return list(self._told("/tokenize", asked)["tokens"])

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """The tokens of a chat that an answer is wanted to; none if it cannot read the template."""
        text = self._told("/apply-template", {"messages": messages}).get("prompt", "")
        return self.tokens(text, whole=True) if text else []

    def loss(self, before: Sequence[int], token: int) -> float | None:
        """How little it expects `token` after those `before`: minus the logarithm of its
        probability. It does not say so of a token that is part of a letter."""
        told = self._server.handle_completions(
            {
                "prompt": list(before),
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": 1,
                "logit_bias": [[token, _CERTAIN]],
            }
        )
        said = told["choices"][0]["logprobs"]
        if said is None:
            return None
        assert said["content"][0]["id"] == token
        return -float(said["content"][0]["logprob"])

    def _told(self, route: str, asked: dict[str, Any]) -> Any:
        place = urlsplit(self._server.listening_address)
        told = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        # Not by urllib, which would ask a proxy of the environment.
        connection = HTTPConnection(str(place.hostname), place.port, timeout=60)
        with closing(connection):
            connection.request("POST", route, json.dumps(asked), told)
            return json.load(connection.getresponse())


def compared(path: Path, network: Any, tokenizer: Any, rows: Matrices) -> dict[str, Any]:
    """How far llama.cpp with the file at `path` is from the network and its tokenizer: `difference`
    is that of answers' losses, on average by their `tokens`. Or why they cannot be compared, or do
    not agree: `left_out`.

    Args:
        rows: prepared ones; of their beginnings, COMPARED_TOKENS tokens of answers are compared.
    """
    longest = network.backbone.config.max_position_embeddings
    inputs = {name: part[:, :longest] for name, part in batches.tensors(rows).items()}
    try:
        reader = Reader(path, inputs["tokens"].shape[1])
    except RuntimeError:
        return {"left_out": "llama.cpp cannot open the file that was written"}
    if not _divided_alike(reader, tokenizer, inputs["tokens"]):
        return {"left_out": "llama.cpp divides texts into other tokens than its tokenizer"}
    if reader.prompt(_CHAT) != _prompt(tokenizer, _CHAT):
        return {"left_out": "llama.cpp writes a chat in another way than its template"}
    # By answer, and not by their mean: what errs by chance would be right on average.
    found = np.array(list(_differences(reader, network, inputs)) or [(0, 0.0)])
    tokens, difference = int(found[:, 0].sum()), found[:, 1].sum() / max(found[:, 0].sum(), 1)
    if not difference <= MAX_DIFFERENCE:
        return {
            "left_out": f"llama.cpp's losses of answers differ by {difference:.3g} from the "
            f"network's, by more than {MAX_DIFFERENCE:g}"
        }
    return {"tokens": tokens, "difference": float(difference)}


def _divided_alike(reader: Reader, tokenizer: Any, rows: torch.Tensor) -> bool:
    """Whether llama.cpp and the tokenizer make the same tokens of texts that tell tokenizers apart,
    of special ones, and of rows [N, T]."""
    ours = tokenizer.backend_tokenizer
    marks = [token.content for token in tokenizer.added_tokens_decoder.values()]
    read = [ours.decode(row[row != PADDING].tolist(), skip_special_tokens=False) for row in rows]
    return all(
        reader.tokens(text, whole) == ours.encode(text, add_special_tokens=whole).ids
        for text in (*_TEXTS, " a ".join(("", *marks, "")), *read)
        for whole in (False, True)
    )


def _prompt(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """The tokens of a chat as the network was taught it: see `encoders.chat`."""
    ours = tokenizer.backend_tokenizer
    if not tokenizer.chat_template:
        return list(ours.encode(messages[-1]["content"] + "\n").ids)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(ours.encode(text, add_special_tokens=False).ids)


def _differences(
    reader: Reader, network: nn.Module, inputs: dict[str, torch.Tensor]
) -> Iterator[tuple[int, float]]:
    """Of answers, their tokens, and how far llama.cpp's summed loss is from the network's."""
    left = COMPARED_TOKENS
    for tokens, targets in zip(inputs["tokens"], inputs["targets"], strict=True):
        # The first token is foretold from nothing, and never counts.
        places = (1 + (targets[1:] != PADDING).nonzero().flatten()).tolist()[:left]
        left -= len(places)
        losses = {at: reader.loss(tokens[:at].tolist(), int(tokens[at])) for at in places}
        told = {at: loss for at, loss in losses.items() if loss is not None}
        if not told:
            continue
        kept = torch.full_like(targets, PADDING)
        kept[list(told)] = targets[list(told)]
        with torch.inference_mode():
            ours = float(network(tokens[None], kept[None])[0, 0])
        yield len(told), abs(sum(told.values()) - ours)
