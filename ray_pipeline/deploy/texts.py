"""The texts of requests and of files, as the tokens that a bundle's graph reads."""

from __future__ import annotations

import json

from ray_pipeline.bundle import Bundle
from ray_pipeline.data.encoders.tokens import FILE, reading
from ray_pipeline.data.statistics import Statistics, TokenStatistics

__all__ = ["columns_of", "files_of", "reading", "tokenized"]

STATISTICS = "statistics.json"


def tokenized(statistics: Statistics) -> tuple[TokenStatistics, ...]:
    """The columns that a graph is given as tokens: those of the network, or of an encoder before
    it."""
    return (*statistics.sentences, *([statistics.tokens] if statistics.tokens else []))


def files_of(statistics: Statistics) -> dict[str, str]:
    """The texts of `statistics.json` and of the tokenizers beside it, which it names."""
    contents = list(dict.fromkeys(column.tokenizer for column in tokenized(statistics)))
    names = [FILE, *(f"tokenizer-{number}.json" for number in range(1, len(contents)))]
    named = dict(zip(contents, names, strict=False))

    def apart(column: TokenStatistics) -> TokenStatistics:
        return column.model_copy(update={"tokenizer": named[column.tokenizer]})

    told = statistics.model_copy(
        update={
            "sentences": tuple(map(apart, statistics.sentences)),
            "tokens": statistics.tokens and apart(statistics.tokens),
        }
    )
    texts = {name: content for content, name in named.items()}
    return {STATISTICS: told.model_dump_json(indent=1), **texts}


def columns_of(bundle: Bundle) -> list[TokenStatistics]:
    """The columns that a bundle's graph is given as tokens, with their tokenizers."""
    if STATISTICS not in bundle.manifest.files:
        return []
    found = json.loads((bundle.path / STATISTICS).read_text(encoding="utf-8"))
    fields = TokenStatistics.model_fields
    columns = [*found.get("sentences", ()), *([found["tokens"]] if found.get("tokens") else [])]
    return [
        TokenStatistics(
            **{name: value for name, value in column.items() if name in fields}
            | {"tokenizer": (bundle.path / column["tokenizer"]).read_text(encoding="utf-8")}
        )
        for column in columns
    ]
