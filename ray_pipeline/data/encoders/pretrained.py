"""Pretrained encoders of texts, and language models, from transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, float32, nn

from ray_pipeline.errors import JobError


def backbone(base: str) -> Any:
    """The encoder in a local folder or of a hub's id; its weights are safetensors, not pickled.

    Raises:
        JobError: it cannot be loaded, or transformers is not installed.
    """
    network = _loaded("AutoModel", base)
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # it reads the first token alone, and would not be trained
    return network


def causal(base: str) -> Any:
    """As `backbone`, the language model that foretells each token from those before it."""
    return _loaded("AutoModelForCausalLM", base)


def _loaded(kind: str, base: str) -> Any:
    try:
        import transformers
    except ModuleNotFoundError:
        raise absent("transformers") from None
    local = Path(base).is_dir()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return getattr(transformers, kind).from_pretrained(
            base, local_files_only=local, use_safetensors=True, dtype=float32
        )
    except (OSError, ValueError) as error:
        raise JobError(
            f"`{base}` cannot be loaded: {str(error).strip().splitlines()[0]}",
            where="model.base",
            expected="a folder or a hub's id with config.json and model.safetensors",
        ) from error


def pooled_mean(network: nn.Module, tokens: Tensor) -> Tensor:
    """The mean [N, width] of the hidden states of each text's tokens [N, T], -1 after its end."""
    mask = (tokens >= 0).long()
    hidden: Tensor = network(input_ids=tokens.clamp(min=0), attention_mask=mask).last_hidden_state
    weight = mask.unsqueeze(2).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


def absent(library: str) -> JobError:
    return JobError(
        f"{library} is not installed",
        where="a pretrained encoder",
        hint="pip install 'ray-pipeline[text]'",
    )
