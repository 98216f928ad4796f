"""Vectors of texts that are asked for again and again, such as sentences that are often quoted."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ray_pipeline.chat.retriever import Embed

MOST = 20_000
"""Texts whose vectors are kept, some 2 KB each."""


def remembered(embed: Embed, most: int = MOST) -> Embed:
    """`embed`, which is not asked again for the `most` texts that were wanted last."""
    held: OrderedDict[str, Any] = OrderedDict()
    changing = threading.Lock()

    def run(texts: Sequence[str]) -> Any:
        with changing:
            known = {text: held[text] for text in texts if text in held}
        if fresh := [text for text in dict.fromkeys(texts) if text not in known]:
            # Copies: a row would keep those that were made with it.
            known |= {text: row.copy() for text, row in zip(fresh, embed(fresh), strict=True)}
        with changing:
            for text in known:
                held[text] = known[text]
                held.move_to_end(text)
            while len(held) > most:
                held.popitem(last=False)
        return np.stack([known[text] for text in texts])

    return run
