"""The loss of texts that are to find each other: in a batch, only a question's own passage is
right.

Multiple negatives ranking, Henderson et al., "Efficient Natural Language Response Suggestion for
Smart Reply" (2017), https://arxiv.org/abs/1705.00652, section 4.4, with a temperature as in
InfoNCE, van den Oord et al. (2018), https://arxiv.org/abs/1807.03748.

Shape letters: N questions of this worker, P passages of it, of which the first N are the
questions' own; M passages of all workers; W a vector's width.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy

FACTOR = 0x9E3779B1
"""Odd: a text's mark is the sum of its tokens by powers of it."""


def losses(questions: Tensor, passages: Tensor, marks: Tensor, temperature: float) -> Tensor:
    """Of each question [N, 2] the loss, and whether its own passage is nearest to it.

    -log of the share of exp(similarity / temperature) that `questions` [N, W] have with their own
    among the `passages` [P, W], vectors of length 1. Where something is learned, these are the
    passages of all workers, so that workers learn what one would from the whole batch. `marks` [P]
    tell passages apart: the same one again is no wrong one.
    """
    first = 0
    if torch.is_grad_enabled() and dist.is_initialized() and dist.get_world_size() > 1:
        first = dist.get_rank() * len(passages)
        passages, marks = _of_all(passages), _of_all(marks)
    own = first + torch.arange(len(questions), device=questions.device)
    with torch.autocast(questions.device.type, enabled=False):
        logits = questions.float() @ passages.float().T / temperature  # [N, M]
    again = marks[own][:, None] == marks[None]
    again[torch.arange(len(own), device=own.device), own] = False
    logits = logits.masked_fill(again, -torch.inf)
    hits = logits.argmax(1) == own
    return torch.stack([cross_entropy(logits, own, reduction="none"), hits.to(logits.dtype)], 1)


def marks(tokens: Tensor) -> Tensor:
    """A number [N] for each text [N, T], the same for equal ones however much padding they have,
    and almost surely for no others."""
    place = torch.arange(tokens.shape[1], device=tokens.device, dtype=torch.int64)
    mixed = (tokens.long() + 1) * FACTOR
    mixed = (mixed ^ (mixed >> 15)) * (2 * place + 1) * FACTOR  # 64 bits, which wrap
    return torch.where(tokens >= 0, mixed ^ (mixed >> 29), 0).sum(1)


def _of_all(values: Tensor) -> Tensor:
    """The values of all workers, in the order of their ranks; gradients flow back to each's own."""
    if not values.requires_grad:
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(values.contiguous()))  # type: ignore[no-untyped-call]
