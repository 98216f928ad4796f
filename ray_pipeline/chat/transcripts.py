"""Questions with right answers as transcripts that a language model learns from: what the chatbot
tells its own of each question, passages included, and then the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field

from ray_pipeline.chat import lines
from ray_pipeline.job.base import Settings

if TYPE_CHECKING:
    from ray_pipeline.chat.bot import Bot


class Answered(Settings):
    """A question and what is right; a line may say more of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)


def transcripts(bot: Bot, path: str) -> Iterator[dict[str, str]]:
    """For each line of the file at `path` its `question`, to divide rows by, and its `messages`, as
    the JSON that jobs of language models read. Passages are those that everybody may read, for a
    model cannot keep to itself what it has learnt.

    Raises:
        DataError: the file cannot be read, and in which line.
    """
    for _, one in lines.records(path, Answered):
        messages = [*bot.told(one.question), {"role": "assistant", "content": one.answer}]
        yield {"question": one.question, "messages": json.dumps(messages, ensure_ascii=False)}
