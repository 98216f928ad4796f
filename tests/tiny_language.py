"""A tiny Llama with random weights, a tokenizer trained on a few words and a chat template, as a
folder; and questions with answers that it can learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
PACKAGES = ("apt", "bash", "cups", "dpkg", "emacs", "gcc", "htop", "inkscape", "less", "mutt")
TASKS = {
    "install": "Run apt install {} as root.",
    "remove": "Run apt remove {} as root.",
    "update": "Run apt update and then apt upgrade {} as root.",
    "read about": "Read the page that man {} shows.",
}


def saved(folder: Path, template: str = TEMPLATE) -> str:
    """Write it, and return the folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [" ".join(pair) for pair in zip(*asked(400), strict=True)], trainer
    )
    marks = {"bos_token": "<|start|>", "eos_token": "<|end|>", "chat_template": template}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{name: mark for name, mark in marks.items() if mark}
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,  # else frozen embeddings could tell no token from another
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def asked(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Questions and their answers; no two questions are equal."""
    rng = np.random.default_rng(seed)
    tasks, packages = rng.choice(list(TASKS), count), rng.choice(PACKAGES, count)
    questions = [
        f"How can I {task} {package}, case {place}?"
        for place, (task, package) in enumerate(zip(tasks, packages, strict=True))
    ]
    pairs = zip(tasks, packages, strict=True)
    return questions, [TASKS[task].format(package) for task, package in pairs]


def transcript(*said: str) -> str:
    """A chat as JSON; the user speaks first."""
    roles = ("user", "assistant")
    return json.dumps([{"role": roles[i % 2], "content": text} for i, text in enumerate(said)])
