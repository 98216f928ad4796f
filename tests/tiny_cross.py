"""A tiny BERT that reads two texts together and scores them, as a folder.

Nothing is trained: its weights are set, such that it counts. In the first layer each word of the
second text looks for itself in the first, in the second layer the text's beginning looks at how
many found themselves. So what it says grows with the share of the second text's words that the
first has, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_CLS = 2
_SHARP = 30.0
"""How much a look at what is looked for outweighs one at anything else."""


def saved(folder: Path, words: Sequence[str], outputs: int = 1, typed: bool = True) -> str:
    """Write one that knows these words, and return the folder. It has so many `outputs`, and is
    told which text each word is of, or not, as a model of a family that knows no types."""
    import torch

    names = (*SPECIAL, *words)
    _tokenizer(names, typed).save_pretrained(folder)
    torch.manual_seed(0)
    network = _network(len(names), outputs)
    with torch.no_grad():
        _set(network, len(names))
    network.save_pretrained(folder)
    return str(folder)


def _tokenizer(names: Sequence[str], typed: bool) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    known = {name: place for place, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", _CLS), ("[SEP]", 3)],
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    read = ["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=read, **marks)


def _network(names: int, outputs: int) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=names,
        hidden_size=names + 4,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=4,
        max_position_embeddings=66,
        num_labels=outputs,
    )
    return BertForSequenceClassification(config)


def _set(network: Any, names: int) -> None:
    """The hidden state is a word, at its own place, and then whether it is of the first text,
    whether it is of the second, whether it was found, and whether it was not: so that all have
    the same length, which they are divided by."""
    import torch

    first, second, was_found, was_not = range(names, names + 4)
    scale = network.config.hidden_size**0.5  # that attention divides by
    read = network.bert.embeddings
    for table in (read.word_embeddings, read.token_type_embeddings, read.position_embeddings):
        table.weight.zero_()
    read.word_embeddings.weight[:, :names] = torch.eye(names)
    read.token_type_embeddings.weight[0, first] = 1
    read.token_type_embeddings.weight[1, second] = 1
    looks, counts = network.bert.encoder.layer
    for layer in (looks, counts):
        mine = layer.attention
        linear = (mine.self.query, mine.self.key, mine.self.value, mine.output.dense)
        for each in (*linear, layer.intermediate.dense, layer.output.dense):
            each.weight.zero_()
            each.bias.zero_()
    mine = looks.attention
    sharp = (_SHARP * scale) ** 0.5
    for place in range(len(SPECIAL), names):
        mine.self.query.weight[place, place] = mine.self.key.weight[place, place] = sharp
    mine.self.query.weight[second, second] = mine.self.key.weight[second, first] = sharp
    # Who finds nothing looks at the beginning, which is nobody.
    mine.self.query.bias[was_found] = mine.self.key.weight[was_found, _CLS] = (1.2**0.5) * sharp
    mine.self.value.weight[was_found, first] = 1
    mine.self.value.weight[was_found, _CLS] = -1
    mine.self.value.weight[was_not, _CLS] = 1
    mine.self.value.bias[was_not] = (2 / (network.config.hidden_size - 2)) ** 0.5  # of nought
    for place in (was_found, was_not):
        mine.output.dense.weight[place, place] = 1
    mine = counts.attention
    mine.self.query.bias[second] = mine.self.key.weight[second, second] = sharp
    mine.self.value.weight[was_found, was_found] = 1
    mine.output.dense.weight[was_found, was_found] = 1
    network.bert.pooler.dense.weight.zero_()
    network.bert.pooler.dense.bias.zero_()
    network.bert.pooler.dense.weight[0, was_found] = 0.5
    network.classifier.weight.zero_()
    network.classifier.bias.zero_()
    network.classifier.weight[:, 0] = 10
