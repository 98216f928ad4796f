"""Parts of a chatbot that Ray Serve runs in replicas of their own (`serve.apart`): its encoder, and
its language model. `far.py` is what calls them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import ray
from ray import serve

from ray_pipeline import bundle
from ray_pipeline.chat import opened
from ray_pipeline.chat.generators import Message, Parts, Prompt, llama
from ray_pipeline.data.encoders.sentences import Vectors

_TEXTS, _WAIT_S = 64, 0.003
"""Texts of several requests that are encoded together, and how long the first waits for others."""


class EncoderReplica:
    """One process that encodes texts for a chatbot's replicas.

    Args:
        path: the bundle's folder or URI.
        threads: that it computes with, if not on a GPU.

    Raises:
        BundleError: the bundle is not whole.
    """

    def __init__(self, path: str, threads: int) -> None:
        found = bundle.opened(path)
        self._digest = opened.digest(found)
        self._embed = opened.embedding(found, threads, _providers())

    async def embed(self, digest: str, texts: list[str]) -> Vectors | None:
        """The vectors [N, W] of texts [N]; None if the encoder that is wanted is another, as while
        a release takes over."""
        if digest != self._digest:
            return None
        parts = [texts[at : at + _TEXTS] for at in range(0, len(texts), _TEXTS)]
        return np.concatenate(await asyncio.gather(*map(self._together, parts)))

    @serve.batch(
        max_batch_size=_TEXTS,
        batch_wait_timeout_s=_WAIT_S,
        batch_size_fn=lambda asked: sum(map(len, asked)),
    )
    async def _together(self, asked: list[list[str]]) -> list[Vectors]:
        """Of what several ask, the vectors for each."""
        texts = [text for each in asked for text in each]
        vectors = await asyncio.to_thread(self._embed, texts)
        return np.split(vectors, np.cumsum([len(each) for each in asked])[:-1])


class GeneratorReplica:
    """One process that writes answers for a chatbot's replicas; its arguments are those of
    EncoderReplica."""

    def __init__(self, path: str, threads: int) -> None:
        found = bundle.opened(path)
        settings = opened.chat_of(opened.settings_of(found)).generate
        layers = -1 if ray.get_gpu_ids() else 0
        self._write = llama(
            Parts(settings, _no_encoder, opened.model(found)), threads=threads, layers=layers
        )

    async def write(self, messages: list[Message]) -> AsyncGenerator[str]:
        """An answer in pieces, as they come; nobody taking them any more ends it.

        Raises:
            TimeoutError: its turn would come too late.
        """
        pieces = self._write(Prompt("", [], messages))
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            pieces.close()


def _providers() -> list[str]:
    """ONNX Runtime's, on the GPU that this replica has, if it has one."""
    import onnxruntime

    wanted = ["CUDAExecutionProvider"] * bool(ray.get_gpu_ids()) + ["CPUExecutionProvider"]
    return [name for name in wanted if name in onnxruntime.get_available_providers()]


def _no_encoder(texts: Any) -> Any:
    raise NotImplementedError("a language model asks for no vectors")
