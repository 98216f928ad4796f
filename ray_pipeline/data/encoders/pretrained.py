"""Pretrained encoders of texts, and language models, from transformers."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import Tensor, float32, nn

from ray_pipeline.errors import JobError


def backbone(base: str, where: str = "model.base") -> Any:
    """The encoder in a local folder or of a hub's id, which the job names at `where`; its weights
    are safetensors, not pickled.

    Raises:
        JobError: it cannot be loaded, or transformers is not installed.
    """
    network = _loaded("AutoModel", base, where)
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # it reads the first token alone, and would not be trained
    return network


def causal(base: str) -> Any:
    """As `backbone`, the language model that foretells each token from those before it."""
    return _loaded("AutoModelForCausalLM", base)


def scoring(base: str, where: str) -> Any:
    """As `backbone`, the cross-encoder that reads two texts together and says one number of them;
    the job names it at `where`.

    Raises:
        JobError: as `backbone`, or it says more than one number, or has no weights to say it by.
    """
    network, told = _loaded(
        "AutoModelForSequenceClassification", base, where, output_loading_info=True
    )
    outputs, missing = network.config.num_labels, sorted(told["missing_keys"])
    if missing or outputs != 1:
        fault = f"lacks the weights `{missing[0]}`" if missing else f"has {outputs} outputs"
        raise JobError(
            f"`{base}` is no cross-encoder: it {fault}",
            where=where,
            expected="a model for sequence classification with one output, such as "
            "cross-encoder/ms-marco-MiniLM-L6-v2",
        )
    return network


def reads_types(network: Any, base: str) -> bool:
    """Whether a model of `scoring` is told which of both texts each token is of: its tokenizer
    says so, and it listens."""
    from transformers import AutoTokenizer

    told = AutoTokenizer.from_pretrained(base, local_files_only=Path(base).is_dir())
    name = "token_type_ids"
    return name in told.model_input_names and name in inspect.signature(network.forward).parameters


def _loaded(kind: str, base: str, where: str = "model.base", **more: Any) -> Any:
    try:
        import transformers
    except ModuleNotFoundError:
        raise absent("transformers") from None
    local = Path(base).is_dir()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return getattr(transformers, kind).from_pretrained(
            base, local_files_only=local, use_safetensors=True, dtype=float32, **more
        )
    except (OSError, ValueError) as error:
        raise JobError(
            f"`{base}` cannot be loaded: {str(error).strip().splitlines()[0]}",
            where=where,
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
