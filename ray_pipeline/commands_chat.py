"""What `chat` does: talk to a job's chatbot in the terminal, without an endpoint."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_pipeline.chat.bot import Bot


def chat(options: argparse.Namespace) -> None:
    """Ask a job's chatbot, a question on each line; who has its files may read all groups. Or write
    transcripts for a language model to learn from."""
    from ray_pipeline import bundle, jobfile, runs
    from ray_pipeline.chat.bot import Bot
    from ray_pipeline.chat.transcripts import transcripts
    from ray_pipeline.errors import UsageError

    job = jobfile.read(options.job, options.set)
    made = [one["bundle"] for one in runs.listed(job.storage, job.name) if one.get("bundle")]
    if job.chat is None or not made:
        raise UsageError(
            "there is no chatbot to ask",
            where=options.job,
            expected="a job with a `chat` section that was run",
            hint=f"ray-pipeline run {options.job}",
        )
    bot = Bot(bundle.opened(made[0]))
    if options.transcripts:
        for line in transcripts(bot, options.transcripts):
            print(json.dumps(line, ensure_ascii=False))
        return
    asking = sys.stdin.isatty()
    if asking:
        print("Ask; an empty line ends it.")
    for text in conversation(bot, _lines("> " if asking else ""), options.json):
        print(text, end="", flush=True)


def conversation(bot: Bot, questions: Iterable[str], as_json: bool = False) -> Iterator[str]:
    """What is printed for each question: the answer as it comes and its sources, or one JSON object
    a line."""
    from ray_pipeline.job.chat import PUBLIC

    groups = frozenset({PUBLIC, *bot.settings.access})
    before: list[str] = []
    for question in questions:
        completion = bot.completion(bot.manifest.name)
        for piece in bot.pieces(question, groups, before):
            text = completion.took(piece)
            if not as_json:
                yield text
        before = [*before, question][-3:]
        if as_json:
            yield json.dumps(completion.whole(question)) + "\n"
            continue
        for source in completion.sources():
            yield f"\n  [{source['number']}] {source['title']}\n      {source['url']}"
        yield "\n\n"


def _lines(prompt: str) -> Iterator[str]:
    """The questions, up to an empty line or the end."""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if not line:
            return
        yield line
