"""How soon does a chatbot answer, one chat at a time and 20 at once, beside a script of LangChain
and FastAPI on the same parts?

The same encoder, passages, prompt, budgets and, where a language model writes, the same file on one
thread; one replica beside one process of uvicorn (`_langchain.py`). The script finds by meaning
alone; ours finds by pieces of words, too, tells intents, and holds each sentence against the
passages before it is sent. In each round every server is started alone, warmed up, asked by one
client, then by 20 at once, and stopped; figures are medians over the rounds. Questions are of
`jobs/support_paraphrases.jsonl`, those that our chatbot does not refuse. Tokens are the encoder's.

`silence` is the longest that a client of 20 heard nothing, `by the model` the share of answers
whose words are the language model's: ours quotes where those would be too late, and where no
passage bears them out.

    make chats
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from _asked import newest_bundle
from _common import finish
from serve import running

from ray_pipeline import bundle as bundles
from ray_pipeline.chat.bot import Bot
from ray_pipeline.deploy.ports import free_ports
from ray_pipeline.job.chat import PUBLIC

PARAPHRASES = Path(__file__).parents[1] / "jobs" / "support_paraphrases.jsonl"
SERVERS = {"ours": "this project, one replica", "langchain": "LangChain + FastAPI + uvicorn"}
WARM, WITHIN_S = 4, 300


class Way(NamedTuple):
    """How answers are made: the job whose bundle it takes, how many are asked for one at a time,
    and how many by each client of those at once."""

    job: str
    alone: int
    each: int


WAYS = {"quotes": Way("support", 16, 6), "llama": Way("support_llama", 5, 1)}
Figures = dict[str, float]


class Heard(NamedTuple):
    """What a client heard of one answer, and when: seconds from asking to the first token, to the
    end, and the longest without a word."""

    text: str
    first_s: float
    total_s: float
    silent_s: float
    by: str
    """Whose words they are, as the server says."""


class Load(NamedTuple):
    """What is asked, by how many clients at once, and what counts an answer's tokens."""

    questions: Sequence[str]
    clients: int
    way: Way
    count: Callable[[str], int]


class Chats(NamedTuple):
    """What clients heard, the seconds until all had their answers, and how many failed."""

    heard: list[Heard]
    seconds: float
    failed: int


def main() -> None:
    options = _options()
    rows: list[dict[str, Any]] = []
    figures: dict[str, dict[str, Figures]] = {}
    found: Figures = {}
    for way in options.ways:
        bundle = newest_bundle(WAYS[way].job, options.storage)
        figures[way] = medians(way, bundle, options.rounds, options.clients)
        rows += [{"way": way, "server": kind, **taken} for kind, taken in figures[way].items()]
        found |= ratios(way, figures[way], options.clients)
    print(markdown(figures), "\n")
    packages = ("ray", "langchain-core", "fastapi", "uvicorn", "onnxruntime", "xllamacpp")
    finish("chat_serve", rows, found, figures, options.json, packages=packages)
    if any(of["ours"]["errors"] for of in figures.values()):
        sys.exit("chats of ours failed")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--storage", type=Path, help="where the jobs' bundles are")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=20, help="chats at once")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def medians(way: str, bundle: str, rounds: int, clients: int) -> dict[str, Figures]:
    """The figures of each server, which take turns."""
    bot = Bot(bundles.opened(bundle))
    load = Load(questions(bot), clients, WAYS[way], bot.count)
    taken: dict[str, list[Figures]] = {kind: [] for kind in SERVERS}
    for number in range(rounds):
        for kind, name in SERVERS.items():
            print(f"{way}, round {number + 1}: {name}", file=sys.stderr)
            taken[kind].append(measured(kind, bundle, load))
            print(json.dumps(taken[kind][-1]), file=sys.stderr, flush=True)
    return {
        kind: {name: statistics.median(one[name] for one in of) for name in of[0]}
        for kind, of in taken.items()
    }


def questions(bot: Bot) -> list[str]:
    """Those that passages are found for."""
    lines = PARAPHRASES.read_text(encoding="utf-8").splitlines()
    asked = [str(json.loads(line)["question"]) for line in lines]
    return [one for one in asked if any(piece.hits for piece in bot.pieces(one, (PUBLIC,)))]


def measured(kind: str, bundle: str, load: Load) -> Figures:
    key, port = f"rp_{secrets.token_urlsafe(32)}", free_ports(1)[0]
    turns = itertools.cycle(load.questions)
    with running(kind, bundle, port, key):
        server = Server(f"http://127.0.0.1:{port}/v1/chat/completions", key)
        server.chats([_next(turns, WARM)])
        alone = server.chats([_next(turns, load.way.alone)])
        crowd = server.chats([_next(turns, load.way.each) for _ in range(load.clients)])
    if not (alone.heard and crowd.heard):
        sys.exit(f"{kind} answered nothing")
    at = f"at {load.clients}"
    return {
        **_quantiles("first s alone", [one.first_s for one in alone.heard]),
        **_quantiles("total s alone", [one.total_s for one in alone.heard]),
        **_quantiles(f"first s {at}", [one.first_s for one in crowd.heard]),
        **_quantiles(f"total s {at}", [one.total_s for one in crowd.heard]),
        f"silence s {at}": max(one.silent_s for one in crowd.heard),
        f"answers/min {at}": 60 * len(crowd.heard) / crowd.seconds,
        f"tokens/s {at}": sum(load.count(one.text) for one in crowd.heard) / crowd.seconds,
        "by the model alone": statistics.mean(one.by == "llama" for one in alone.heard),
        f"by the model {at}": statistics.mean(one.by == "llama" for one in crowd.heard),
        "errors": alone.failed + crowd.failed,
    }


def _next(turns: Iterator[str], count: int) -> list[str]:
    return list(itertools.islice(turns, count))


class Server:
    """A server of OpenAI's protocol that is asked for streamed answers."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._headers = url, {"Authorization": f"Bearer {key}"}

    def chats(self, asked: Sequence[Sequence[str]]) -> Chats:
        """What clients hear, each of which asks its questions one after the other."""
        return asyncio.run(self._chats(asked))

    async def _chats(self, asked: Sequence[Sequence[str]]) -> Chats:
        async with httpx.AsyncClient(headers=self._headers, timeout=WITHIN_S) as client:
            begun = time.perf_counter()
            told = await asyncio.gather(*(self._one(client, own) for own in asked))
            seconds = time.perf_counter() - begun
        every = list(itertools.chain.from_iterable(told))
        failed = [one for one in every if isinstance(one, str)]
        for what in sorted(set(failed)):
            print(f"{failed.count(what)} failed: {what}", file=sys.stderr)
        return Chats([one for one in every if isinstance(one, Heard)], seconds, len(failed))

    async def _one(self, client: httpx.AsyncClient, own: Sequence[str]) -> list[Heard | str]:
        return [await self._asked(client, question) for question in own]

    async def _asked(self, client: httpx.AsyncClient, question: str) -> Heard | str:
        """What is heard, or what failed."""
        messages = [{"role": "user", "content": question}]
        body = {"model": "model", "messages": messages, "stream": True}
        begun = last = time.perf_counter()
        first, silent, text, by = 0.0, 0.0, "", ""
        try:
            async with client.stream("POST", self._url, json=body) as answer:
                if answer.status_code != 200:
                    return f"{answer.status_code} {(await answer.aread())[:200]!r}"
                async for line in answer.aiter_lines():
                    now = time.perf_counter()
                    silent, last = max(silent, now - last), now
                    if line == "data: [DONE]":
                        return Heard(text, first, now - begun, silent, by)
                    for chunk in _chunks(line):
                        if "error" in chunk:
                            return str(chunk)
                        text += chunk["choices"][0]["delta"].get("content") or ""
                        first = first or (now - begun if text else 0.0)
                        by = chunk.get("answered_by", by)
        except httpx.HTTPError as error:
            return type(error).__name__
        return "it broke off"


def _chunks(line: str) -> Iterator[dict[str, Any]]:
    """The chunk in a line, if there is one; comments say that an answer waits."""
    if line.startswith("data: "):
        yield json.loads(line.removeprefix("data: "))


def _quantiles(name: str, values: Sequence[float]) -> Figures:
    p50, p95 = np.percentile(values, (50, 95))
    return {f"{name}, p50": float(p50), f"{name}, p95": float(p95)}


def ratios(way: str, figures: dict[str, Figures], clients: int) -> Figures:
    """How many times sooner ours says its first token, and how many times as much it answers."""
    ours, theirs = figures["ours"], figures["langchain"]
    first, answers = "first s {}, p50", f"answers/min at {clients}"
    alone, together = first.format("alone"), first.format(f"at {clients}")
    name = f"{way}: chat/langchain"
    return {
        f"{name} first_token": theirs[alone] / ours[alone],
        f"{name} first_token at {clients}": theirs[together] / ours[together],
        f"{name} answers_per_minute at {clients}": ours[answers] / theirs[answers],
    }


def markdown(figures: dict[str, dict[str, Figures]]) -> str:
    """A table of all figures, a column for each way and server."""
    columns = {f"{way}, {kind}": taken for way, of in figures.items() for kind, taken in of.items()}
    heads = ["", *columns]
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for name in next(iter(columns.values())):
        cells = " | ".join(f"{taken[name]:.3g}" for taken in columns.values())
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
