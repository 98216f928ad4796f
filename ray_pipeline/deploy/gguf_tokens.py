"""A tokenizer of transformers as llama.cpp's files hold it."""

from __future__ import annotations

import json
from typing import Any

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 and Qwen divide texts into words, but for how many digits stand together."""
_ASKED_PLAINLY = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""What a base without a template of its own was taught: an answer stands on the line after."""


def _bytes(regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": regex,
    }


def _sequence(first: dict[str, Any], regex: bool) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": [first, _bytes(regex)]}


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


_DIVISIONS: dict[str, tuple[dict[str, Any], bool]] = {
    "gpt-2": (_bytes(True), False),
    "smollm": (_sequence({"type": "Digits", "individual_digits": True}, True), False),
    "llama-bpe": (_sequence(_split(_WORDS % "{1,3}"), False), True),
    "qwen2": (_sequence(_split(_WORDS % ""), False), False),
}
"""By llama.cpp's names for them, how texts are divided before pieces are joined, as tokenizer.json
has it, and whether a word that is a token itself is one without being joined."""


def division(tokenizer: Any) -> str | None:
    """What llama.cpp calls the way in which this tokenizer of transformers divides texts; None if
    it is none of those that are known here."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    model, normalizer = described["model"], described["normalizer"]
    # NFC leaves almost all texts as they are; llama.cpp does without it.
    if normalizer not in (None, {"type": "NFC"}) or model["type"] != "BPE":
        return None
    if model["byte_fallback"] or model["dropout"]:
        return None
    found = _told(described["pre_tokenizer"]), model["ignore_merges"]
    return next((name for name, known in _DIVISIONS.items() if known == found), None)


def _told(division: Any) -> Any:
    """How texts are divided, but for where in its text a piece is then said to stand."""

    def alike(part: dict[str, Any]) -> dict[str, Any]:
        return {key: value or key == "trim_offsets" for key, value in part.items()}

    return json.loads(json.dumps(division), object_hook=alike)


def add(writer: Any, tokenizer: Any, size: int) -> None:
    """Add the tokenizer to gguf's writer, with tokens without a use up to the model's `size`."""
    import gguf

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    names = {place: f"[PAD{place}]" for place in range(size)}
    kinds = dict.fromkeys(range(size), gguf.TokenType.UNUSED)
    for name, place in described["model"]["vocab"].items():
        names[place], kinds[place] = name, gguf.TokenType.NORMAL
    for token in described["added_tokens"]:
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        names[token["id"]], kinds[token["id"]] = token["content"], kind
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(division(tokenizer))
    writer.add_token_list([names[place] for place in sorted(names)])
    writer.add_token_types([kinds[place] for place in sorted(kinds)])
    writer.add_token_merges([" ".join(pair) for pair in described["model"]["merges"]])
    for name in ("bos", "eos", "unk", "pad"):
        place = getattr(tokenizer, f"{name}_token_id")
        if place is not None:
            getattr(writer, f"add_{name}_token_id")(place)
    around = tokenizer.backend_tokenizer.encode("").ids
    writer.add_add_bos_token(tokenizer.bos_token_id in around[:1])
    writer.add_add_eos_token(tokenizer.eos_token_id in around[1:])
    writer.add_chat_template(tokenizer.chat_template or _ASKED_PLAINLY)
