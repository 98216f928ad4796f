"""Questions and passages that belong together by a word that an encoder has yet to learn of."""

from __future__ import annotations

import numpy as np
import tiny_encoder

TOPICS = ("tea", "food", "milk", "taste", "good", "bad")
"""What a question asks about; its passage speaks of the next of them."""


def asked(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Questions about one or two topics, and passages with the topics that follow them."""
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.integers(0, len(TOPICS), (count, 2)), axis=1)
    fill = rng.choice(("the", "a", "was", "with"), (count, 3))
    questions = [
        " ".join([*words, *(TOPICS[at] for at in topics)])
        for topics, words in zip(drawn, fill, strict=True)
    ]
    passages = [" ".join(TOPICS[(at + 1) % len(TOPICS)] for at in topics) for topics in drawn]
    return questions, passages


saved = tiny_encoder.saved
