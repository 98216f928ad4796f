"""Load comes and goes at a chatbot on Ray Serve: what becomes of its questions, and how many
replicas its parts have. Its encoder is a slow one."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import httpx
import pytest
import tiny_gguf

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

import spoiled_bundles
from releases import waited

from ray_pipeline import bundle

JOB = """
name: scullery
storage: storage
data: {source: pages}
chat:
  encoder: base
  generate: {by: llama, model: tiny.gguf, first_s: 2}
  judge: {confidence: 0.0, answers: 0}
evaluate: {bootstrap: 0}
"""
SENTENCE = "Tea was good with milk."
PAGES = {"tea.md": f"# Kitchen\n\n## How is tea made?\n\n{SENTENCE} The food was bad.\n"}
SETTINGS = (
    *("replicas.max=1", "max_ongoing_requests=8", "max_queued_requests=8"),
    *("apart.encoder.replicas.max=2", "apart.generator.replicas={min: 0, max: 1}"),
    *("upscale_delay_s=0", "downscale_delay_s=1"),
)
PATHS = ("/v1/chat/completions", "/scullery/v1/chat/completions")
NUMBERS = count()


@pytest.fixture(scope="module")
def released(site, tmp_path_factory):
    folder = site.chat_job(tmp_path_factory.mktemp("scullery"), JOB, PAGES)
    tiny_gguf.saved(folder / "tiny.gguf", SENTENCE)
    made = site.printed("run", "chat.yaml", "--until", "export", "--json", folder=folder)
    slow = partial(spoiled_bundles.slow, side=1500)
    spoiled = spoiled_bundles.version(
        bundle.opened(made["bundle"]), folder / "slow", "slow", slow, "encoder.onnx"
    )
    settings = [f"--set={setting}" for setting in (f"port={site.port}", *SETTINGS)]
    yield site.printed("deploy", spoiled.path, *settings, "--json")
    site.command(folder, "remove", "scullery")


@pytest.fixture
def asked(released, site):
    """The answer to a new question, which is streamed or not."""

    def answer(path=PATHS[0], stream=False):
        # Vectors of questions are remembered.
        messages = [{"role": "user", "content": f"How is tea made {next(NUMBERS)}?"}]
        body = {"model": "scullery", "messages": messages, "stream": stream}
        headers = {"X-API-Key": site.key}
        return httpx.post(f"{site.url}{path}", json=body, headers=headers, timeout=120)

    return answer


@contextmanager
def load(asked, chats):
    """So many ask one question after the other until the block ends; how often whose words came."""
    ended, told = threading.Event(), Counter()

    def ask():
        while not ended.is_set():
            told[asked().raise_for_status().json()["answered_by"]] += 1

    with ThreadPoolExecutor(chats) as threads:
        asking = [threads.submit(ask) for _ in range(chats)]
        try:
            yield told
        finally:
            ended.set()
    assert [one.result() for one in asking] == [None] * chats


def test_parts_come_and_go_with_the_load(asked, site):
    encoders, generators = (partial(site.replicas, "scullery", p) for p in ("encoder", "generator"))
    waited(lambda: not generators())  # the release has asked a question, too
    assert len(encoders()) == 1
    assert asked().json()["answered_by"] == "extractive"
    waited(generators)
    with load(asked, 8) as told:
        waited(lambda: told["llama"])
        waited(lambda: len(encoders()) == 2)
    assert set(told) <= {"llama", "extractive"}
    waited(lambda: len(encoders()) == 1 and not generators())


def is_whole(answer):
    """Whether an answer has come to its end, and says something."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return SENTENCE in answer.json()["choices"][0]["message"]["content"]
    *events, last = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    return last == "[DONE]" and SENTENCE in "".join(delta.get("content", "") for delta in deltas)


@pytest.mark.parametrize("path", PATHS)
def test_more_than_it_bears_are_told_to_come_back(asked, path):
    with ThreadPoolExecutor(40) as chats:
        asking = [chats.submit(asked, path, stream=number % 2 == 0) for number in range(40)]
    answers = [one.result() for one in asking]
    refused = [answer for answer in answers if answer.status_code == 429]
    answered = [answer for answer in answers if answer.status_code == 200]
    assert len(refused) + len(answered) == 40
    assert refused  # how many, hangs on how fast they come and are answered
    assert answered
    assert all(map(is_whole, answered))
    assert {answer.json()["error"]["code"] for answer in refused} == {"busy"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    for stream in (False, True):
        assert is_whole(asked(path, stream).raise_for_status())
