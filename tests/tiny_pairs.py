"""Questions and passages that belong together by a word that an encoder has yet to learn of."""

from __future__ import annotations

import numpy as np
import tiny_encoder

TOPICS = ("tea", "food", "milk", "taste", "good", "bad")
"""What a question asks about; its passage speaks of the next of them."""


def asked(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Questions about one or two topics, and passages with the topics that follow them."""
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(len(TOPICS), 2) for _ in range(count)]
    fill = [" ".join(rng.choice(("the", "a", "was", "with"), 3)) for _ in range(count)]
    questions = [
        f"{words} {' '.join(TOPICS[at] for at in topics)}"
        for topics, words in zip(drawn, fill, strict=True)
    ]
    passages = [
        " ".join(TOPICS[(at + 1) % len(TOPICS)] for at in topics) + " was" for topics in drawn
    ]
    return questions, passages


saved = tiny_encoder.saved
