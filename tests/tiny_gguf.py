"""A tiny language model as a GGUF file for llama.cpp, which always writes the same sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SPECIAL = ("<unk>", "<s>", "</s>", "<go>")
_WIDTH, _HEADS = 288, 9
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}<go>"


def saved(path: Path, sentence: str) -> str:
    """Write it, and return the path. Its layer does nothing, so that a token alone says which is
    the next: that of the sentence, from `<go>`, which ends each prompt, to its end."""
    import gguf

    words = [f"▁{word}" for word in sentence.split()]
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    kinds = [gguf.TokenType.NORMAL] * len(names)
    kinds[0], kinds[1:4] = gguf.TokenType.UNKNOWN, [gguf.TokenType.CONTROL] * 3
    kinds[4:260] = [gguf.TokenType.BYTE] * 256
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(names))
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_scores([0.0] * len(names))
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(_TEMPLATE)
    for name, weights in _weights(names, words).items():
        writer.add_tensor(f"{name}.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def _weights(names: list[str], words: list[str]) -> dict[str, np.ndarray]:
    said = [names.index("<go>"), *(names.index(word) for word in words), names.index("</s>")]
    embedded = np.eye(len(names), _WIDTH, dtype=np.float32)
    following = np.zeros_like(embedded)
    following[said[1:], said[:-1]] = 1
    square, ones = np.zeros((_WIDTH, _WIDTH), np.float32), np.ones(_WIDTH, np.float32)
    layer = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    return {
        "token_embd": embedded,
        "output_norm": ones,
        "output": following,
        **{f"blk.0.{name}": square for name in layer},
        **{f"blk.0.{name}": ones for name in ("attn_norm", "ffn_norm")},
    }
