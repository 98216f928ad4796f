"""Activation checkpointing: what a block made inside is made again in the backward pass.

Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016),
https://arxiv.org/abs/1604.06174. Blocks are the members of a network's `nn.ModuleList`s, which
is where residual and attention networks keep them, those of the Hugging Face libraries too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ray_pipeline.errors import JobError
from ray_pipeline.model.embedding import Embedding

Context = AbstractContextManager[None]


def inside_blocks(network: nn.Module, *, reentrant: bool = False) -> int:
    """Recompute inside each block of `network`, and say how many there are.

    `reentrant` runs the block again as a whole: parameters that DeepSpeed gathers for a moment
    are empty when torch's other way compares what was saved. Running means see a batch twice then.

    Raises:
        JobError: there are no blocks, or they would be run again as a whole for each of two texts.
    """
    if reentrant and isinstance(network, Embedding):
        # Each text's backward pass is one of its own, and DeepSpeed gives up a gradient after it.
        raise JobError(
            "zero3 cannot compute an embedding's blocks again: they run once for each text",
            where="train.checkpointing",
            expected="another strategy, or no checkpointing",
        )
    blocks = list(_blocks(network))
    for block in blocks:
        block.forward = (
            partial(_whole_again, block.forward)
            if reentrant
            else partial(
                checkpoint, block.forward, use_reentrant=False, context_fn=_contexts(block)
            )
        )
    if not blocks:
        raise JobError(
            "this network has no blocks to recompute",
            where="train.checkpointing",
            expected="a network with an nn.ModuleList, such as `resnet`",
            hint="raise train.accumulate to save memory",
        )
    return len(blocks)


def _whole_again(forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What `forward` returns, made again as a whole in the backward pass.

    torch does so only if one of the tensors `given` needs a gradient. Behind layers that are
    frozen, as those before LoRA's first addition are, none does: the block's own weights, which
    it does not look at, would learn nothing.
    """
    assert given, "a block takes its hidden states by position"
    if torch.is_grad_enabled() and not any(_needs_gradient(each) for each in given):
        first, *others = given
        given = (first.detach().requires_grad_(first.is_floating_point()), *others)
    return checkpoint(partial(forward, **named), *given, use_reentrant=True)


def _needs_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists: a block inside a block is part of it."""
    for child in module.children():
        if isinstance(module, nn.ModuleList):
            yield child
        else:
            yield from _blocks(child)


def _contexts(block: nn.Module) -> Callable[[], tuple[Context, Context]]:
    """What is around the forward pass, and around the one that makes it again."""
    return lambda: (nullcontext(), _statistics_kept(block))


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Running means and variances have seen the batch already: it weighs nothing this time."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
