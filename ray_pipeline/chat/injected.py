"""Sentences of documents that speak to a language model instead of to readers.

They are known by their wording. That stops the instructions that are copied about, not somebody who
takes pains: other languages, other spellings and plain lies are not found. `judge.attacks` measures
how far it goes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ray_pipeline.chat.words import sentences

_BETWEEN = r"(?:\W+\w+){0,4}?\W+"
_RULES = r"(?:instructions?|rules?|prompts?|guidelines?|polic(?:y|ies)|question|everything)"
_MODEL = r"(?:ai|assistants?|chat ?bots?|(?:large )?language models?|llm)"
_PATTERNS = (
    # What it was told is to count no more.
    rf"\b(?:ignore|disregard|forget|override|bypass|supersedes?){_BETWEEN}{_RULES}\b",
    r"\bnew (?:instructions?|task|role|rules)\b.{0,20}(?::|\bis\b)",
    # Who it is to be.
    r"\byou are (?:now (?:an?|the|my|in|dan)|in \w+ mode)\b",
    r"\b(?:pretend|act)(?:ing)? (?:to be|as if|as though)\b",
    r"\b(?:developer|jailbreak|god) mode\b|\bsystem prompt\b",
    # What it is to say.
    r"\bfrom now on,? you\b|\b(?:reply|respond|answer)(?: only)? with(?: exactly| only)?\b",
    r"\b(?:say|print|output|write) \S+ (?:first|and nothing else|instead)\b",
    rf"\bas an? {_MODEL}\b|\b(?:to|dear) (?:the )?{_MODEL}\b|^{_MODEL}\s*[:,]",
    rf"\b(?:the|an|any) {_MODEL} (?:reading|that reads|must|should|has to)\b",
    # The marks between turns of a conversation.
    r"<\|\w+\|>|\[/?inst\]|<</?sys>>|^\W*(?:system|assistant)\s*:|\"role\"\s*:\s*\"system\"",
    r"###\s*(?:instruction|system|response)",
    # A picture or link that carries what was said to somebody else.
    r"!\[[^\]]*\]\([^)]*\?[^)]*\)",
)
_TOLD = re.compile(
    "|".join(f"(?:{pattern})" for pattern in _PATTERNS), re.IGNORECASE | re.MULTILINE
)


class Cleared(NamedTuple):
    """Blocks without such sentences, and the sentences."""

    blocks: tuple[str, ...]
    removed: list[str]


def cleared(blocks: Sequence[str]) -> Cleared:
    """Blocks of a section without the sentences that speak to a language model; a block of nothing
    else is left out."""
    kept, removed = [], []
    for block in blocks:
        parts = sentences(block)
        told = [part for part in parts if _TOLD.search(part)]
        rest = [part for part in parts if part not in told]
        removed += told
        if rest or not told:
            kept.append(" ".join(rest) if told else block)
    return Cleared(tuple(kept), removed)
