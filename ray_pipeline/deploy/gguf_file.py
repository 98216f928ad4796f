"""A language model in a folder of transformers as one GGUF file, which llama.cpp runs on CPUs.

llama.cpp's own converter is a script of its repository; the package `gguf` writes such files but
reads no models. This is as much of it as models of Llama's layout need.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.deploy import gguf_tokens

_LAYOUTS = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
"""From a model's type to what `gguf` calls its architecture."""
_TURNED = "llama"
"""Whose queries and keys llama.cpp rotates in neighbouring pairs, and transformers in halves."""


def unfit(config: Any, tokenizer: Any) -> str | None:
    """Why a model of this configuration and tokenizer of transformers is not written; None if it
    can be."""
    if config.model_type not in _LAYOUTS:
        return f"the layout `{config.model_type}` is none of {', '.join(_LAYOUTS)}"
    if config.rope_parameters["rope_type"] != "default":
        return f"its positions are scaled: `{config.rope_parameters['rope_type']}`"
    if getattr(config, "sliding_window", None):
        return "it reads texts through a sliding window"
    if len(tokenizer) > config.vocab_size:
        return f"its tokenizer has {len(tokenizer):,} tokens and it {config.vocab_size:,}"
    if gguf_tokens.division(tokenizer) is None:
        return "its tokenizer divides texts in a way that is not known here"
    return None


def written(folder: Path, config: Any, tokenizer: Any, path: Path) -> None:
    """Write the model whose safetensors are in `folder` to `path`: matrices in 8 bits (Q8_0), one
    scale for each 32 weights, all else in float32. It is one that is not `unfit`."""
    import gguf
    from safetensors import safe_open

    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _describe(writer, config)
    gguf_tokens.add(writer, tokenizer, config.vocab_size)
    kind = gguf.MODEL_ARCH[_LAYOUTS[config.model_type]]
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - it is no dict
            stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert stored is not None, name
            values = _turned(weights.get_tensor(name).float().numpy(), name, config)
            form = _form(values)
            writer.add_tensor(stored, gguf.quantize(values, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: Any) -> None:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _turned(values: NDArray[Any], name: str, config: Any) -> NDArray[Any]:
    """The weights in llama.cpp's order: of each head's outputs, the two that are rotated together
    stand side by side."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    part = name.split(".")[-2]
    if config.model_type != _TURNED or part not in heads:
        return values
    halves = values.reshape(heads[part], 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _form(values: NDArray[Any]) -> Any:
    """8 bits for matrices; 16 if their rows are no multiple of 32 weights."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if values.ndim < 2:
        return kinds.F32
    return kinds.F16 if values.shape[-1] % 32 else kinds.Q8_0
