"""A tiny BERT with random weights and a tokenizer of a few words, as a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

WORDS = ("good", "bad", "tea", "food", "the", "a", "was", "taste", "with", "milk")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def saved(folder: Path, words: Sequence[str] = WORDS) -> str:
    """Write one that knows these words, and return the folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    names = (*SPECIAL, *words)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


def reviews(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts of 1 to 20 words, and whether each has more of `good` than of `bad`."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 21))) for _ in range(count)]
    words = [text.split() for text in texts]
    return texts, ["yes" if w.count("good") > w.count("bad") else "no" for w in words]
