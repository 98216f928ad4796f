"""Files for llama.cpp, read by llama.cpp: tiny models with random weights, of each layout and
tokenizer that is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ray_pipeline.data.matrices import PADDING
from ray_pipeline.data.statistics import TokenStatistics
from ray_pipeline.deploy import gguf_check, gguf_file, gguf_tokens
from ray_pipeline.job import Model
from ray_pipeline.model.inputs import Inputs
from ray_pipeline.model.language import Language

TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
MARKS = ["<|start|>", "<|end|>"]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.12,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
READ = {
    "llama": ("Llama", "smollm", {}),
    "its own output weights": ("Llama", "gpt-2", {"tie_word_embeddings": False}),
    "rows that 8 bits do not fit": ("Llama", "gpt-2", {"hidden_size": 80, "head_dim": 24}),
    "a theta and biases": (
        *("Llama", "llama-bpe"),
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
            "attention_bias": True,
        },
    ),
    "a vocabulary with room": ("Llama", "smollm", {"vocab_size": 512}),
    "qwen2": ("Qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", "qwen2", {"head_dim": 32}),
}
"""Of each case, the family, how texts are divided, and what else is said of the network."""


def tokenizer_of(division, template=TEMPLATE, begins=False):
    """A tokenizer whose pieces reach over words, so that it matters how texts are divided."""
    described, whole = gguf_tokens._DIVISIONS[division]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=MARKS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text[:40] for text in gguf_check._TEXTS] * 3, trainer)
    made.add_tokens(["<kept>"])
    if begins:
        made.post_processor = processors.TemplateProcessing("<|start|> $A", None, [(MARKS[0], 0)])
    content = json.loads(made.to_str())
    content["pre_tokenizer"], content["model"]["ignore_merges"] = described, whole
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        **dict(zip(("bos_token", "eos_token"), MARKS, strict=True)),
        chat_template=template,
    )


def network_in(folder, tokenizer, family="Llama", seed=0, **settings):
    """A network of transformers with random weights, saved there, as it is trained here."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")
    settings = {"vocab_size": len(tokenizer), **SIZES, **settings}
    made = getattr(transformers, f"{family}ForCausalLM")(config(**settings))
    for name, weights in made.named_parameters():
        if name.endswith("bias"):  # zeros at the start
            torch.nn.init.normal_(weights, std=0.3)
    made.save_pretrained(folder)
    read = TokenStatistics(name="asked", base=str(folder), tokenizer="", longest=60)
    inputs = Inputs(numbers=0, categories=(), outputs=1, tokens=read)
    return Language(Model(name="language"), inputs).eval()


def rows_of(tokenizer):
    """Three prompts with answers, prepared."""
    tokens, targets = np.full((3, 60), PADDING), np.full((3, 60), PADDING)
    for place, answer in enumerate(("gcc 12.3 with 1000", "I'll, you'RE", "русский  spaces")):
        asked = tokenizer.encode("How can I install it?", add_special_tokens=False)
        said = [*tokenizer.encode(answer, add_special_tokens=False), 1]
        tokens[place, : len(asked) + len(said)] = [*asked, *said]
        targets[place, len(asked) : len(asked) + len(said)] = said
    return {"tokens": tokens, "targets": targets, "label": (targets != PADDING).sum(1)}


def compared(folder, network, tokenizer, told=None):
    """What a check says of the file made from `folder` with the tokenizer that it is `told`."""
    told = told or tokenizer
    assert gguf_file.unfit(network.backbone.config, told) is None
    gguf_file.written(folder, network.backbone.config, told, folder / "model.gguf")
    return gguf_check.compared(folder / "model.gguf", network, tokenizer, rows_of(tokenizer))


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of("smollm")


@pytest.mark.parametrize("case", READ)
def test_llama_cpp_reads_what_transformers_reads(tmp_path, case):
    family, division, settings = READ[case]
    tokenizer = tokenizer_of(division)
    found = compared(tmp_path, network_in(tmp_path, tokenizer, family, **settings), tokenizer)
    assert found["tokens"] > 25, found
    assert 0 < found["difference"] < gguf_check.MAX_DIFFERENCE


@pytest.mark.parametrize("begins", [False, True])
def test_a_base_without_a_template_is_asked_as_it_was_taught(tmp_path, begins):
    tokenizer = tokenizer_of("gpt-2", template=None, begins=begins)
    found = compared(tmp_path, network_in(tmp_path, tokenizer), tokenizer)
    assert found["tokens"] > 25, found


@pytest.mark.parametrize("division", ["gpt-2", "llama-bpe", "qwen2"])
def test_a_file_that_divides_texts_in_another_way_is_refused(tmp_path, tokenizer, division):
    network = network_in(tmp_path, tokenizer)
    found = compared(tmp_path, network, tokenizer, told=tokenizer_of(division))
    assert "other tokens" in found["left_out"]


def test_a_file_with_another_template_is_refused(tmp_path, tokenizer):
    told = tokenizer_of("smollm", TEMPLATE.replace("assistant", "bot"))
    found = compared(tmp_path, network_in(tmp_path, tokenizer), tokenizer, told)
    assert "writes a chat" in found["left_out"]


def test_a_file_whose_template_llama_cpp_cannot_read_is_refused(tmp_path):
    tokenizer = tokenizer_of("smollm", TEMPLATE.replace("['role']", "['role'].casefold()"))
    found = compared(tmp_path, network_in(tmp_path, tokenizer), tokenizer)
    assert "left_out" in found


def test_a_file_whose_heads_are_not_turned_is_refused(tmp_path, tokenizer, monkeypatch):
    network = network_in(tmp_path, tokenizer, initializer_range=0.3)
    monkeypatch.setattr(gguf_file, "_TURNED", "")
    assert "losses of answers differ" in compared(tmp_path, network, tokenizer)["left_out"]


def test_a_file_of_another_network_is_refused(tmp_path, tokenizer):
    network = network_in(tmp_path, tokenizer)
    network_in(tmp_path, tokenizer, seed=1)
    assert "losses of answers differ" in compared(tmp_path, network, tokenizer)["left_out"]


def test_a_file_that_is_cut_is_refused(tmp_path, tokenizer):
    network = network_in(tmp_path, tokenizer)
    path = tmp_path / "model.gguf"
    gguf_file.written(tmp_path, network.backbone.config, tokenizer, path)
    path.write_bytes(path.read_bytes()[:-1000])
    found = gguf_check.compared(path, network, tokenizer, rows_of(tokenizer))
    assert found == {"left_out": "llama.cpp cannot open the file that was written"}


def lower_cased():
    content = json.loads(tokenizer_of("gpt-2").backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**content, "normalizer": {"type": "Lowercase"}}))


def of_words():
    return Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))


def divided_at_spaces():
    made = Tokenizer.from_str(tokenizer_of("gpt-2").backend_tokenizer.to_str())
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


@pytest.mark.parametrize("made", [lower_cased, of_words, divided_at_spaces])
def test_no_file_is_written_of_a_tokenizer_that_is_not_known(made):
    config = transformers.LlamaConfig(vocab_size=500)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made())
    assert "divides texts in a way" in gguf_file.unfit(config, tokenizer)


def test_a_tokenizer_is_known_as_its_makers_publish_it():
    """Qwen's own says otherwise where a piece stands in its text, and composes letters."""
    content = json.loads(tokenizer_of("qwen2").backend_tokenizer.to_str())
    content["pre_tokenizer"]["pretokenizers"][1]["trim_offsets"] = False
    made = Tokenizer.from_str(json.dumps({**content, "normalizer": {"type": "NFC"}}))
    assert gguf_tokens.division(PreTrainedTokenizerFast(tokenizer_object=made)) == "qwen2"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (transformers.GPT2Config(), "layout `gpt2` is none of llama, qwen2, qwen3"),
        (transformers.LlamaConfig(vocab_size=100), "has 401 tokens and it 100"),
        (
            transformers.LlamaConfig(rope_parameters={"rope_type": "linear", "factor": 2.0}),
            "scaled: `linear`",
        ),
        (
            transformers.Qwen2Config(use_sliding_window=True, sliding_window=64),
            "sliding window",
        ),
    ],
    ids=["layout", "tokens", "positions", "window"],
)
def test_no_file_is_written_of_a_model_that_is_not_known(tokenizer, config, why):
    assert why in gguf_file.unfit(config, tokenizer)
